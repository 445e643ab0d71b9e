"""The conversation of two peers: who may say what, bounds, and time. No I/O, no clock, no sleep."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.errors import PeerLost, ProtocolError
from transfer.model import Frame, FrameId, FrameSet, Kind
from transfer.session import (
    MAX_OPEN_WANTS,
    MAX_UNACKNOWLEDGED,
    SILENCE,
    TRANSITIONS,
    WINDOW,
    Event,
    Role,
    Session,
    State,
    split,
)
from transfer.wire import MAX_MESSAGE, Ack, Close, Data, End, Message, Ping, Want, pack, unpack

EVERYTHING = FrameSet.everything()


def chunk(index: int, size: int = 100) -> Frame:
    return Frame(FrameId(Kind.CHUNK, index), bytes([index % 251]) * size)


class Pair:
    """Two sessions whose words arrive at once; `now` moves by hand."""

    def __init__(self, *, wanted: bool = True, window: int = WINDOW) -> None:
        self.now = 0.0
        self.ends = {role: Session(role, 0.0, window=window) for role in Role}
        if wanted:
            self.say(Role.RECEIVER, Want(EVERYTHING))

    @property
    def sender(self) -> Session:
        return self.ends[Role.SENDER]

    @property
    def receiver(self) -> Session:
        return self.ends[Role.RECEIVER]

    def states(self) -> set[State]:
        return {session.state for session in self.ends.values()}

    def say(self, role: Role, *messages: Message) -> list[Event]:
        heard = []
        for message in messages:
            data = self.ends[role].send(message, self.now)
            heard += self.ends[role.other].receive(data, self.now)
        return heard

    def put(self, frame: Frame, max_message: int = MAX_MESSAGE) -> list[Event]:
        return self.say(Role.SENDER, *split(frame, max_message))


def test_a_whole_transfer_passes_every_state() -> None:
    pair = Pair(wanted=False)
    assert pair.say(Role.RECEIVER, Want(EVERYTHING)) == [Want(EVERYTHING)]
    assert pair.states() == {State.TRANSFER}
    assert pair.put(chunk(0)) == [chunk(0)]
    assert pair.say(Role.SENDER, End()) == [End()]
    assert pair.states() == {State.DRAINING}
    assert pair.say(Role.RECEIVER, Ack((chunk(0).id,))) == [Ack((chunk(0).id,))]
    assert pair.say(Role.SENDER, Close("")) == [Close("")]
    assert pair.states() == {State.CLOSED}


SAMPLES: dict[type[Message], Message] = {
    Want: Want(EVERYTHING),
    Data: Data(FrameId(Kind.CHUNK, 7), 10, 0, b"x"),
    Ack: Ack((FrameId(Kind.CHUNK, 0),)),
    End: End(),
    Ping: Ping(),
    Close: Close("enough"),
}


def in_state(state: State, closer: Role = Role.SENDER) -> Pair:
    pair = Pair(wanted=state is not State.OPENING)
    if state is not State.OPENING:
        pair.put(chunk(0))
    if state is State.DRAINING:
        pair.say(Role.SENDER, End())
    if state is State.CLOSED:
        pair.say(closer, Close(""))
    return pair


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("speaker", Role)
def test_both_ends_refuse_exactly_what_the_table_does_not_list(
    state: State, kind: type[Message], speaker: Role
) -> None:
    message = SAMPLES[kind]
    rule = TRANSITIONS.get((state, kind))
    allowed = rule is not None and speaker in rule[0]
    pair = in_state(state, closer=speaker)
    hearer = pair.ends[speaker.other]
    if allowed:
        pair.ends[speaker].send(message, 0.0)
        hearer.receive(pack(message), 0.0)
        assert rule is not None
        assert pair.ends[speaker].state is hearer.state is rule[1]
    else:
        with pytest.raises(ValueError, match=type(message).__name__):
            pair.ends[speaker].send(message, 0.0)
        with pytest.raises(ProtocolError):
            hearer.receive(pack(message), 0.0)


def test_a_frame_is_cut_so_that_every_message_fits_and_is_whole_again() -> None:
    pair = Pair()
    frame = chunk(3, 10_000)
    messages = [pack(piece) for piece in split(frame, 1200)]
    assert len(messages) == 9
    assert max(map(len, messages)) == 1200
    assert pair.put(frame, 1200) == [frame]


@settings(deadline=None)
@given(size=st.integers(1, 5000), max_message=st.integers(15, 2000))
def test_splitting_loses_nothing(size: int, max_message: int) -> None:
    pair = Pair()
    assert pair.put(chunk(1, size), max_message) == [chunk(1, size)]


@pytest.mark.parametrize(
    "second",
    [
        Data(FrameId(Kind.CHUNK, 1), 10, 0, b"x"),
        Data(FrameId(Kind.CHUNK, 0), 10, 0, b"x"),
        Data(FrameId(Kind.CHUNK, 0), 10, 6, b"x"),
        Data(FrameId(Kind.CHUNK, 0), 11, 5, b"x"),
        Data(FrameId(Kind.MANIFEST, 0), 10, 5, b"x"),
        End(),
    ],
)
def test_pieces_must_follow_each_other(second: Message) -> None:
    pair = Pair()
    pair.say(Role.SENDER, Data(FrameId(Kind.CHUNK, 0), 10, 0, b"12345"))
    with pytest.raises(ProtocolError):
        pair.receiver.receive(pack(second), 0.0)
    with pytest.raises(ValueError, match="must not say"):
        pair.sender.send(second, 0.0)


def test_a_frame_must_begin_at_its_beginning() -> None:
    with pytest.raises(ProtocolError):
        Pair().receiver.receive(pack(Data(FrameId(Kind.CHUNK, 0), 10, 5, b"12345")), 0.0)


def test_a_ping_may_come_between_two_pieces() -> None:
    pair = Pair()
    first, second = split(chunk(0, 100), 64 + 14)
    assert pair.say(Role.SENDER, first, Ping()) == []
    assert pair.say(Role.SENDER, second) == [chunk(0, 100)]


def test_an_ack_of_what_was_never_sent_is_an_error() -> None:
    pair = Pair()
    pair.put(chunk(0))
    with pytest.raises(ProtocolError, match="never sent"):
        pair.sender.receive(pack(Ack((chunk(0).id, chunk(1).id))), 0.0)
    assert not pair.sender.fits(chunk(9).id, WINDOW), "a refused message changes nothing"


def test_a_second_ack_of_a_frame_is_harmless() -> None:
    pair = Pair()
    pair.put(chunk(0))
    pair.say(Role.RECEIVER, Ack((chunk(0).id,)), Ack((chunk(0).id, chunk(0).id)))
    assert pair.sender.window.bytes == pair.receiver.window.bytes == 0


def test_the_window_bounds_what_is_unacknowledged() -> None:
    pair = Pair(window=1000)
    for index in range(10):
        assert pair.sender.fits(chunk(index).id, 100)
        pair.put(chunk(index))
    extra = chunk(10)
    assert not pair.sender.fits(extra.id, 100)
    with pytest.raises(ValueError, match="unacknowledged"):
        pair.put(extra)
    (message,) = split(extra)
    with pytest.raises(ProtocolError, match="unacknowledged"):
        pair.receiver.receive(pack(message), 0.0)
    pair.say(Role.RECEIVER, Ack((chunk(4).id,)))
    assert pair.put(extra) == [extra]


def test_tiny_frames_are_bounded_in_number() -> None:
    pair = Pair()
    for index in range(MAX_UNACKNOWLEDGED):
        pair.put(chunk(index, 1))
    assert not pair.sender.fits(FrameId(Kind.CHUNK, MAX_UNACKNOWLEDGED), 1)
    assert pair.sender.fits(chunk(0).id, 1)


def test_a_frame_beyond_the_window_goes_alone() -> None:
    pair = Pair(window=1000)
    assert pair.put(chunk(0, 2000)) == [chunk(0, 2000)]
    assert not pair.sender.fits(chunk(1).id, 1)
    pair.say(Role.RECEIVER, Ack((chunk(0).id,)))
    assert pair.sender.fits(chunk(1).id, 1000)


def test_a_frame_sent_twice_counts_once_and_both_arrive() -> None:
    pair = Pair(window=1000)
    assert pair.put(chunk(0, 900)) == pair.put(chunk(0, 900)) == [chunk(0, 900)]
    assert pair.sender.window.bytes == pair.receiver.window.bytes == 900
    pair.say(Role.RECEIVER, Ack((chunk(0).id,)))
    assert pair.sender.window.bytes == pair.receiver.window.bytes == 0


def test_a_repeat_of_an_acknowledged_frame_is_dropped_and_takes_no_room() -> None:
    pair = Pair(window=1000)
    pair.put(chunk(0, 900))
    pair.say(Role.RECEIVER, Ack((chunk(0).id,)))
    assert pair.put(chunk(0, 900)) == []
    assert pair.sender.window.bytes == pair.receiver.window.bytes == 0
    assert pair.put(chunk(1, 900)) == [chunk(1, 900)]


def test_a_repeat_that_crosses_its_ack_leaves_both_accounts_sound() -> None:
    pair = Pair(window=1000)
    pair.put(chunk(0, 900))
    crossing = [pair.sender.send(piece, 0.0) for piece in split(chunk(0, 900))]
    pair.say(Role.RECEIVER, Ack((chunk(0).id,)))
    assert [pair.receiver.receive(data, 0.0) for data in crossing] == [[]]
    assert pair.put(chunk(1, 1000)) == [chunk(1, 1000)]


def test_frames_may_be_wanted_again_midway_and_after_the_end() -> None:
    pair = Pair()
    pair.put(chunk(0))
    again = Want(FrameSet([(Kind.CHUNK, 0, 1)]))
    assert pair.say(Role.RECEIVER, again) == [again]
    assert pair.put(chunk(0)) == [chunk(0)]
    pair.say(Role.SENDER, End())
    assert pair.states() == {State.TRANSFER}, "one Want is open still"
    pair.say(Role.SENDER, End())
    assert pair.states() == {State.DRAINING}
    pair.say(Role.RECEIVER, again)
    assert pair.put(chunk(0)) == [chunk(0)]


def test_a_want_that_crosses_an_end_keeps_both_in_step() -> None:
    pair = Pair()
    want = pair.receiver.send(Want(EVERYTHING), 0.0)
    end = pair.sender.send(End(), 0.0)
    pair.sender.receive(want, 0.0)
    pair.receiver.receive(end, 0.0)
    assert pair.states() == {State.TRANSFER}
    assert pair.put(chunk(0)) == [chunk(0)]
    pair.say(Role.SENDER, End())
    assert pair.states() == {State.DRAINING}


def test_wants_without_an_answer_are_bounded() -> None:
    pair = Pair()
    for _ in range(MAX_OPEN_WANTS - 1):
        pair.say(Role.RECEIVER, Want(EVERYTHING))
    with pytest.raises(ProtocolError, match="unanswered"):
        pair.sender.receive(pack(Want(EVERYTHING)), 0.0)


def test_what_crosses_our_close_is_dropped_but_not_the_peers_close() -> None:
    pair = Pair()
    pair.receiver.send(Close(""), 0.0)
    (piece,) = split(chunk(0))
    assert pair.receiver.receive(pair.sender.send(piece, 0.0), 0.0) == []
    assert pair.receiver.receive(pair.sender.send(Close("why"), 0.0), 0.0) == [Close("why")]


def test_garbage_is_a_protocol_error() -> None:
    for data in (b"", b"\0", b"\xff" * 20, b"\x04extra", bytes(MAX_MESSAGE + 1)):
        with pytest.raises(ProtocolError):
            Pair().receiver.receive(data, 0.0)


# --- time


def test_a_second_of_saying_nothing_calls_for_a_ping() -> None:
    session = Session(Role.SENDER, 10.0)
    assert session.next_deadline() == 11.0
    assert session.tick(10.9) == []
    assert session.tick(11.0) == [Ping()]
    assert session.next_deadline() == 12.0


def test_saying_something_puts_the_ping_off() -> None:
    session = Session(Role.RECEIVER, 0.0)
    session.send(Want(EVERYTHING), 0.9)
    assert session.tick(1.0) == []
    assert session.tick(1.9) == [Ping()]


def tick_to(session: Session, end: float) -> None:
    while (at := session.next_deadline()) <= end:
        session.tick(at)


def test_silence_past_the_deadline_is_peer_lost() -> None:
    session = Session(Role.SENDER, 0.0)
    tick_to(session, SILENCE - 0.01)
    with pytest.raises(PeerLost, match="5 s"):
        tick_to(session, SILENCE)


def test_any_message_of_the_peer_breaks_the_silence() -> None:
    session = Session(Role.SENDER, 0.0, silence=3.0)
    tick_to(session, 2.9)
    session.receive(pack(Ping()), 2.9)
    tick_to(session, 5.8)
    with pytest.raises(PeerLost):
        tick_to(session, 6.0)


def test_garbage_does_not_break_the_silence() -> None:
    session = Session(Role.SENDER, 0.0)
    with pytest.raises(ProtocolError):
        session.receive(b"?", 4.0)
    with pytest.raises(PeerLost):
        tick_to(session, SILENCE)


def test_a_tick_that_overslept_gives_the_peer_another_second() -> None:
    session = Session(Role.SENDER, 0.0)
    assert session.tick(3600.0) == [Ping()]
    with pytest.raises(PeerLost):
        tick_to(session, 3601.0)


def test_a_late_tick_on_time_for_its_ping_still_counts_the_silence() -> None:
    session = Session(Role.SENDER, 0.0)
    for now in (1.5, 3.0, 4.5):
        session.tick(now)
    with pytest.raises(PeerLost):
        session.tick(5.4)


def test_a_closed_session_has_nothing_to_say() -> None:
    pair = in_state(State.CLOSED)
    assert pair.sender.tick(100.0) == []


def test_messages_survive_the_wire_both_ways() -> None:
    for message in SAMPLES.values():
        assert unpack(pack(message)) == message


def test_the_bounds_that_both_ends_must_share_have_the_values_of_the_protocol() -> None:
    assert (WINDOW, MAX_UNACKNOWLEDGED, MAX_OPEN_WANTS, SILENCE) == (16_777_216, 1024, 8, 5.0)


def test_a_tick_exactly_on_time_is_not_late() -> None:
    """The peer is lost at 5 s; a tick until 1 s after what was due before still counts its silence."""
    session = Session(Role.SENDER, 0.0)
    for now in (1.0, 2.0, 3.0):
        session.tick(now)
    with pytest.raises(PeerLost):
        session.tick(5.0)  # the ping was due at 4.0: no more than 1 s late
    session = Session(Role.SENDER, 0.0)
    for now in (1.0, 2.0, 3.0):
        session.tick(now)
    assert session.tick(5.5) == [Ping()], "it may have been us who slept"
    session = Session(Role.SENDER, 0.0, silence=2.5)
    with pytest.raises(PeerLost):
        [session.tick(now) for now in (0.5, 1.0, 1.5, 2.5)]


def test_a_late_tick_never_makes_the_peer_older() -> None:
    session = Session(Role.SENDER, 0.0)
    session.receive(pack(Ping()), 9.0)
    session.tick(10.0)  # late by 9 s
    assert session.next_deadline() == 11.0
    for now in (11.0, 12.0, 13.0):
        session.tick(now)
    with pytest.raises(PeerLost):
        session.tick(14.0)


def test_a_piece_has_what_a_message_leaves_beside_its_head() -> None:
    lengths = [len(piece.piece) for piece in split(chunk(0, 100), 14 + 40)]
    assert lengths == [40, 40, 20]
    (whole,) = split(chunk(0, MAX_MESSAGE - 14))
    assert len(pack(whole)) == MAX_MESSAGE


@pytest.mark.parametrize("state", State)
def test_who_spoke_out_of_turn_and_when_is_said(state: State) -> None:
    pair = in_state(state)
    with pytest.raises(
        ValueError, match=r"^the sender must not say Want now: the sender may not in state "
    ) as raised:
        pair.sender.send(Want(EVERYTHING), 0.0)
    assert str(raised.value).endswith(f" {state.name.lower()}")
    with pytest.raises(
        ValueError, match=r"^the receiver must not say End now: the receiver may not in state "
    ):
        pair.receiver.send(End(), 0.0)
    with pytest.raises(ProtocolError, match="the peer said Want out of turn: the sender may not in state "):
        pair.receiver.receive(pack(Want(EVERYTHING)), 0.0)
