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


# --- bounds, each on both sides


def stated(end: Receiver) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The window and the gaps that it would tell."""
    sack = unpack_sack(end.sack(1000, 0.0)[4:])
    return sack.window, sack.gaps


def test_acknowledgements_are_a_millisecond_apart_but_for_32_packets() -> None:
    end = receiver()
    end.sack(1000, 5.0)
    for offset in range(31):
        end.data(FIRST + offset, WHOLE, 0, 53, b"x")
    assert end.due(5.0) == 5.001
    assert end.due(5.1) == 5.1
    end.data(FIRST + 31, WHOLE, 0, 53, b"x")
    assert end.due(5.0) == 5.0
    end.sack(1000, 5.0)
    end.data(FIRST + 32, WHOLE, 0, 53, b"x")
    assert end.due(5.0) == 5.0 + DELAY == 5.02, "what was acknowledged counts no more"


def test_who_asks_for_it_is_acknowledged_without_delay_once() -> None:
    end = receiver()
    end.hurry()
    assert end.due(7.0) == 7.0
    end.sack(1000, 7.0)
    assert end.due(7.0) is None


def test_64_kib_more_than_the_window_are_taken_in_order_and_no_byte_beyond() -> None:
    for extra, taken in ((0, True), (1, False)):
        end = receiver(window=1000, largest=1 << 20)
        end.data(FIRST, WHOLE, 0, 53, bytes(1000 + 65_536 + extra))
        assert (end.cumulative == FIRST) is taken
        assert bool(end.arrived) is taken
        assert (end.due(5.0) == 5.0) is not taken, "a refusal is told at once"


def test_out_of_order_a_packet_takes_256_bytes_besides_its_own() -> None:
    for length, kept in ((744, True), (745, False)):
        end = receiver(window=1000)
        end.data(FIRST + 1, WHOLE, 0, 53, bytes(length))
        assert stated(end) == ((0, ((2, 2),)) if kept else (1000, ()))


def test_what_lies_65535_ahead_is_kept_and_what_lies_further_takes_no_room() -> None:
    for ahead, expected in ((65_535, ((1 << 20) - 257, ((65_535, 65_535),))), (65_536, (1 << 20, ()))):
        end = receiver()
        end.data(FIRST - 1 + ahead, WHOLE, 0, 53, b"x")
        assert stated(end) == expected


def test_a_quarter_of_the_window_that_is_free_again_is_told_at_once() -> None:
    for length, told in ((744, True), (743, False)):
        end = receiver(window=4000)
        end.data(FIRST, WHOLE, 0, 53, bytes(length))
        assert stated(end)[0] == 4000 - length - 256
        end.taken(end.arrived[0])
        assert (end.due(5.0) == 5.0) is told
        assert stated(end)[0] == 4000


def test_the_longest_message_is_put_together_and_counts_as_one() -> None:
    end = receiver(largest=100)
    end.data(FIRST, BEGIN, 0, 53, bytes(60))
    end.data(FIRST + 1, 0, 0, 53, bytes(20))
    end.data(FIRST + 2, END, 0, 53, bytes(20))
    end.data(FIRST + 3, BEGIN, 0, 53, bytes(60))
    end.data(FIRST + 4, END, 0, 53, bytes(40))
    assert [len(message.data) for message in end.arrived] == [100, 100]
    assert stated(end)[0] == (1 << 20) - 2 * (100 + 256)


def test_a_duplicate_is_told_once_with_what_it_was() -> None:
    end = receiver()
    end.data(FIRST + 1, WHOLE, 0, 53, b"x")
    end.data(FIRST + 1, WHOLE, 0, 53, b"x")
    assert unpack_sack(end.sack(1000, 0.0)[4:]).duplicates == 1
    assert unpack_sack(end.sack(1000, 0.0)[4:]).duplicates == 0
    end.data(FIRST, WHOLE, 0, 53, b"x")
    assert [len(message.data) for message in end.arrived] == [1, 1]
    assert stated(end) == ((1 << 20) - 2 * 257, ())
    end.data(FIRST + 1, WHOLE, 0, 53, b"x")
    assert unpack_sack(end.sack(1000, 0.0)[4:]).duplicates == 1


@pytest.mark.parametrize("order", [(2, 4, 3), (2, 3, 4), (4, 3, 2), (3, 2, 4), (4, 2, 3), (3, 4, 2)])
def test_neighbours_grow_into_one_gap_from_either_side(order: tuple[int, ...]) -> None:
    end = receiver()
    for offset in (*order, 9, 6):
        end.data(FIRST - 1 + offset, WHOLE, 0, 53, b"x")
    assert stated(end)[1] == ((2, 4), (6, 6), (9, 9))
    end.data(FIRST, WHOLE, 0, 53, b"x")
    assert (end.cumulative, stated(end)[1]) == (FIRST + 3, ((2, 2), (5, 5)))
