"""One end of an SCTP association, chunk by chunk: what it answers in which state, when it speaks, and what it ignores."""

from __future__ import annotations

import random
import struct

import pytest

from transfer.sctp import packet as wire
from transfer.sctp.association import Association, State
from transfer.sctp.packet import BEGIN, DATA_HEADER, END, IMMEDIATE, WORD, Header, Type
from transfer.sctp.receiving import DELAY, Message
from transfer.sctp.sending import Sample
from transfer.sctp.timing import RoundTrip

PEER = wire.Init(tag=77, window=1 << 20, outbound=9, inbound=9, tsn=500)


def fresh(**options: int) -> Association:
    return Association(random.Random(1).randbytes, **options)  # type: ignore[arg-type]


def established(**options: int) -> Association:
    """One that agreed with PEER at 0 s, and searches for no larger packets."""
    made = fresh(**options)
    made.agree(PEER, 0.0, largest_packet=1188)
    return made


def hear(end: Association, *chunks: bytes, now: float = 0.0) -> None:
    end.receive(Header(5000, 5000, end.init.tag).packet(*chunks), now)


def greet(end: Association, init: wire.Init = PEER) -> None:
    end.receive(Header(5000, 5000, 0).packet(wire.chunk(Type.INIT, wire.pack_init(init))), 0.0)


def said(end: Association, now: float = 0.0) -> list[tuple[int, bytes]]:
    """(type, value) of each chunk that it sends now."""
    return [(kind, value) for packet in end.poll(now) for kind, _, value in wire.chunks(packet)]


def kinds(end: Association, now: float = 0.0) -> list[int]:
    return [kind for kind, _ in said(end, now)]


def data(tsn: int, payload: bytes = b"x", flags: int = BEGIN | END) -> bytes:
    return wire.chunk(Type.DATA, DATA_HEADER.pack(0, 0, 0, tsn & WORD, 0, 0, 53)[4:] + payload, flags)


def sack(end: Association, arrived: int, window: int = 1 << 20) -> bytes:
    """That the first so many chunks came."""
    return wire.chunk(Type.SACK, struct.pack("!IIHH", end.init.tsn + arrived - 1 & WORD, window, 0, 0))


# --- the handshake


def test_a_greeting_says_what_webrtc_and_our_window_are() -> None:
    init = fresh().init
    assert (init.window, init.outbound, init.inbound) == (32 << 20, 65535, 65535)
    foreseen = Association(lambda count: bytes(range(1, count + 1))).init
    assert (foreseen.tag, foreseen.tsn) == (0x01020304, 0x01020304)
    assert Association(bytes).init.tag == 1, "a tag of zero is none (RFC 9260 section 3.3.2)"


def test_a_greeting_is_repeated_ever_more_slowly_and_given_up_after_sixteen() -> None:
    end = fresh()
    assert end.deadline(3.0) is None
    end.start(3.0)
    greeted = []
    while end.state is not State.CLOSED:
        now = end.deadline(0.0)
        assert now is not None
        if end.poll(now):
            greeted.append(now - 3.0)
    assert greeted[:7] == [0.0, 0.25, 0.75, 1.5, 2.5, 3.5, 4.5]
    assert len(greeted) == 16
    assert end.reason == "the peer does not answer"


def test_a_greeting_is_not_repeated_before_its_time() -> None:
    end = fresh()
    end.start(0.0)
    assert kinds(end) == [Type.INIT]
    assert end.poll(0.2) == []
    end.start(0.2)
    assert end.poll(0.2) == [], "it has begun already"
    assert kinds(end, 0.25) == [Type.INIT]


def test_a_greeting_goes_to_the_peers_port_and_bears_no_tag() -> None:
    end = fresh(port=5001, peer_port=5002)
    end.start(0.0)
    (packet,) = end.poll(0.0)
    assert Header(5001, 5002, 0).admits(packet)
    back = Header(5002, 5001, end.init.tag)
    end.receive(back.packet(wire.chunk(Type.INIT_ACK, wire.pack_init(PEER._replace(cookie=b"cake")))), 0.0)
    (packet,) = end.poll(0.0)
    assert Header(5001, 5002, PEER.tag).admits(packet)
    assert [(kind, value) for kind, _, value in wire.chunks(packet)] == [(Type.COOKIE_ECHO, b"cake")]


def test_whoever_is_greeted_answers_with_a_cookie_and_is_there_once_it_comes_back() -> None:
    end = fresh(port=5001, peer_port=5002, largest_packet=1188)
    end.receive(Header(5002, 5001, 0).packet(wire.chunk(Type.INIT, wire.pack_init(PEER))), 0.0)
    assert end.deadline(0.0) == 0.0
    ((kind, value),) = said(end)
    answer = wire.unpack_init(value)
    assert kind == Type.INIT_ACK
    assert answer == end.init._replace(cookie=answer.cookie)
    assert len(answer.cookie) == 16
    back = Header(5002, 5001, end.init.tag)
    end.receive(back.packet(wire.chunk(Type.COOKIE_ECHO, b"not that one")), 0.0)
    assert end.state is State.NEW
    end.receive(back.packet(wire.chunk(Type.COOKIE_ECHO, answer.cookie)), 0.0)
    assert end.state is State.ESTABLISHED
    assert kinds(end) == [Type.COOKIE_ACK]


def test_nobody_is_there_before_a_greeting_though_a_cookie_were_guessed() -> None:
    end = Association(bytes)
    end.receive(Header(5000, 5000, end.init.tag).packet(wire.chunk(Type.COOKIE_ECHO, bytes(16))), 0.0)
    assert end.state is State.NEW


def test_a_cookie_is_sent_again_until_it_is_acknowledged() -> None:
    end = fresh(largest_packet=1188)
    end.start(0.0)
    end.poll(0.0)
    hear(end, wire.chunk(Type.COOKIE_ACK))
    assert end.state is State.INIT_SENT, "nothing was offered yet"
    hear(end, wire.chunk(Type.INIT_ACK, wire.pack_init(PEER._replace(cookie=b"cake"))), now=0.1)
    assert end.state is State.COOKIE_SENT
    assert end.deadline(0.1) == 0.1
    assert said(end, 0.1) == [(Type.COOKIE_ECHO, b"cake")]
    hear(end, data(500))
    greet(end)
    assert said(end, 0.1) == [
        (Type.INIT_ACK, wire.pack_init(end.init._replace(cookie=end._handshake._cookie)))
    ]
    assert end.take() == [Message(0, 53, b"x")], "a greeting that comes late takes nothing away"
    assert end.deadline(0.1) == pytest.approx(0.35)
    assert said(end, 0.35) == [(Type.COOKIE_ECHO, b"cake")]
    hear(end, wire.chunk(Type.COOKIE_ACK), now=0.4)
    assert end.state is State.ESTABLISHED
    assert kinds(end, 0.4) == []


def test_another_greeting_counts_until_it_is_there_and_none_from_another_life_after() -> None:
    end = fresh()
    greet(end)
    said(end)
    greet(end, PEER._replace(tag=78))
    assert kinds(end) == [Type.INIT_ACK]
    there = established()
    greet(there)
    assert kinds(there) == [Type.INIT_ACK], "its peer has not heard the first answer"
    greet(there, PEER._replace(tag=78))
    assert kinds(there) == []


@pytest.mark.parametrize(
    "packet",
    [
        Header(5000, 5000, 0).packet(wire.chunk(Type.INIT, b"short")),
        Header(5000, 5000, 0).packet(wire.chunk(Type.HEARTBEAT, b"hello")),
        Header(5000, 5000, 0).packet(b"\1\0\0\1"),
        Header(5000, 5001, 0).packet(wire.chunk(Type.INIT, wire.pack_init(PEER))),
        Header(5000, 5000, 0).packet(),
        b"",
    ],
)
def test_what_is_no_greeting_is_not_answered(packet: bytes) -> None:
    end = fresh()
    end.receive(packet, 0.0)
    assert kinds(end) == []
    assert end.state is State.NEW


def test_who_agreed_beforehand_is_there_at_once_and_only_once() -> None:
    end = established()
    assert end.state is State.ESTABLISHED
    end.send(0, 53, b"one")
    end.poll(0.0)
    end.agree(PEER._replace(tag=1), 1.0)
    (packet,) = end.poll(10.0)[:1]
    assert Header(5000, 5000, PEER.tag).admits(packet), "a second agreement changes nothing"
    end.close()
    end.agree(PEER, 2.0)
    assert end.state is State.CLOSED


# --- who lives, and the end


def test_a_question_is_answered_with_what_it_holds() -> None:
    end = established()
    hear(end, wire.chunk(Type.HEARTBEAT, b"a" * 1024))
    assert end.deadline(0.0) == 0.0
    assert said(end) == [(Type.HEARTBEAT_ACK, b"a" * 1024)]
    hear(end, wire.chunk(Type.HEARTBEAT, b"a" * 1025))
    assert said(end) == []


def test_of_many_questions_sixteen_are_answered_in_packets_that_fit() -> None:
    end = established()
    for number in range(40):
        hear(end, wire.chunk(Type.HEARTBEAT, bytes([number]) * 500))
    packets = end.poll(0.0)
    answered = [value[0] for packet in packets for _, _, value in wire.chunks(packet)]
    assert answered == list(range(16))
    assert len(packets) == 8, "two of them fit each"
    assert max(map(len, packets)) <= end.packet_size


def test_answers_fill_a_packet_to_its_last_byte() -> None:
    end = established()
    room = end.packet_size - wire.HEADER
    for length in (room // 2 - 4, room - room // 2 - 4):
        hear(end, wire.chunk(Type.HEARTBEAT, bytes(length)))
    (packet,) = end.poll(0.0)
    assert len(packet) == end.packet_size
    for length in (room // 2 - 4, room - room // 2):
        hear(end, wire.chunk(Type.HEARTBEAT, bytes(length)))
    assert len(end.poll(0.0)) == 2


def test_a_peer_that_is_further_is_answered_shortly() -> None:
    end = fresh()
    greet(end)
    said(end)
    hear(end, wire.chunk(Type.HEARTBEAT, b"0123456789"))
    assert said(end) == [(Type.HEARTBEAT_ACK, b"01234567")]


def test_a_peer_that_asks_before_it_was_met_is_answered_too() -> None:
    end = fresh()
    end.start(0.0)
    end.poll(0.0)
    hear(end, wire.chunk(Type.HEARTBEAT, b"01234567"))
    assert said(end) == [(Type.HEARTBEAT_ACK, b"01234567")]


def test_silence_is_answered_with_a_question_and_ends_with_a_sentence() -> None:
    end = established()
    assert end.deadline(0.0) == 0.6
    assert kinds(end, 0.59) == []
    assert said(end, 0.6) == [(Type.HEARTBEAT, b"\0\1\0\4")]
    for step in range(61, 240):
        end.poll(step / 100)
    assert end.state is State.ESTABLISHED
    assert kinds(end, 2.4) == [Type.ABORT]
    assert (end.state, end.reason) == (State.CLOSED, "the peer was silent for 2.4 seconds")


def test_silence_counts_from_the_agreement_on() -> None:
    end = fresh()
    end.agree(PEER, 10.0, largest_packet=1188)
    assert end.deadline(10.0) == 10.6
    assert end.poll(10.0) == []
    assert end.state is State.ESTABLISHED


def test_any_packet_of_the_peer_breaks_its_silence() -> None:
    end = established()
    hear(end, wire.chunk(Type.PAD, b"x"), now=2.0)
    assert end.deadline(2.0) == 2.6


@pytest.mark.parametrize(
    ("kind", "answer", "reason"),
    [
        (Type.ABORT, [], "the peer ended the connection"),
        (Type.SHUTDOWN, [Type.SHUTDOWN_ACK], "the peer closed the connection"),
        (Type.SHUTDOWN_ACK, [Type.SHUTDOWN_COMPLETE], "the peer closed the connection"),
    ],
)
def test_a_peer_that_ends_is_answered_once_and_nothing_follows(
    kind: Type, answer: list[int], reason: str
) -> None:
    end = established()
    end.send(0, 53, b"unsaid")
    hear(end, wire.chunk(kind, bytes(4)))
    assert (end.state, end.reason) == (State.CLOSED, reason)
    assert end.deadline(5.0) == (5.0 if answer else None)
    assert kinds(end) == answer
    assert end.deadline(5.0) is None
    hear(end, wire.chunk(Type.HEARTBEAT, b"?"))
    end.close("late")
    assert (kinds(end), end.reason) == ([], reason)


def test_closing_is_said_to_a_peer_that_is_known_and_nothing_is_queued_after() -> None:
    end = established()
    end.close("enough")
    assert said(end) == [(Type.ABORT, b"")]
    end.send(0, 53, b"too late")
    assert (end.reason, end.buffered) == ("enough", 0)
    alone = fresh()
    alone.close()
    assert (alone.poll(0.0), alone.state, alone.reason) == ([], State.CLOSED, "")


def test_a_start_after_the_end_is_none() -> None:
    end = fresh()
    end.close()
    end.start(0.0)
    assert end.state is State.CLOSED


# --- what comes


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


# --- what goes


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


class Fixed:
    """A controller that changes nothing, and notes what it was told was lost."""

    def __init__(self, piece: int, window: int = 1 << 20, rate: float = 0.0) -> None:
        self.piece, self.window, self.rate = piece, window, rate
        self.lost: list[int] = []
        self.timeouts = 0

    def sacked(self, sample: Sample, trip: RoundTrip, flight: int, now: float) -> None:
        self.lost += [sample.lost] if sample.lost else []

    def timed_out(self, flight: int, now: float) -> None:
        self.timeouts += 1


def controlled(largest: int = 1188, **how: float) -> tuple[Association, Fixed]:
    made: list[Fixed] = []

    def make(piece: int) -> Fixed:
        made.append(Fixed(piece, **how))  # type: ignore[arg-type]
        return made[0]

    end = Association(random.Random(1).randbytes, largest_packet=largest, controller=make)
    end.agree(PEER, 0.0)
    return end, made[0]


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
