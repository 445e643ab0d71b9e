"""One end of an SCTP association, chunk by chunk: how it is met, what it answers in which state, and how it ends."""

from __future__ import annotations

import pytest
from one_end import PEER, data, established, fresh, greet, hear, kinds, said

from transfer.sctp import packet as wire
from transfer.sctp.association import Association, State
from transfer.sctp.packet import Header, Type
from transfer.sctp.receiving import Message

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
