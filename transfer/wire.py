"""Messages between the two peers: small ones on a message channel (data channel), signals on the bus.

Channel messages are binary: type (1 byte), then fixed fields, big-endian. Signals are msgpack
structs, sealed with the key of their direction; they name a session (16 random bytes that the
receiver chose in its hello) and count up, so that a replayed or reordered signal is noticed.
Every length a peer states is checked here, before memory is taken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from transfer.codec import max_encoded
from transfer.errors import DamagedData, ProtocolError, UnsupportedVersion
from transfer.model import FORMAT, FrameId, FrameSet, Kind, SegmentRef
from transfer.seal import Purpose, Sealer

MAX_MESSAGE = 1 << 16
"""Bytes of one channel message. Source: RFC 8841 section 6.1: what a peer that states no limit accepts."""
MAX_RANGES = 4096
MAX_TEXT = 512
MAX_SIGNAL = 60_000
MAX_CANDIDATES = 64


class Want(NamedTuple):
    """Receiver: send me these. First on every channel, and again when a frame was damaged."""

    frames: FrameSet


class Data(NamedTuple):
    """Sender: a piece of an encoded frame. Pieces of a frame follow each other without a gap."""

    frame: FrameId
    total: int
    offset: int
    piece: bytes


class Ack(NamedTuple):
    """Receiver: written, and my ledger says so."""

    frames: tuple[FrameId, ...]


class End(NamedTuple):
    """Sender: everything you wanted has been sent."""


class Ping(NamedTuple):
    """Either: I am alive, though I have nothing to say."""


class Close(NamedTuple):
    """Either: I stop, and why. An empty reason is a good end."""

    reason: str


Message = Want | Data | Ack | End | Ping | Close

_WANT, _DATA, _ACK, _END, _PING, _CLOSE = range(1, 7)
_RANGE = struct.Struct(">BQQ")
_DATA_HEAD = struct.Struct(">BBIII")
_FRAME = struct.Struct(">BI")
MAX_PIECE = MAX_MESSAGE - _DATA_HEAD.size


def pack(message: Message) -> bytes:
    """The bytes of one channel message, at most MAX_MESSAGE."""
    match message:
        case Want(frames):
            return bytes([_WANT]) + b"".join(_RANGE.pack(*r) for r in frames.ranges()[: MAX_RANGES // 2])
        case Data(frame, total, offset, piece):
            return _DATA_HEAD.pack(_DATA, frame.kind, frame.index, total, offset) + piece
        case Ack(frames):
            return bytes([_ACK]) + b"".join(_FRAME.pack(*f) for f in frames)
        case End():
            return bytes([_END])
        case Ping():
            return bytes([_PING])
        case Close(reason):
            return bytes([_CLOSE]) + reason[: MAX_TEXT // 4].encode(errors="replace")


def unpack(data: bytes) -> Message:
    """Raises ProtocolError for anything that `pack` would not have written."""
    if not 0 < len(data) <= MAX_MESSAGE:
        raise ProtocolError("the peer sent a message of impossible length")
    kind, body = data[0], data[1:]
    try:
        match kind:
            case 1:
                return Want(FrameSet(_RANGE.iter_unpack(body)))
            case 2:
                return _unpack_data(data)
            case 3:
                return Ack(tuple(FrameId(_frame_kind(k), i) for k, i in _FRAME.iter_unpack(body)))
            case 4 | 5 if not body:
                return End() if kind == _END else Ping()
            case 6 if len(body) <= MAX_TEXT:
                return Close(body.decode())
    except (struct.error, UnicodeDecodeError):
        pass
    raise ProtocolError("the peer sent a message that cannot be read")


def _frame_kind(kind: int) -> Kind:
    if kind not in (Kind.MANIFEST, Kind.CHUNK, Kind.TRAILER):
        raise ProtocolError(f"the peer named a kind of frame that does not exist: {kind}")
    return Kind(kind)


def _unpack_data(data: bytes) -> Data:
    _, kind, index, total, offset = _DATA_HEAD.unpack_from(data)
    frame = FrameId(_frame_kind(kind), index)
    piece = data[_DATA_HEAD.size :]
    if not piece or total > max_encoded(frame.kind) or offset + len(piece) > total:
        raise ProtocolError("the peer sent a piece that does not fit its frame")
    return Data(frame, total, offset, piece)


class Description(msgspec.Struct, frozen=True, array_like=True):
    """What ICE and DTLS need to know of the other end. Sealed: nobody between sees or swaps it.

    candidates: SDP candidate lines without the `candidate:` prefix. fingerprints: (hash, hex) pairs.
    setup: DTLS role, `active`, `passive` or `actpass`. init: the value of this end's SCTP INIT chunk, so that no
    handshake is needed (draft-hancke-tsvwg-snap). max_message, max_packet: bytes this end accepts, of SCTP.
    """

    ufrag: str
    password: str
    candidates: list[str]
    fingerprints: list[tuple[str, str]]
    setup: str
    init: bytes
    max_message: int = MAX_MESSAGE
    max_packet: int = 1432


class Signal(msgspec.Struct, frozen=True, tag_field="t", kw_only=True):
    """v: format version. session: 16 bytes chosen by the receiver. seq: counts up for each sender of signals."""

    v: int = FORMAT
    session: bytes
    seq: int


class Hello(Signal, frozen=True, tag="hello"):
    """Receiver: I am here. user: where to answer. receiver: stays the same when a fetch is resumed."""

    user: str
    receiver: str
    routes: list[str]


class Offer(Signal, frozen=True, tag="offer"):
    """Sender: connect to me."""

    description: Description


class Answer(Signal, frozen=True, tag="answer"):
    """Receiver: and you to me."""

    description: Description


class Candidate(Signal, frozen=True, tag="candidate"):
    """Either: one more address, found late."""

    candidate: str


class UseStore(Signal, frozen=True, tag="store"):
    """Sender: this goes, or goes on, through the store. segments: how many are complete."""

    segments: int


class SegmentStored(Signal, frozen=True, tag="segment"):
    """Sender: a reference; saves the receiver asking the broker."""

    ref: SegmentRef


class Receipted(Signal, frozen=True, tag="receipt"):
    """Receiver: a sealed receipt (`ReceiptBody`), also left with the broker."""

    sealed: bytes


class Void(Signal, frozen=True, tag="void"):
    """Sender: this job will never be complete. reason: a sentence for the receiver's user."""

    reason: str


AnySignal = Hello | Offer | Answer | Candidate | UseStore | SegmentStored | Receipted | Void
_decoder = msgspec.msgpack.Decoder(AnySignal)


def seal_signal(sealer: Sealer, direction: Purpose, signal: AnySignal) -> bytes:
    return bytes(sealer.seal(direction, 0, msgspec.msgpack.encode(signal)))


def open_signal(sealer: Sealer, direction: Purpose, sealed: bytes) -> AnySignal:
    """Raises ProtocolError, DamagedData or UnsupportedVersion; callers drop the signal and go on."""
    if len(sealed) > MAX_SIGNAL:
        raise ProtocolError("a signal is too long")
    plain = sealer.open(direction, 0, sealed)
    try:
        signal: AnySignal = _decoder.decode(plain)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        if b"\xa1v" in plain[:64] and _version(plain) > FORMAT:
            raise UnsupportedVersion("the peer runs a newer xfer") from None
        raise DamagedData("a signal is not readable") from None
    if signal.v > FORMAT:
        raise UnsupportedVersion("the peer runs a newer xfer")
    if len(signal.session) != 16:
        raise ProtocolError("a signal names no session")
    if isinstance(signal, Offer | Answer) and len(signal.description.candidates) > MAX_CANDIDATES:
        raise ProtocolError("the peer states too many addresses")
    return signal


class _Versioned(msgspec.Struct):
    v: int = 0


def _version(plain: bytearray) -> int:
    try:
        return msgspec.msgpack.decode(plain, type=_Versioned).v
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return 0


def batch_acks(frames: Sequence[FrameId]) -> list[Ack]:
    """As many acks as the message limit asks for."""
    step = (MAX_MESSAGE - 1) // _FRAME.size
    return [Ack(tuple(frames[at : at + step])) for at in range(0, len(frames), step)]
