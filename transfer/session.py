"""Who may say what, and when, between two peers on one reliable, ordered message channel. Sans-I/O.

Receiver                     Sender
  Want(everything)  ────▶
                    ◀────   Data, Data, … (pieces of frames, one frame at a time)
  Ack(written)      ────▶   at most a window of bytes is unacknowledged
                    ◀────   End (one for each Want)
  Ack, Want(damaged)────▶   …
  Close             ◀───▶   Close

The law is blind to which side we are: both ends keep the same account of the conversation from the
same messages, so that what one may not say the other will not hear. Time is an argument (seconds,
any steady clock).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from transfer.errors import PeerLost, ProtocolError
from transfer.model import Frame, FrameId, FrameSet
from transfer.wire import MAX_MESSAGE, MAX_PIECE, Ack, Close, Data, End, Message, Ping, Want, pack, unpack

WINDOW = 16 << 20
"""Encoded bytes that may be sent and not acknowledged. Part of the protocol: a receiver must hold that much.

A single larger frame may go when nothing else is on its way.
"""
MAX_UNACKNOWLEDGED = 1024
"""Frames, so that tiny ones cost a receiver little more than their bytes."""
MAX_OPEN_WANTS = 8
SILENCE = 5.0
"""Seconds without a word after which the peer counts as lost."""
PINGS = 5
"""How often a side that has nothing to say says so within the peer's patience."""

Event = Want | Frame | Ack | End | Close
"""What `Session.receive` tells: the message, or the whole frame that a Data completed."""


class Role(enum.Enum):
    SENDER = "sender"
    RECEIVER = "receiver"

    @property
    def other(self) -> Role:
        return Role.RECEIVER if self is Role.SENDER else Role.SENDER


class State(enum.Enum):
    OPENING = "opening"
    TRANSFER = "transfer"
    DRAINING = "draining"
    CLOSED = "closed"


SENDER, RECEIVER, EITHER = {Role.SENDER}, {Role.RECEIVER}, {Role.SENDER, Role.RECEIVER}

TRANSITIONS: dict[tuple[State, type[Message]], tuple[set[Role], State]] = {
    (State.OPENING, Want): (RECEIVER, State.TRANSFER),
    (State.OPENING, Ping): (EITHER, State.OPENING),
    (State.OPENING, Close): (EITHER, State.CLOSED),
    (State.TRANSFER, Want): (RECEIVER, State.TRANSFER),
    (State.TRANSFER, Data): (SENDER, State.TRANSFER),
    (State.TRANSFER, Ack): (RECEIVER, State.TRANSFER),
    (State.TRANSFER, End): (SENDER, State.DRAINING),  # while another Want is open: stays in TRANSFER
    (State.TRANSFER, Ping): (EITHER, State.TRANSFER),
    (State.TRANSFER, Close): (EITHER, State.CLOSED),
    (State.DRAINING, Want): (RECEIVER, State.TRANSFER),
    (State.DRAINING, Ack): (RECEIVER, State.DRAINING),
    (State.DRAINING, Ping): (EITHER, State.DRAINING),
    (State.DRAINING, Close): (EITHER, State.CLOSED),
    (State.CLOSED, Close): (EITHER, State.CLOSED),
}


class Window:
    """Frames that are sent and not acknowledged. One that is sent again counts once, by its last size."""

    def __init__(self, limit: int) -> None:
        """limit: bytes."""
        self.limit = limit
        self.bytes = 0
        self._sizes: dict[FrameId, int] = {}

    def fits(self, frame: FrameId, size: int) -> bool:
        rest = self.bytes - self._sizes.get(frame, 0)
        few = frame in self._sizes or len(self._sizes) < MAX_UNACKNOWLEDGED
        return rest == 0 or (few and rest + size <= self.limit)

    def take(self, frame: FrameId, size: int) -> None:
        self.bytes += size - self._sizes.get(frame, 0)
        self._sizes[frame] = size

    def release(self, frame: FrameId) -> None:
        self.bytes -= self._sizes.pop(frame, 0)

    def __contains__(self, frame: FrameId) -> bool:
        return frame in self._sizes


class Session:
    """One end's view of the conversation.

    Args:
        role: which end this is.
        now: seconds; the peer's silence counts from here.
        window: bytes; the receiver's must not be smaller than the sender's.
        silence: seconds without a word until the peer is lost.
    """

    def __init__(self, role: Role, now: float, *, window: int = WINDOW, silence: float = SILENCE) -> None:
        self.role = role
        self.state = State.OPENING
        self.window = Window(window)
        self.owed = 0
        """Wants that no End has answered yet."""
        self.acknowledged = FrameSet()
        self._said_close = False
        self._partial: tuple[FrameId, int, int] | None = None
        """The frame that is under way: its id, its total and the bytes said so far."""
        self._pieces = bytearray()
        self._silence = silence
        self._said = self._heard = now

    def send(self, message: Message, now: float) -> bytes:
        """The bytes of a message that it is our turn to say.

        Raises:
            ValueError: it is not, or it breaks a bound: a mistake of ours.
        """
        if fault := self._apply(self.role, message):
            raise ValueError(f"the {self.role.value} must not say {type(message).__name__} now: {fault}")
        self._said_close = self._said_close or isinstance(message, Close)
        self._said = now
        return pack(message)

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What one message of the peer means. A Ping and an unfinished frame mean nothing yet.

        What crosses our own Close on its way is dropped. A frame that is acknowledged already is too.

        Raises:
            ProtocolError: unreadable, out of turn or out of bounds; close the channel.
        """
        message = unpack(data)
        self._heard = now
        if self._said_close and not isinstance(message, Close):
            return []
        if fault := self._apply(self.role.other, message):
            raise ProtocolError(f"the peer said {type(message).__name__} out of turn: {fault}")
        match message:
            case Data(frame=frame, piece=piece):
                self._pieces += piece
                if self._partial is not None:
                    return []
                whole, self._pieces = bytes(self._pieces), bytearray()
                return [] if frame in self.acknowledged else [Frame(frame, whole)]
            case Ping():
                return []
            case _:
                return [message]

    def fits(self, frame: FrameId, size: int) -> bool:
        """Whether the window has room for a frame of so many bytes now."""
        return self.window.fits(frame, size)

    def next_deadline(self) -> float:
        """When `tick` has something to do, if nothing is said or heard until then. Seconds."""
        return min(self._said + self._silence / PINGS, self._heard + self._silence)

    def tick(self, now: float) -> list[Message]:
        """What to say because of the time: a Ping after a while of saying nothing.

        A tick that comes much too late (a suspended machine, a blocked process) says nothing of the peer,
        whose words may wait unread: it gets a little longer.

        Raises:
            PeerLost: nothing was heard for `silence` seconds.
        """
        if self.state is State.CLOSED:
            return []
        interval = self._silence / PINGS
        if now > self.next_deadline() + interval:
            self._heard = max(self._heard, now - self._silence + interval)
        if now >= self._heard + self._silence:
            raise PeerLost(f"the peer has not said a word for {self._silence:g} s")
        if now < self._said + interval:
            return []
        self._said = now
        return [Ping()]

    def _apply(self, speaker: Role, message: Message) -> str | None:
        """Take one message into the account; or say what is wrong with it and change nothing."""
        rule = TRANSITIONS.get((self.state, type(message)))
        if rule is None or speaker not in rule[0]:
            return f"the {speaker.value} may not in state {self.state.value}"
        following = rule[1]
        match message:
            case Want():
                if self.owed >= MAX_OPEN_WANTS:
                    return "too many requests are unanswered"
                self.owed += 1
            case Data():
                if fault := self._apply_piece(message):
                    return fault
            case Ack(frames):
                if not all(frame in self.window or frame in self.acknowledged for frame in frames):
                    return "it names a frame that was never sent"
                for frame in frames:
                    self.window.release(frame)
                    self.acknowledged.add(frame.kind, frame.index, frame.index + 1)
            case End():
                if self._partial:
                    return "a frame is unfinished"
                self.owed -= 1
                following = State.TRANSFER if self.owed else following
        self.state = following
        return None

    def _apply_piece(self, message: Data) -> str | None:
        frame, total, offset, piece = message
        if (self._partial or (frame, total, 0)) != (frame, total, offset):
            return "the pieces of a frame do not follow each other"
        if offset == 0 and frame not in self.acknowledged:
            if not self.window.fits(frame, total):
                return "too much is unacknowledged"
            self.window.take(frame, total)
        end = offset + len(piece)
        self._partial = (frame, total, end) if end < total else None
        return None


def split(frame: Frame, max_message: int = MAX_MESSAGE) -> Iterator[Data]:
    """The pieces of a frame, in order, so that each message has at most that many bytes."""
    step = max_message - (MAX_MESSAGE - MAX_PIECE)
    data = memoryview(frame.data)
    for offset in range(0, len(data), step):
        yield Data(frame.id, len(data), offset, bytes(data[offset : offset + step]))
