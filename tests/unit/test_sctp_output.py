"""One end of an SCTP association, chunk by chunk: what it sends, when, and how much of it."""

from __future__ import annotations

import struct

import pytest
from one_end import PEER, controlled, established, fresh, hear, kinds, sack, said

from transfer.sctp import packet as wire
from transfer.sctp.association import Association
from transfer.sctp.packet import IMMEDIATE, WORD, Type
from transfer.sctp.receiving import Message


def test_counts_of_bytes_follow_what_is_queued_sent_and_acknowledged() -> None:
    end = established()
    end.send(0, 53, bytes(1000))
    assert (end.buffered, end.unacknowledged, end.sent_again) == (1000, 0, 0)
    assert kinds(end) == [Type.DATA]
    assert (end.buffered, end.unacknowledged) == (0, 1000)
    hear(end, sack(end, 1), now=0.1)
    assert (end.unacknowledged, end.sent_again) == (0, 0)
    with pytest.raises(ValueError, match="empty"):
        end.send(0, 53, b"")


def test_no_packet_of_data_exceeds_the_path_and_all_but_the_last_fill_it() -> None:
    end = established()
    end.send(0, 53, bytes(5000))
    sizes = [len(packet) for packet in end.poll(0.0)]
    assert sizes[:-1] == [1188] * 4
    assert sizes[-1] < 1188


def test_unordered_messages_are_marked_and_take_no_number() -> None:
    end = established()
    end.send(3, 53, b"a", ordered=False)
    end.send(3, 51, b"b")
    end.send(3, 53, b"c")
    found = [
        (flags, *struct.unpack_from("!HHI", value, 4))
        for packet in end.poll(0.0)
        for _, flags, value in wire.chunks(packet)
    ]
    assert [(flags & 4, stream, protocol) for flags, stream, _, protocol in found] == [
        (4, 3, 53),
        (0, 3, 51),
        (0, 3, 53),
    ]
    assert [number for _, _, number, _ in found[1:]] == [0, 1]
    assert [bool(flags & IMMEDIATE) for flags, *_ in found] == [False, False, True], (
        "the last asks for an answer"
    )


def test_silence_after_data_is_answered_by_a_probe_and_then_by_all_of_it_ever_more_slowly() -> None:
    """RFC 8985 section 7: the last chunk once more. Then RFC 9260 section 6.3.3: twice as long each time, at most 1 s."""
    end = established()
    end.send(0, 53, bytes(1160))
    end.poll(0.0)
    hear(end, sack(end, 1), now=0.1)
    for _ in range(3):
        end.send(0, 53, bytes(1160))
    now, spoken = 0.1, []
    while now < 2.2:
        count = sum(kind == Type.DATA for kind in kinds(end, now))
        spoken += [round(now, 1 if now > 0.35 else 2)] * count
        later = end.deadline(now)
        assert later is not None
        now = max(later, now + 0.001)
    # At 0.1 s a round trip of as much is known: 0.1 smoothed, 0.05 its variation; a lone packet may wait for 0.02.
    assert spoken == [0.1] * 3 + [0.32] + [0.4] * 3 + [1.0] * 3 + [2.0] * 3
    assert end.sent_again == 10 * 1160


def test_a_closed_window_is_asked_for_with_one_chunk_and_opened_by_an_answer() -> None:
    end = established()
    hear(end, sack(end, 0, window=0))
    end.send(0, 53, bytes(3000))
    assert kinds(end) == [Type.DATA]
    asked = end.unacknowledged
    assert asked < 1188
    hear(end, sack(end, 0, window=1 << 20), now=0.1)
    assert end.unacknowledged == 0, "what asked for it was refused"
    sent = sum(kind == Type.DATA for kind in kinds(end, 0.1))
    assert sent >= 2
    assert end.sent_again == asked


def test_a_stream_is_reset_only_once_all_that_was_queued_is_sent() -> None:
    end = established()
    hear(end, sack(end, 0, window=0))
    for _ in range(2):
        end.send(3, 53, bytes(1100))
    end.reset(3)
    assert kinds(end) == [Type.DATA]
    assert end.buffered > 0
    assert end.deadline(0.0) == 0.5, "there is no hurry"
    hear(end, sack(end, 1), now=0.1)
    assert kinds(end, 0.1) == [Type.DATA]
    later = end.deadline(0.1)
    assert later is not None
    assert later <= 0.1
    assert kinds(end, 0.1) == [Type.RE_CONFIG]
    assert kinds(end, 0.2) == [], "it is asked again after a while only"
    hear(end, sack(end, 2), now=0.2)
    assert end.deadline(0.2) == pytest.approx(0.4)
    assert kinds(end, 0.4) == [Type.RE_CONFIG]


def test_before_anybody_was_met_there_is_nothing_to_take_free_or_reset() -> None:
    end = fresh()
    assert end.take() == []
    end.free(Message(0, 53, b"x"))
    end.reset(3)
    assert end.resets == set()
    assert end.poll(0.0) == []


@pytest.mark.parametrize("rate", [400.0, 4000.0])
def test_a_paced_sender_sends_each_packet_when_the_one_before_it_has_had_its_time(rate: float) -> None:
    end, _ = controlled(rate=rate)
    for _ in range(4):
        end.send(0, 53, bytes(int(rate) // 10))
    now, times = 0.5, list[float]()
    while len(times) < 4:
        times += [now] * kinds(end, now).count(Type.DATA)
        later = end.deadline(now)
        assert later is not None
        assert later > now or not times, "no busy loop"
        now = later
    assert times == pytest.approx([0.5, 0.599, 0.699, 0.799]), "a millisecond ahead: timers are no finer"


@pytest.mark.parametrize(("rate", "packets"), [(579_700.0, 1), (581_000.0, 2), (1e6, 2), (1.2e6, 3)])
def test_after_a_pause_a_paced_sender_sends_what_two_milliseconds_hold(rate: float, packets: int) -> None:
    """One that it is behind at most, one ahead; the last packet may exceed it."""
    end, _ = controlled(rate=rate)
    end.send(0, 53, bytes(1160 * 5))
    assert kinds(end, 0.5) == [Type.DATA] * packets


def test_one_poll_makes_256_kib_so_that_what_comes_has_its_turn() -> None:
    end, _ = controlled()
    end.send(0, 53, bytes(1 << 20))
    assert len(end.poll(0.0)) == -(-262_144 // 1160)
    assert end.deadline(0.0) == 0.0
    assert len(end.poll(0.0)) == -(-262_144 // 1160)


def test_no_more_is_on_its_way_than_the_controller_allows() -> None:
    end, _ = controlled(window=2400)
    end.send(0, 53, bytes(5800))
    assert kinds(end) == [Type.DATA] * 3, "the last may exceed it"
    assert end.deadline(0.0) == pytest.approx(0.5), "nothing to do until an answer is late"
    assert kinds(end, 0.1) == []
    hear(end, sack(end, 1), now=0.1)
    assert kinds(end, 0.1) == [Type.DATA]


def test_no_more_is_on_its_way_than_the_peer_has_room_for() -> None:
    end, _ = controlled()
    hear(end, sack(end, 0, window=2000))
    end.send(0, 53, bytes(5800))
    assert kinds(end) == [Type.DATA] * 2
    assert kinds(end, 0.1) == []


def test_what_was_overtaken_is_lost_a_quarter_round_trip_later_and_the_controller_is_told() -> None:
    """RFC 8985 section 6.2: by the time, not by the number of those that came before it."""
    end, controller = controlled()
    end.send(0, 53, b"a")
    end.poll(0.0)
    hear(end, sack(end, 1), now=0.1)
    for _ in range(3):
        end.send(0, 53, bytes(1160))
    end.poll(0.1)
    gap = struct.pack("!IIHHHH", end.init.tsn & WORD, 1 << 20, 1, 0, 3, 3)
    hear(end, wire.chunk(Type.SACK, gap), now=0.2)
    assert (end.unacknowledged, controller.lost) == (2320, [])
    assert end.deadline(0.2) == pytest.approx(0.2255)
    assert kinds(end, 0.22) == []
    assert kinds(end, 0.2256) == [Type.DATA] * 2
    assert (controller.lost, end.sent_again, controller.timeouts) == ([2320], 2320, 0)


def test_what_is_overtaken_by_much_is_lost_at_once() -> None:
    end, controller = controlled()
    end.send(0, 53, bytes(1160))
    end.poll(0.0)
    end.send(0, 53, bytes(1160))
    end.poll(0.2)
    hear(
        end,
        wire.chunk(Type.SACK, struct.pack("!IIHHHH", end.init.tsn - 1 & WORD, 1 << 20, 1, 0, 2, 2)),
        now=0.3,
    )
    assert controller.lost == [1160]
    assert kinds(end, 0.3) == [Type.DATA]


def missing(end: Association, first: int, last: int) -> bytes:
    """That of those it sent, counted from 1, these came and none before them."""
    return wire.chunk(Type.SACK, struct.pack("!IIHHHH", end.init.tsn - 1 & WORD, 1 << 20, 1, 0, first, last))


@pytest.mark.parametrize(
    ("room", "packets"),
    [(0, 2), (1, 1), (1161, 2)],
    ids=["a full window", "one with a byte to spare", "one with room for more than a packet"],
)
def test_what_arrived_is_replaced_twice_by_what_was_lost_where_the_window_is_full(
    room: int, packets: int
) -> None:
    end, controller = controlled()
    end.send(0, 53, bytes(4 * 1160))
    end.poll(0.0)
    end.send(0, 53, bytes(3 * 1160))
    end.poll(0.2)
    controller.window = 2320 + room
    hear(end, missing(end, 5, 5), now=0.3)
    assert (end.unacknowledged, controller.lost) == (2320, [4640])
    assert end.deadline(0.3) == 0.3
    assert kinds(end, 0.3) == [Type.DATA] * packets


def test_nothing_replaces_what_arrived_in_a_window_that_shrank_while_nothing_is_lost() -> None:
    end, controller = controlled()
    end.send(0, 53, bytes(4 * 1160))
    end.poll(0.0)
    end.send(0, 53, bytes(1160))
    controller.window = 1160
    hear(end, sack(end, 1), now=0.1)
    assert kinds(end, 0.1) == []


def test_a_timeout_is_told_to_the_controller_and_a_probe_is_not() -> None:
    end, controller = controlled()
    end.send(0, 53, b"a")
    end.poll(0.0)
    hear(end, sack(end, 1), now=0.1)
    end.send(0, 53, b"b")
    end.poll(0.1)
    assert kinds(end, 0.33) == [Type.DATA]
    assert controller.timeouts == 0
    assert kinds(end, 0.41) == [Type.DATA]
    assert controller.timeouts == 1


def test_a_probe_is_sent_though_the_window_is_full_and_nothing_with_it() -> None:
    end, controller = controlled()
    end.send(0, 53, bytes(1160))
    end.send(0, 53, b"x")
    assert kinds(end) == [Type.DATA] * 2
    end.send(0, 53, b"y")
    controller.window = 100
    assert kinds(end, 0.49) == []
    (again,) = said(end, 0.5)
    assert again[1][-1:] == b"x"
    assert end.sent_again == 1


def test_a_larger_packet_is_looked_for_and_used_once_it_was_answered() -> None:
    end = fresh()
    end.agree(PEER, 0.0)
    assert end.deadline(0.0) == 0.0
    (probe,) = end.poll(0.0)
    assert len(probe) == 1356
    assert end.packet_size == 1188
    (beat, pad) = wire.chunks(probe)
    assert (beat[0], pad[0]) == (Type.HEARTBEAT, Type.PAD)
    assert beat[2] == struct.pack("!HHI", 1, 8, 1356), (
        "Heartbeat Info (RFC 9260 section 3.3.5), eight bytes long"
    )
    assert end.poll(0.2) == []
    assert [len(again) for again in end.poll(0.25)] == [1356]
    hear(end, wire.chunk(Type.HEARTBEAT_ACK, beat[2]), now=0.3)
    assert end.packet_size == 1356
    assert not end.may_fragment
    end.send(0, 53, bytes(5000))
    assert 1356 in [len(packet) for packet in end.poll(0.3)]
    hear(end, wire.chunk(Type.HEARTBEAT_ACK, struct.pack("!HH", 1, 4)), now=0.3)
    assert end.packet_size == 1356, "the answer to a question without a size says nothing of sizes"


def test_a_larger_packet_is_given_three_round_trips_and_the_peers_delay_before_it_is_tried_again() -> None:
    end, _ = controlled(largest=1356)
    end.send(0, 53, b"x")
    assert kinds(end) == [Type.HEARTBEAT, Type.PAD, Type.DATA]
    hear(end, sack(end, 1), now=0.1)
    assert kinds(end, 0.25) == [Type.HEARTBEAT, Type.PAD]
    assert end.deadline(0.25) == pytest.approx(0.25 + 0.32)
    assert kinds(end, 0.569) == []
    assert kinds(end, 0.571) == [Type.HEARTBEAT, Type.PAD]


def test_a_controller_is_told_the_payload_of_a_packet_whenever_it_changes() -> None:
    end, controller = controlled(largest=1356)
    assert controller.piece == end.packet_size - 12 - 16 == 1160
    end.poll(0.0)
    hear(end, wire.chunk(Type.HEARTBEAT_ACK, struct.pack("!HHI", 1, 8, 1356)))
    assert controller.piece == end.packet_size - 12 - 16 == 1328
    end.send(0, 53, bytes(5000))
    for now in (0.1, 0.6, 1.1):
        hear(end, wire.chunk(Type.PAD), now=now)
        end.poll(now)
        assert controller.piece == 1328, "a probe and one timeout say nothing of sizes"
    hear(end, wire.chunk(Type.PAD), now=2.1)
    end.poll(2.1)
    assert controller.piece == end.packet_size - 12 - 16 == 1160
