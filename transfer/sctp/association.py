"""One SCTP association as a state machine: packets and time go in, packets and messages come out.

See the package's docstring for what is implemented and what is not.
A little over 400 lines: what is left here is the one state that all its parts share, and who has the next word.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Set

from transfer.sctp import packet as wire
from transfer.sctp.congestion import Adaptive, Controller
from transfer.sctp.handshake import Handshake, State
from transfer.sctp.liveness import DEAD, Liveness
from transfer.sctp.outbox import Outbox
from transfer.sctp.packet import DATA_HEADER, HEADER, IMMEDIATE, Header, Init, Malformed, Type, unwrap
from transfer.sctp.pmtu import PathMtu
from transfer.sctp.receiving import DELAY, Message, Receiver, Violation
from transfer.sctp.resets import Resets
from transfer.sctp.sending import CHUNK_HEADER, Sender
from transfer.sctp.timing import Silence

PORT = 5000
"""What WebRTC uses on both ends (RFC 8841)."""
WINDOW = 32 << 20
LARGEST_MESSAGE = 1 << 18
AT_ONCE = 256 << 10
"""Bytes that one `poll` makes at most, so that what arrives meanwhile has its turn."""
AHEAD = 0.001
"""Seconds for which a paced sender sends at once: timers are no finer."""
_HEAD = struct.Struct("!BBH")
_QUESTION = struct.pack("!HH", 1, 4)
"""A HEARTBEAT's parameter without content; those of the path-MTU search hold a size."""
_KNOWN = frozenset(Type)

__all__ = ["PORT", "Association", "State"]


class Association:
    """One end. Time is an argument: seconds of any clock that never goes back.

    After any call, `poll` says what to send, `take` what has arrived, and `deadline` when to poll again.

    Args:
        random: so many unforeseeable bytes (`secrets.token_bytes`).
        largest_packet: bytes of the largest packet that the peer is known to take.
        controller: how much may be on its way; for tests.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        *,
        port: int = PORT,
        peer_port: int = PORT,
        window: int = WINDOW,
        largest_message: int = LARGEST_MESSAGE,
        largest_packet: int = 1432,
        controller: Callable[[int], Controller] = Adaptive,
    ) -> None:
        self.state = State.NEW
        self.reason = ""
        self._ports = port, peer_port
        self._window, self._largest = window, largest_message
        self._handshake = Handshake(random, window)
        self._incoming = Header(peer_port, port, self.init.tag)
        self._out = Outbox(Header(port, peer_port, 0))
        self._mtu = PathMtu(largest_packet)
        self._controller = controller(self._piece)
        self._sender = Sender(self.init.tsn, 0)
        self._receiver: Receiver | None = None
        self._liveness = Liveness()
        self._silence = Silence()
        self._owed = 0
        self._paced = 0.0
        self._resets: Resets | None = None

    @property
    def init(self) -> Init:
        """What the other end must know of this one."""
        return self._handshake.init

    @property
    def buffered(self) -> int:
        """Bytes of messages that are not sent yet."""
        return self._sender.queued

    @property
    def unacknowledged(self) -> int:
        """Bytes that are on their way."""
        return self._sender.flight

    @property
    def sent_again(self) -> int:
        """Bytes that had to be sent more than once."""
        return self._sender.sent_again

    @property
    def resets(self) -> Set[int]:
        """The streams that the peer has closed: all that it sent on them has arrived."""
        return self._resets.by_peer if self._resets is not None else frozenset()

    @property
    def packet_size(self) -> int:
        return self._mtu.size

    @property
    def may_fragment(self) -> bool:
        """Packets larger than the path takes are on their way again: they must be cut below us, or never arrive."""
        return self._mtu.shrank

    def start(self, now: float) -> None:
        """Begin the handshake. Both ends may."""
        if self.state is State.NEW:
            self.state = State.INIT_SENT
            self._handshake.begin(now)

    def agree(self, peer: Init, now: float, largest_packet: int | None = None) -> None:
        """Both ends know the other's `init` by other means: no handshake is needed (draft-hancke-tsvwg-snap).

        largest_packet: as for the constructor, if it was told with it.
        """
        if self.state is not State.CLOSED and self.state is not State.ESTABLISHED:
            if largest_packet is not None:
                self._mtu = PathMtu(largest_packet)
            self._meet(peer)
            self._establish(now)

    def send(self, stream: int, protocol: int, data: bytes, *, ordered: bool = True) -> None:
        """Queue a message; ignored once closed. Raises ValueError for an empty one."""
        if self.state is not State.CLOSED:
            self._sender.put(stream, protocol, data, ordered=ordered)

    def take(self) -> list[Message]:
        """The messages that have arrived since. Their room is free for others again when `free` was called."""
        if self._receiver is None:
            return []
        arrived, self._receiver.arrived = self._receiver.arrived, []
        return arrived

    def free(self, message: Message) -> None:
        """The user is done with that message: the peer may send as much again."""
        if self._receiver is not None:
            self._receiver.taken(message)

    def reset(self, stream: int) -> None:
        """Close a stream in our direction, once everything that was queued is sent."""
        if self._resets is not None:
            self._resets.want(stream)

    def close(self, reason: str = "") -> None:
        """Abort: nothing more is sent but that (RFC 9260 section 9.1)."""
        if self.state is not State.CLOSED:
            if self._handshake.peer is not None:
                self._out.say_alone(Type.ABORT)
            self._end(reason)

    def receive(self, packet: bytes, now: float) -> None:
        """Take a packet. What is damaged, forged or makes no sense is dropped."""
        if self.state is State.CLOSED or len(packet) < HEADER + _HEAD.size:
            return
        if not self._incoming.admits(packet):
            self._greeted(packet)
            return
        self._liveness.heard = now
        receiver, at, end = self._receiver, HEADER, len(packet)
        try:
            while at + 4 <= end:
                kind, flags, length = _HEAD.unpack_from(packet, at)
                if length < 4 or at + length > end:
                    return
                if kind == 0:
                    if receiver is None or length < CHUNK_HEADER:
                        return
                    _, _, _, tsn, stream, _, protocol = DATA_HEADER.unpack_from(packet, at)
                    receiver.data(
                        unwrap(tsn, receiver.cumulative),
                        flags,
                        stream,
                        protocol,
                        packet[at + 16 : at + length],
                    )
                    if flags & IMMEDIATE:
                        receiver.hurry()
                elif not self._chunk(kind, packet[at + 4 : at + length], now):
                    return
                at += length + 3 & ~3
        except Violation as error:
            self.close(f"the peer broke the protocol: {error}")
        except (Malformed, struct.error):
            pass

    def poll(self, now: float) -> list[bytes]:
        """The packets to send now."""
        if self.state is not State.CLOSED:
            self._timers(now)
        made = self._out.take_alone()
        if self.state is State.ESTABLISHED:
            self._probe_path(now, made)
            assert self._receiver is not None
            due = self._receiver.due(now)
            if due is not None and due <= now:
                self._out.shared.append(self._receiver.sack(self._mtu.size - HEADER, now))
            self._ask_resets(now)
            made += self._out.take_shared(self._mtu.size)
            self._data(now, made)
        return made

    def deadline(self, now: float) -> float | None:
        """When `poll` must be called again, unless something happens before; None: not until then."""
        if self.state is State.CLOSED:
            return now if self._out.alone else None
        if self._out.alone:
            return now
        if self.state in (State.INIT_SENT, State.COOKIE_SENT):
            return self._handshake.due
        if self.state is not State.ESTABLISHED or self._receiver is None:
            return None
        if self._out.shared:
            return now
        moments = [self._receiver.due(now), self._mtu.due(), self._sender.overdue, self._liveness.due()]
        if self._sender.outstanding:
            moments.append(self._silence.due(self._sender.trip, DELAY))
        if self._resets is not None and not self._sender.queued:
            moments.append(self._resets.due)
        if self._sendable():
            moments.append(self._paced if self._controller.rate else now)
        return min((moment for moment in moments if moment is not None), default=None)

    # The handshake

    def _greeted(self, packet: bytes) -> None:
        """Packets of a peer that does not know us yet."""
        peer = self._handshake.greets(packet, (self._ports[1], self._ports[0]))
        if peer is None:
            return
        known = self._handshake.peer
        if known is None or (self.state is not State.ESTABLISHED and known != peer):
            self._meet(peer)
        if (
            self._handshake.peer is not None and peer.tag == self._handshake.peer.tag
        ):  # not one from another life
            self._out.say_alone(Type.INIT_ACK, self._handshake.answer)

    def _meet(self, peer: Init) -> None:
        self._handshake.peer = peer._replace(cookie=b"")
        self._out.header = Header(*self._ports, peer.tag)
        self._receiver = Receiver(peer.tsn, self._window, self._largest)
        self._sender.window = peer.window
        self._resets = Resets(self.init.tsn, peer.tsn)

    def _establish(self, now: float) -> None:
        if self.state is not State.ESTABLISHED:
            self.state = State.ESTABLISHED
            self._liveness.heard = now

    def _chunk(self, kind: int, value: bytes, now: float) -> bool:
        """Whether the rest of the packet is to be read."""
        established = self.state is State.ESTABLISHED
        match kind:
            case Type.SACK if established:
                self._sacked(value, now)
            case Type.INIT_ACK if self.state is State.INIT_SENT:
                self._meet(self._handshake.acknowledged(value, now))
                self.state = State.COOKIE_SENT
            case Type.COOKIE_ECHO if self._handshake.echoed(value):
                self._out.say_alone(Type.COOKIE_ACK)
                self._establish(now)
            case Type.COOKIE_ACK if self.state is State.COOKIE_SENT:
                self._establish(now)
            case Type.HEARTBEAT if (
                not established
            ):  # the peer is further than we are, and asks whether we live
                self._out.say_alone(Type.HEARTBEAT_ACK, value[:8])
            case Type.HEARTBEAT if len(value) <= 1024:
                self._out.answer(Type.HEARTBEAT_ACK, value)
            case Type.HEARTBEAT_ACK if len(value) == 8:
                self._mtu.answered(struct.unpack("!HHI", value)[2])
                self._controller.piece = self._piece
            case Type.ABORT:
                self._end("the peer ended the connection")
            case Type.SHUTDOWN | Type.SHUTDOWN_ACK:
                self._out.say_alone(Type.SHUTDOWN_ACK if kind == Type.SHUTDOWN else Type.SHUTDOWN_COMPLETE)
                self._end("the peer closed the connection")
            case Type.RE_CONFIG if established:
                self._reconfigured(value)
            case _:
                return (
                    bool(kind & 0x80) or kind in _KNOWN
                )  # what is unknown ends the packet, unless it says otherwise
        return True

    def _reconfigured(self, value: bytes) -> None:
        assert self._receiver is not None
        assert self._resets is not None
        answers, ended = self._resets.received(value, self._receiver.cumulative)
        for answer in answers:
            self._out.say(Type.RE_CONFIG, answer)
        for stream in ended:
            self._sender.restart_stream(stream)

    def _ask_resets(self, now: float) -> None:
        assert self._resets is not None
        if self._resets.due is not None and not self._sender.queued:
            request = self._resets.request(self._sender.last, now, self._sender.trip.timeout)
            if request is not None:
                self._out.say(Type.RE_CONFIG, request)

    # Data

    @property
    def _piece(self) -> int:
        return self._mtu.size - HEADER - CHUNK_HEADER

    @property
    def _full(self) -> bool:
        return self._sender.flight >= self._controller.window

    def _sendable(self) -> bool:
        sender = self._sender
        if not sender.waiting:
            return False
        if not sender.outstanding or self._owed:
            return True
        return sender.flight < self._controller.window and (sender.repairing or sender.flight < sender.window)

    def _data(self, now: float, made: list[bytes]) -> None:
        sender, rate = self._sender, self._controller.rate
        if not sender.waiting:
            return
        budget = min(max(self._controller.window - sender.flight, self._owed), AT_ONCE)
        if rate:
            if self._paced > now:
                return
            self._paced = max(self._paced, now - AHEAD)
            budget = min(budget, int((now + AHEAD - self._paced) * rate) + 1)
        if budget <= 0 and sender.outstanding:
            return
        fresh = not sender.outstanding
        before = sender.flight
        self._owed = 0
        made += sender.packets(self._out.header, self._mtu.size - HEADER, budget, now)
        if rate:
            self._paced += (sender.flight - before) / rate
        if fresh and sender.outstanding:
            self._silence.begin(now)

    def _sacked(self, value: bytes, now: float) -> None:
        closed = not self._sender.window
        sample = self._sender.sacked(wire.unpack_sack(value), now)
        if sample is None:
            return
        if closed and self._sender.window:
            self._sender.all_lost()  # what asked for the window was refused
        if sample.acked:
            self._silence.broken(now)
            # What arrived may be replaced twice over, full window or not: it may be full of what arrived long ago, too,
            # of which a SACK with too many gaps says nothing (RFC 6937 has the like).
            self._owed = 2 * sample.acked if self._sender.repairing and self._full else 0
        self._controller.sacked(sample, self._sender.trip, self._sender.flight, now)

    # Time

    def _timers(self, now: float) -> None:
        if self.state in (State.INIT_SENT, State.COOKIE_SENT):
            self._go_on_greeting(now)
        if self.state is not State.ESTABLISHED:
            return
        if self._liveness.lost(now):
            self.close(f"the peer was silent for {DEAD:g} seconds")
            return
        if self._liveness.asks(now):
            self._out.say(Type.HEARTBEAT, _QUESTION)
        sender = self._sender
        if sender.overdue is not None and now >= sender.overdue:
            self._tell_lost(sender.find_lost(now), now)
        if sender.outstanding and now >= self._silence.due(self._sender.trip, DELAY):
            timeouts = self._silence.endured(now)
            if not timeouts:
                self._owed = 1
                sender.probe(now)
            else:
                sender.all_lost()
                self._controller.timed_out(sender.flight, now)
                if timeouts > 1 and self._mtu.lost():
                    self._controller.piece = self._piece

    def _tell_lost(self, lost: int, now: float) -> None:
        if lost:
            sample = self._sender.sample_of_loss(lost)
            self._controller.sacked(sample, self._sender.trip, self._sender.flight, now)

    def _go_on_greeting(self, now: float) -> None:
        if now < self._handshake.due:
            return
        said = self._handshake.again(self.state, now)
        if said is None:
            self._end("the peer does not answer")
        elif self.state is State.INIT_SENT:  # it bears no tag, whether or not the peer's is known
            self._out.alone.append(Header(*self._ports, 0).packet(wire.chunk(*said)))
        else:
            self._out.say_alone(*said)

    def _probe_path(self, now: float, made: list[bytes]) -> None:
        size = self._mtu.probe(now, 3 * self._sender.trip.smoothed + DELAY)
        if size is not None:
            beat = wire.chunk(Type.HEARTBEAT, struct.pack("!HHI", 1, 8, size))
            pad = wire.chunk(Type.PAD, bytes(size - HEADER - len(beat) - 4))
            made.append(self._out.header.packet(beat, pad))

    def _end(self, reason: str) -> None:
        self.state = State.CLOSED
        self.reason = self.reason or reason
