"""The receive side of SCTP: messages put together whatever the order, memory bounded whatever comes."""

from __future__ import annotations

import random

import pytest

from transfer.sctp.packet import BEGIN, END, unpack_sack
from transfer.sctp.receiving import DELAY, OVERHEAD, SLACK, Message, Receiver, Violation

FIRST = (1 << 32) + 0xFFFFFFF0
WHOLE = BEGIN | END


def receiver(window: int = 1 << 20, largest: int = 1 << 16) -> Receiver:
    return Receiver(FIRST, window, largest)


def pieces(messages: list[bytes], size: int) -> list[tuple[int, int, bytes]]:
    """(TSN, flags, payload) of each piece."""
    found: list[tuple[int, int, bytes]] = []
    for message in messages:
        for at in range(0, len(message), size):
            flags = (BEGIN if at == 0 else 0) | (END if at + size >= len(message) else 0)
            found.append((FIRST + len(found), flags, message[at : at + size]))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_messages_come_out_whole_and_in_order_whatever_order_they_came_in(seed: int) -> None:
    seeded = random.Random(seed)
    messages = [seeded.randbytes(seeded.randrange(1, 400)) for _ in range(40)]
    queue = pieces(messages, 50)
    came = queue + seeded.sample(queue, 20)
    seeded.shuffle(came)
    end = receiver()
    for tsn, flags, payload in came:
        end.data(tsn, flags, 3, 53, payload)
    assert end.arrived == [Message(3, 53, message) for message in messages]
    assert end.cumulative == FIRST + len(queue) - 1
    for message in end.arrived:
        end.taken(message)
    sack = unpack_sack(end.sack(1000, 0.0)[4:])
    assert (sack.window, sack.gaps) == (1 << 20, ())
    assert 0 < sack.duplicates <= 8


def test_gaps_are_stated_as_they_are() -> None:
    end = receiver()
    for offset in (0, 3, 7, 5, 4, 9):
        end.data(FIRST + offset, WHOLE, 0, 53, b"x")
    assert unpack_sack(end.sack(1000, 0.0)[4:]).gaps == ((3, 5), (7, 7), (9, 9))
    end.data(FIRST + 6, WHOLE, 0, 53, b"x")
    assert unpack_sack(end.sack(1000, 0.0)[4:]).gaps == ((3, 7), (9, 9))


def test_a_lone_packet_is_acknowledged_late_and_a_second_at_once() -> None:
    end = receiver()
    assert end.due(5.0) is None
    end.data(FIRST, WHOLE, 0, 53, b"x")
    assert end.due(5.0) == 5.0 + DELAY
    assert end.due(5.01) == 5.0 + DELAY
    end.data(FIRST + 1, WHOLE, 0, 53, b"x")
    assert end.due(5.01) == 5.01
    end.sack(1000, 0.0)
    assert end.due(6.0) is None


@pytest.mark.parametrize("offset", [2, -1])
def test_a_gap_and_a_duplicate_are_acknowledged_at_once(offset: int) -> None:
    end = receiver()
    end.data(FIRST, WHOLE, 0, 53, b"x")
    end.sack(1000, 0.0)
    end.data(FIRST + 1 + offset, WHOLE, 0, 53, b"x")
    assert end.due(5.0) == 5.0


def test_the_window_closes_and_opens_and_nothing_beyond_it_is_kept() -> None:
    end = receiver(window=10_000)
    tsn = FIRST
    while True:
        before = end.cumulative
        end.data(tsn, WHOLE, 0, 53, bytes(1000))
        if end.cumulative == before:
            break
        tsn += 1
    assert len(end.arrived) * 1000 <= 10_000 + SLACK
    assert unpack_sack(end.sack(1000, 0.0)[4:]).window == 0
    for message in end.arrived:
        end.taken(message)
    assert end.due(1.0) == 1.0, "an opened window is told of at once"
    assert unpack_sack(end.sack(1000, 0.0)[4:]).window == 10_000


def test_tiny_packets_out_of_order_cannot_fill_the_memory() -> None:
    end = receiver(window=1 << 20)
    for number in range(60_000):
        end.data(FIRST + 1 + 2 * number % 65_000, WHOLE, 0, 53, b"x")
    assert len(end._early) <= (1 << 20) // OVERHEAD


def test_what_lies_too_far_ahead_is_dropped() -> None:
    end = receiver()
    end.data(FIRST + 70_000, WHOLE, 0, 53, b"x")
    assert unpack_sack(end.sack(1000, 0.0)[4:]).gaps == ()


@pytest.mark.parametrize(
    "sequence",
    [
        [(END, b"x")],
        [(0, b"x")],
        [(BEGIN, b"x"), (BEGIN, b"x")],
        [(BEGIN, b"x"), (WHOLE, b"x")],
        [(WHOLE, b"")],
        [(BEGIN, bytes(40_000)), (0, bytes(40_000))],
    ],
)
def test_pieces_that_fit_no_message_are_a_violation(sequence: list[tuple[int, bytes]]) -> None:
    end = receiver()
    *before, (flags, payload) = sequence
    for number, (earlier, piece) in enumerate(before):
        end.data(FIRST + number, earlier, 0, 53, piece)
    with pytest.raises(Violation):
        end.data(FIRST + len(before), flags, 0, 53, payload)
