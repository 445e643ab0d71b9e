"""The sending side of SCTP by itself: how messages are cut and packed, what a SACK tells, and what is lost by it."""

from __future__ import annotations

import struct

import pytest

from transfer.sctp import packet as wire
from transfer.sctp.packet import BEGIN, END, HEADER, IMMEDIATE, UNORDERED, Header, Sack
from transfer.sctp.sending import Sender

FIRST = (1 << 32) + 100
ROOM = 1176
"""Bytes of chunks in a packet: one chunk of 1,160 bytes fits."""
PLENTY = 1 << 30
TO = Header(5000, 5000, 7)


def sender(window: int = 1 << 20) -> Sender:
    return Sender(FIRST, window)


def put(end: Sender, *lengths: int, **how: bool) -> None:
    for length in lengths:
        end.put(0, 53, bytes(length), **how)


def sent(end: Sender, now: float = 0.0, budget: int = PLENTY) -> list[list[tuple[int, int, int]]]:
    """(TSN relative to the first, flags, bytes of payload) of each chunk of each packet."""
    return [
        [
            (struct.unpack_from("!I", value)[0] - 100, flags, len(value) - 12)
            for _, flags, value in wire.chunks(packet)
        ]
        for packet in end.packets(TO, ROOM, budget, now)
    ]


def sack(arrived: int, *gaps: tuple[int, int], window: int = 1 << 20, duplicates: int = 0) -> Sack:
    """The first so many came; gaps count from the first chunk, too."""
    return Sack(99 + arrived, window, tuple((a - arrived, b - arrived) for a, b in gaps), duplicates)


# how messages are cut and packed


def test_a_message_is_cut_to_fill_packets_and_its_ends_are_marked() -> None:
    end = sender()
    put(end, 2 * 1160 + 1)
    assert sent(end) == [[(0, BEGIN, 1160)], [(1, 0, 1160)], [(2, END | IMMEDIATE, 1)]]
    assert (end.queued, end.flight, end.last) == (0, 2321, FIRST + 2)


def test_short_messages_share_a_packet_while_64_bytes_of_payload_fit() -> None:
    for length, shared in ((1080, True), (1081, False)):
        end = sender()
        put(end, length, 1000)
        packets = sent(end)
        assert [size for _, _, size in packets[0]] == ([1080, 64] if shared else [1081])
    end = sender()
    put(end, *[1] * 70)
    (packet,) = end.packets(TO, ROOM, PLENTY, 0.0)[:1]
    assert len(packet) <= HEADER + ROOM
    assert len(packet) > HEADER + ROOM - 100


def test_padding_is_zeros_up_to_a_multiple_of_four() -> None:
    for length in range(1, 9):
        end = sender()
        end.put(0, 53, b"x" * length)
        (packet,) = end.packets(TO, ROOM, PLENTY, 0.0)
        assert packet[HEADER + 16 :] == b"x" * length + bytes(-length % 4)
        assert struct.unpack_from("!H", packet, HEADER + 2)[0] == 16 + length


def test_messages_of_a_stream_are_numbered_and_the_numbers_wrap() -> None:
    end = sender()
    end._numbers[0] = 0xFFFF
    for stream in (0, 0, 3):
        end.put(stream, 53, b"x")
    end.put(0, 53, b"x", ordered=False)
    (packet,) = end.packets(TO, ROOM, PLENTY, 0.0)
    found = [
        (flags & UNORDERED, *struct.unpack_from("!HH", value, 4)) for _, flags, value in wire.chunks(packet)
    ]
    assert found == [(0, 0, 0xFFFF), (0, 0, 0), (0, 3, 0), (UNORDERED, 0, 0)]
    end.restart_stream(0)
    end.restart_stream(9)
    end.put(0, 53, b"x")
    (packet,) = end.packets(TO, ROOM, PLENTY, 0.0)
    ((_, _, value),) = wire.chunks(packet)
    assert struct.unpack_from("!HH", value, 4) == (0, 0)


def test_the_pieces_of_one_message_bear_one_number() -> None:
    end = sender()
    put(end, 3000, 10)
    values = [value for packet in end.packets(TO, ROOM, PLENTY, 0.0) for _, _, value in wire.chunks(packet)]
    assert [struct.unpack_from("!H", value, 6)[0] for value in values] == [0, 0, 0, 1]


def test_only_the_end_of_all_that_waits_asks_for_an_answer_at_once() -> None:
    end = sender()
    put(end, 10, 10)
    assert [flags & IMMEDIATE for _, flags, _ in sent(end)[0]] == [0, IMMEDIATE]


def test_a_budget_and_the_peers_window_are_exceeded_by_one_chunk_at_most() -> None:
    for budget, window, count in (
        (1160, PLENTY, 1),
        (1161, PLENTY, 2),
        (PLENTY, 1160, 1),
        (PLENTY, 1161, 2),
        (0, PLENTY, 0),
    ):
        end = sender(window)
        put(end, 5 * 1160)
        assert len(sent(end, budget=budget)) == count
        assert end.queued == (5 - count) * 1160


def test_what_is_on_its_way_counts_against_the_peers_window() -> None:
    end = sender(2000)
    put(end, 5 * 1160)
    assert len(sent(end)) == 2
    assert sent(end) == []
    end.sacked(sack(1, window=2000), 0.1)
    assert len(sent(end)) == 1


def test_a_closed_window_is_asked_for_with_one_chunk_while_nothing_is_on_its_way() -> None:
    for length in (100, 1):
        end = sender(0)
        put(end, length, length)
        assert sent(end) == [[(0, BEGIN | END, length)]]
        assert sent(end) == []


def test_a_message_goes_on_where_its_budget_ended() -> None:
    end = sender()
    put(end, 2000)
    assert sent(end, budget=1) == [[(0, BEGIN, 1160)]]
    assert (end.waiting, end.queued) == (True, 840)
    assert sent(end) == [[(1, END | IMMEDIATE, 840)]]
    assert not end.waiting


# what a SACK tells


def test_a_sack_that_is_old_or_of_what_was_never_sent_is_nothing() -> None:
    end = sender()
    put(end, 3 * 1160)
    sent(end)
    assert end.sacked(sack(4), 0.1) is None
    assert end.sacked(sack(-1), 0.1) is None
    assert end.sacked(sack(1, (3, 4)), 0.1) is None
    assert end.sacked(sack(3), 0.1) is not None
    assert end.sacked(sack(2), 0.2) is None
    again = end.sacked(sack(3, window=5), 0.2)
    assert again is not None
    assert (again.acked, again.limited, end.window, end.outstanding) == (0, False, 5, False)


def test_a_sack_tells_bytes_round_trip_and_rate() -> None:
    end = sender()
    put(end, 4 * 1160)
    sent(end)
    sample = end.sacked(sack(2), 0.1)
    assert sample is not None
    assert (sample.acked, sample.lost, sample.flight, sample.trip) == (2320, 0, 4640, 0.1)
    assert (sample.before, sample.delivered, sample.rate) == (0, 2320, pytest.approx(23200))
    assert (end.flight, end.delivered, end.trip.smoothed) == (2320, 2320, 0.1)
    sample = end.sacked(sack(2, (4, 4)), 0.15)
    assert sample is not None
    assert (sample.acked, sample.flight, sample.delivered, sample.trip) == (1160, 2320, 3480, 0.15)
    assert sample.rate == pytest.approx(3480 / 0.15), "all that came while the newest was on its way"
    assert end.flight == 1160


def test_what_was_sent_when_there_was_no_more_to_send_says_nothing_of_the_path() -> None:
    end = sender()
    put(end, 2 * 1160)
    sent(end, budget=2320)
    put(end, 1160)
    sent(end, 0.01)
    put(end, 1160)
    sent(end, 0.02, budget=1160)
    limited = [end.sacked(sack(count), 0.1 + count / 100) for count in (1, 2, 3, 4)]
    assert [sample and sample.limited for sample in limited] == [False, False, False, True]


def test_a_chunk_that_was_sent_twice_tells_no_round_trip() -> None:
    end = sender()
    put(end, 10)
    sent(end)
    end.all_lost()
    assert sent(end, 1.0) == [[(0, BEGIN | END | IMMEDIATE, 10)]]
    sample = end.sacked(sack(1), 1.1)
    assert sample is not None
    assert (sample.acked, sample.trip, end.sent_again, end.flight) == (10, 0.0, 10, 0)


def measured(window: int = 1 << 20) -> Sender:
    """One that knows a round trip of 0.1 s; its next chunk is the second."""
    end = sender(window)
    put(end, 10)
    sent(end)
    end.sacked(sack(1), 0.1)
    return end


def test_what_was_overtaken_is_lost_a_quarter_of_a_round_trip_later() -> None:
    end = measured()
    put(end, 3 * 1160)
    sent(end, 1.0)
    sample = end.sacked(sack(1, (4, 4)), 1.1)
    assert sample is not None
    assert (sample.lost, end.flight, end.overdue) == (0, 2320, pytest.approx(1.1255))
    assert end.find_lost(1.125) == 0
    assert end.overdue is not None
    assert end.find_lost(end.overdue) == 2320, "at that very moment: else it would be asked for ever"
    assert (end.flight, end.overdue, end.repairing) == (0, None, True)
    assert end.find_lost(1.2) == 0, "it is lost once"
    told = end.sample_of_loss(2320)
    assert (told.lost, told.flight, told.delivered, told.before, told.acked) == (2320, 2320, 1170, 1170, 0)


def test_what_was_sent_after_what_arrived_is_not_lost_by_that() -> None:
    end = measured()
    put(end, 1160, 1160)
    sent(end, 1.0)
    end.sacked(sack(1, (3, 3)), 1.1)
    end.find_lost(1.2)
    assert sent(end, 1.2) == [[(1, BEGIN | END, 1160)]]
    end.sacked(sack(1, (3, 3)), 1.25)
    assert end.find_lost(9.0) == 0
    put(end, 1160)
    sent(end, 1.3)
    sample = end.sacked(sack(1, (3, 4)), 1.4)
    assert sample is not None
    assert sample.lost == 1160, "a second loss is seen, too"


def test_a_duplicate_makes_it_more_patient() -> None:
    end = measured()
    put(end, 1160, 1160)
    sent(end, 1.0)
    end.sacked(sack(1, (3, 3), duplicates=1), 1.1)
    assert end.overdue == pytest.approx(1.151)


def test_what_comes_after_it_was_given_up_is_not_sent_again() -> None:
    end = measured()
    put(end, 1160, 1160, 1160)
    sent(end, 1.0)
    end.sacked(sack(1, (4, 4)), 1.1)
    assert end.find_lost(1.2) == 2320
    sample = end.sacked(sack(2, (4, 4)), 1.21)
    assert sample is not None
    assert (sample.acked, end.flight) == (1160, 0)
    assert sent(end, 1.3) == [[(2, BEGIN | END, 1160)]]
    assert (end.flight, end.sent_again) == (1160, 1160)


def test_gaps_that_grow_and_close_are_counted_once() -> None:
    end = measured()
    put(end, *[1160] * 8)
    sent(end, 1.0)
    acked = []
    for told in (sack(1, (4, 4), (7, 7)), sack(1, (3, 5), (7, 8)), sack(1, (3, 8)), sack(1, (3, 8)), sack(9)):
        sample = end.sacked(told, 1.1)
        assert sample is not None
        acked.append(sample.acked // 1160)
    assert acked == [2, 3, 1, 0, 2]
    assert (end.outstanding, end.flight, end.delivered) == (False, 0, 10 + 8 * 1160)


def test_a_gap_above_others_does_not_count_the_holes_below_them_again() -> None:
    end = measured()
    put(end, *[1160] * 6)
    sent(end, 1.0)
    for told, flight in ((sack(1, (4, 4)), 5), (sack(1, (4, 4), (6, 6)), 4), (sack(1, (3, 4), (6, 6)), 3)):
        end.sacked(told, 1.1)
        assert end.flight == flight * 1160
    assert end.find_lost(1.2) == 2 * 1160


def test_a_hole_that_was_filled_is_never_lost() -> None:
    end = measured()
    put(end, *[1160] * 4)
    sent(end, 1.0)
    end.sacked(sack(1, (4, 4)), 1.1)
    end.sacked(sack(2, (4, 4)), 1.11)
    assert end.find_lost(1.2) == 1160, "the other one"
    end.sacked(sack(4), 1.21)
    assert (end.find_lost(9.0), end.overdue, end.flight) == (0, None, 1160)


def test_a_loss_that_waits_for_its_repair_hides_no_later_one() -> None:
    end = measured()
    put(end, 1160, 1160)
    sent(end, 1.0)
    end.sacked(sack(1, (3, 3)), 1.1)
    put(end, 1160, 1160)
    sent(end, 1.11)
    assert end.find_lost(1.2) == 1160
    end.sacked(sack(1, (3, 3), (5, 5)), 1.21)
    assert end.find_lost(1.5) == 1160


def test_after_a_timeout_nothing_is_overdue_and_all_goes_again_in_its_order() -> None:
    end = measured()
    put(end, *[1160] * 3)
    sent(end, 1.0)
    end.sacked(sack(1, (3, 3)), 1.1)
    assert end.overdue is not None
    end.probe(1.11)
    end.all_lost()
    assert end.overdue is None
    assert [number for packet in sent(end, 2.0) for number, _, _ in packet] == [1, 3]


def test_lost_chunks_are_packed_together_within_the_budget_before_new_ones() -> None:
    end = sender()
    put(end, 500, 500, 500)
    sent(end)
    assert end.all_lost() == 1500
    assert (end.flight, end.repairing, end.outstanding) == (0, True, True)
    assert end.all_lost() == 0, "they are lost already"
    put(end, 1160)
    again = sent(end, 1.0, budget=1001)
    assert [[number for number, _, _ in packet] for packet in again] == [[0, 1, 2]]
    assert (end.sent_again, end.flight) == (1128, 1128)
    assert [[number for number, _, _ in packet] for packet in sent(end, 1.0)] == [[3], [4]]
    end.all_lost()
    assert [[number for number, _, _ in packet] for packet in sent(end, 2.0, budget=500)] == [[0]]


def test_lost_chunks_fill_a_packet_to_its_last_byte_and_no_further() -> None:
    end = sender()
    put(end, 700, 1160, 700)
    whole = sent(end)
    assert [[size for _, _, size in packet] for packet in whole] == [[700, 444], [716, 428], [272]]
    end.all_lost()
    assert sent(end, 1.0) == whole
    end.all_lost()
    end.sacked(sack(1), 1.1)
    assert [[size for _, _, size in packet] for packet in sent(end, 1.2)] == [[444], [716, 428], [272]]


def test_a_probe_is_the_last_chunk_once_more() -> None:
    end = sender()
    put(end, 1160, 1160)
    sent(end)
    end.probe(1.0)
    assert end.flight == 1160
    end.probe(1.0)
    assert end.flight == 1160, "it waits to be sent already"
    assert [number for ((number, _, _),) in sent(end, 1.0)] == [1]
    assert end.sent_again == 1160


def test_what_came_after_all_leaves_nothing_to_repair() -> None:
    end = sender()
    put(end, 1160, 1160)
    sent(end)
    end.all_lost()
    end.sacked(sack(2), 0.6)
    assert sent(end, 0.6) == []
    assert (end.repairing, end.waiting, end.flight, end.sent_again) == (False, False, 0, 0)


@pytest.mark.parametrize("room", range(1176, 1184))
def test_full_packets_have_all_the_room_that_is_a_multiple_of_four(room: int) -> None:
    end = sender()
    put(end, 4000)
    assert len(end.packets(TO, room, PLENTY, 0.0)[0]) == HEADER + room // 4 * 4


def test_the_rate_counts_from_the_last_delivery_before_the_chunk_was_sent() -> None:
    """draft-ietf-ccwg-bbr, delivery rate samples: the longer of the times of sending and of acknowledging."""
    end = sender()
    put(end, 3 * 1160)
    sent(end)
    end.sacked(sack(1), 0.1)
    put(end, 1160)
    sent(end, 0.15)
    sample = end.sacked(sack(4), 0.3)
    assert sample is not None
    assert (sample.before, sample.rate) == (1160, pytest.approx(3 * 1160 / 0.2))


def test_a_repair_begins_a_new_time_of_sending() -> None:
    end = sender()
    put(end, 1160, 1160)
    sent(end)
    end.sacked(sack(0, (2, 2)), 0.1)
    put(end, 1160)
    sent(end, 0.11)
    end.sacked(sack(0, (2, 3)), 0.16)
    assert end.find_lost(0.2) == 0, "found by that SACK already"
    put(end, 1160)
    assert [number for packet in sent(end, 0.51) for number, _, _ in packet] == [0, 3]
    sample = end.sacked(sack(0, (2, 4)), 0.55)
    assert sample is not None
    assert sample.rate == pytest.approx(1160 / (0.55 - 0.16)), (
        "not since 0.11, when what came before was sent"
    )


def test_a_call_that_sends_nothing_begins_no_time_of_sending() -> None:
    end = sender()
    put(end, 1160, 1160)
    sent(end)
    end.sacked(sack(1), 0.1)
    put(end, 1160)
    assert sent(end, 0.15, budget=0) == []
    sent(end, 0.3)
    sample = end.sacked(sack(3), 0.31)
    assert sample is not None
    assert sample.rate == pytest.approx(2 * 1160 / 0.3), "the three were sent from 0 to 0.3"


def test_of_chunks_repaired_together_the_first_tells_how_long_sending_took() -> None:
    end = sender()
    put(end, 1160, 1160, 1160)
    sent(end)
    end.sacked(sack(0, (3, 3)), 0.1)
    assert end.find_lost(0.13) == 2320
    sent(end, 0.5)
    sample = end.sacked(sack(3), 0.52)
    assert sample is not None
    assert sample.rate == pytest.approx(2320 / 0.5)


def test_the_time_of_sending_counts_from_what_arrived_last() -> None:
    end = sender()
    put(end, 1160)
    sent(end)
    put(end, 1160)
    sent(end, 0.2)
    end.sacked(sack(1), 0.3)
    put(end, 1160)
    sent(end, 0.35)
    sample = end.sacked(sack(3), 0.36)
    assert sample is not None
    assert sample.rate == pytest.approx(2 * 1160 / 0.35), "from 0, when the first was sent"


def test_the_newest_of_what_arrived_was_sent_last_though_its_number_is_lower() -> None:
    end = measured()
    put(end, 1160, 1160)
    sent(end, 1.0)
    end.sacked(sack(1, (3, 3)), 1.35)
    put(end, 1160)
    sent(end, 1.36)
    assert end.find_lost(1.45) == 1160
    sent(end, 1.5)
    sample = end.sacked(sack(4), 1.6)
    assert sample is not None
    assert (sample.before, sample.rate) == (1170, pytest.approx(2320 / 0.25))


def test_what_is_sent_again_says_as_little_of_the_path_as_what_is_sent_then() -> None:
    end = measured()
    put(end, 1160, 1160)
    sent(end, 1.0)
    end.sacked(sack(1, (3, 3)), 1.35)
    assert end.find_lost(1.4) == 1160
    sent(end, 1.4)
    sample = end.sacked(sack(3), 1.5)
    assert sample is not None
    assert (sample.before, sample.limited) == (1170, True), "there was no more to send at 1.0"
    end = measured()
    put(end, 1160)
    sent(end, 1.0)
    put(end, 1160, 1160)
    sent(end, 1.0, budget=2320)
    end.sacked(sack(1, (3, 3)), 1.35)
    assert end.find_lost(1.4) == 1160
    sent(end, 1.4, budget=1160)
    sample = end.sacked(sack(3), 1.5)
    assert sample is not None
    assert (sample.before, sample.limited) == (1170, False), "all of that has arrived"
