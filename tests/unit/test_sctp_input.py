"""One end of an SCTP association, chunk by chunk: what it makes of what comes, and what it ignores."""

from __future__ import annotations

import pytest
from one_end import data, established, fresh, hear, kinds, said

from transfer.sctp import packet as wire
from transfer.sctp.association import State
from transfer.sctp.packet import BEGIN, END, IMMEDIATE, Header, Type
from transfer.sctp.receiving import DELAY, Message


def test_a_chunk_that_is_cut_ends_the_packet_and_what_was_before_it_counts() -> None:
    for tail in (b"\4\0\0\3", b"\4\0\0\x09abcd", b"\0\0\0\x0f" + bytes(12), b"\4\0"):
        end = established()
        hear(end, data(500), tail, data(501))
        assert end.take() == [Message(0, 53, b"x")], tail


@pytest.mark.parametrize("tag", [0, fresh().init.tag], ids=["a greeting", "its own"])
def test_a_packet_of_nothing_but_the_beginning_of_a_header_is_dropped(tag: int) -> None:
    end = established()
    for length in range(16):
        end.receive(Header(5000, 5000, tag).packet(b"\4\0\0\4")[:length], 0.0)
    assert kinds(end) == []


def test_data_that_says_to_be_longer_than_its_packet_is_dropped_and_empty_data_breaks_the_protocol() -> None:
    end = established()
    hear(end, data(500, b"long")[:-1])
    assert end.take() == []
    assert end.state is State.ESTABLISHED
    hear(end, data(500, b""))
    assert end.reason == "the peer broke the protocol: a message has an empty piece"


def test_the_longest_message_has_256_kib() -> None:
    for extra, state in ((0, State.ESTABLISHED), (1, State.CLOSED)):
        end = established()
        for at in range(8):
            hear(
                end, data(500 + at, bytes(1 << 15), BEGIN if at == 0 else END if (at, extra) == (7, 0) else 0)
            )
        if extra:
            hear(end, data(508, b"x", END))
        assert end.state is state


def test_however_many_gaps_and_duplicates_there_are_their_sack_fits_a_packet() -> None:
    end = established()
    for tsn in (*range(501, 1301, 2), *[501] * 10):
        hear(end, data(tsn))
    (packet,) = end.poll(0.0)
    assert len(packet) == end.packet_size


def test_what_follows_a_chunk_that_is_known_is_read_whether_or_not_that_means_anything_now() -> None:
    for kind in (Type.HEARTBEAT, Type.INIT_ACK, Type.ERROR, Type.PAD):
        end = established()
        hear(end, wire.chunk(kind, b"what"), data(500))
        assert end.take() == [Message(0, 53, b"x")], kind


def test_data_before_anybody_was_met_is_dropped() -> None:
    end = fresh()
    hear(end, data(500), wire.chunk(Type.SHUTDOWN, bytes(4)))
    assert (end.take(), end.state) == ([], State.NEW)


def test_a_lone_message_waits_for_its_acknowledgement_unless_asked_for_at_once() -> None:
    end = established()
    hear(end, data(500), now=1.0)
    assert end.deadline(1.0) == 1.0 + DELAY
    assert kinds(end, 1.0) == []
    assert kinds(end, 1.0 + DELAY) == [Type.SACK]
    hear(end, data(501, flags=BEGIN | END | IMMEDIATE), now=2.0)
    assert end.deadline(2.0) == 2.0
    assert kinds(end, 2.0) == [Type.SACK]


def test_what_was_taken_and_freed_opens_the_window_again() -> None:
    end = established(window=4000)
    hear(end, data(500, bytes(3000), BEGIN | END | IMMEDIATE))
    ((_, value),) = said(end)
    assert wire.unpack_sack(value).window < 1000
    (message,) = end.take()
    assert end.take() == []
    end.free(message)
    ((_, value),) = said(end, 0.1)
    assert wire.unpack_sack(value).window == 4000


def test_a_message_longer_than_agreed_ends_it() -> None:
    end = established(largest_message=1500)
    hear(end, data(500, bytes(1000), BEGIN), data(501, bytes(500), END))
    (message,) = end.take()
    assert len(message.data) == 1500
    hear(end, data(502, bytes(1000), BEGIN), data(503, bytes(501), END))
    assert end.reason == "the peer broke the protocol: a message is longer than was agreed"
    assert kinds(end)[-1:] == [Type.ABORT]
