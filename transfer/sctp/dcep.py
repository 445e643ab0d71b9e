"""Data channels over an association: how one end opens them (DCEP, RFC 8832), and what a message is (RFC 8831).

A channel here is reliable and in order, carries bytes, and is the only one of its association.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from transfer.errors import ProtocolError
from transfer.sctp.association import Association
from transfer.sctp.receiving import Message

AGREED = 0
"""The stream of a channel that both ends know of beforehand."""
RELIABLE = 0x00
"""The channel type that loses nothing and keeps the order; all others do less."""
LAST_STREAM = 65534
"""Source: RFC 8832 section 6: 65535 is no stream, as SCTP cannot negotiate so many."""
_OPEN = struct.Struct("!BBHIHH")
_OPEN_TYPE, _ACK = 3, b"\x02"
_NOTHING = b"\0"


class Protocol(IntEnum):
    """The payload protocol of a message. Source: RFC 8831 section 8.

    SCTP has no empty message: those of the kinds EMPTY_ bear one byte that says nothing.
    """

    CONTROL = 50
    STRING = 51
    BINARY = 53
    EMPTY_STRING = 56
    EMPTY_BINARY = 57


class Open(NamedTuple):
    """DATA_CHANNEL_OPEN. kind: the channel type. reliability: retransmissions or milliseconds; 0 if RELIABLE."""

    label: str
    protocol: str = ""
    kind: int = RELIABLE
    priority: int = 256
    reliability: int = 0


def pack_open(opening: Open) -> bytes:
    label, protocol = opening.label.encode(), opening.protocol.encode()
    head = _OPEN.pack(
        _OPEN_TYPE, opening.kind, opening.priority, opening.reliability, len(label), len(protocol)
    )
    return head + label + protocol


def unpack(message: bytes) -> Open | None:
    """A control message: OPEN, or None for ACK. Raises ProtocolError for what is neither."""
    if message == _ACK:
        return None
    if len(message) >= _OPEN.size:
        type_, kind, priority, reliability, label, protocol = _OPEN.unpack_from(message)
        if type_ == _OPEN_TYPE and len(message) == _OPEN.size + label + protocol:
            at = _OPEN.size + label
            try:
                names = message[_OPEN.size : at].decode(), message[at:].decode()
            except UnicodeDecodeError:
                raise ProtocolError("the peer opened a channel whose name is no text") from None
            return Open(*names, kind, priority, reliability)
    raise ProtocolError("the peer sent a channel message that cannot be read")


class Line:
    """The one data channel of an association, on the stream that both ends agreed on, or opened by one of them.

    stream: None while the peer has not opened it. opened: the peer knows of it, too.
    """

    def __init__(self, association: Association, stream: int | None = AGREED) -> None:
        """stream: agreed beforehand; None: the peer is to open one by DCEP."""
        self.stream = stream
        self.opened = stream is not None
        self._association = association
        self._agreed, self._ours = stream is not None, False
        self._closed = False

    @classmethod
    def opening(cls, association: Association, stream: int, label: str) -> Line:
        """One that this end opens by DCEP. What is sent may follow at once (RFC 8832 section 6)."""
        line = cls(association, stream)
        line.opened, line._agreed, line._ours = False, False, True
        association.send(stream, Protocol.CONTROL, pack_open(Open(label)))
        return line

    @property
    def ended(self) -> bool:
        """The peer closed it, and all that it sent before has arrived."""
        return self.stream in self._association.resets

    def close(self) -> bool:
        """Say that nothing more will come, after all that was sent. Whether the peer is told: not of what was agreed."""
        told = self.opened and not self._agreed
        if told and not self._closed:
            assert self.stream is not None
            self._association.reset(self.stream)
        self._closed = True
        return told

    def send(self, data: bytes) -> None:
        """Queue a message. Only once there is a stream."""
        assert self.stream is not None
        if data:
            self._association.send(self.stream, Protocol.BINARY, data)
        else:
            self._association.send(self.stream, Protocol.EMPTY_BINARY, _NOTHING)

    def take(self) -> Iterator[Message]:
        """The messages of bytes that arrived since; `content` says what is in them, `free` is the caller's.

        Raises ProtocolError, after those that came before the one at fault.
        """
        for message in self._association.take():
            if message.protocol == Protocol.CONTROL:
                self._association.free(message)
                self._control(message)
            elif message.stream != self.stream:
                raise ProtocolError("the peer sent data on a channel that is not open")
            elif message.protocol in (Protocol.BINARY, Protocol.EMPTY_BINARY):
                yield message
            else:
                raise ProtocolError("the peer sent text on a channel for bytes")

    def _control(self, message: Message) -> None:
        opening = unpack(message.data)
        if opening is None:
            if message.stream != self.stream or not self._ours:
                raise ProtocolError("the peer agreed to a channel that nobody opened")
            self.opened = True
            return
        if self.stream is not None:
            raise ProtocolError("the peer opened a second channel")
        if opening.kind != RELIABLE:
            raise ProtocolError("the peer opened a channel that may lose messages, or their order")
        if message.stream > LAST_STREAM:
            raise ProtocolError("the peer opened a channel on a stream that does not exist")
        self.stream, self.opened = message.stream, True
        self._association.send(self.stream, Protocol.CONTROL, _ACK)


def content(message: Message) -> bytes:
    """What a message of bytes says."""
    return b"" if message.protocol == Protocol.EMPTY_BINARY else message.data
