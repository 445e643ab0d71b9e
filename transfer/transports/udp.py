"""A UDP socket for many packets a turn: read in batches, sent in batches that the kernel cuts (GSO, GRO), else one by one.

It stands in for the transport that asyncio would give a `DatagramProtocol`, which takes a callback and a
system call for each packet. Source: udp(7), UDP_SEGMENT and UDP_GRO; Linux, include/uapi/linux/udp.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from collections import deque
from typing import Any, Protocol

Address = tuple[Any, ...]
BUFFER = 4 << 20
"""Bytes that the system may hold each way (it grants what it allows): a batch must not overflow it."""
READS = 32
"""Reads a turn: each gives up to 64 KiB of packets; others have their turn in between."""
SEGMENTS, LARGEST = 64, 65_000
"""Packets, and bytes, of one batch. Source: Linux, UDP_MAX_SEGMENTS; what a datagram over IPv4 can hold."""
_UDP, _SEGMENT, _GRO = 17, 103, 104
_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
"""IP_MTU_DISCOVER and IPV6_MTU_DISCOVER. Source: Linux, include/uapi/linux/in.h, in6.h."""
_MAY_FRAGMENT, _WHOLE = 0, 3
_LENGTH = struct.Struct("=H")
_INT = struct.Struct("=i")


class Batches(Protocol):
    """Who hears of packets: `data` came from one address, in packets of `size` bytes, the last maybe shorter."""

    def batch_received(self, data: bytes, size: int, address: Address) -> None: ...
    def turn_ended(self) -> None: ...
    def writable(self) -> None: ...
    def connection_lost(self, error: Exception | None) -> None: ...


class UdpTransport(asyncio.DatagramTransport):
    """full: packets wait until the system takes more; nobody should send then, but it does no harm."""

    def __init__(self, address: str, protocol: Batches) -> None:
        """Binds to a free port of that address. Raises OSError; NotImplementedError on a loop without readers."""
        super().__init__()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._waiting: deque[tuple[bytes | memoryview, int, Address]] = deque()
        self._closed = False
        self._buffer = bytearray(1 << 16)
        self._view = memoryview(self._buffer)
        self._cuts = self._joins = False
        try:
            self._socket.setblocking(False)
            self._socket.bind((address, 0))
            self._set_up(family)
            self._loop.add_reader(self._socket.fileno(), self._readable)
        except BaseException:
            self._socket.close()
            raise

    @property
    def full(self) -> bool:
        return bool(self._waiting)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":
            return self._socket.getsockname()
        return self._socket if name == "socket" else default

    def is_closing(self) -> bool:
        return self._closed

    def sendto(self, data: Any, addr: Any = None) -> None:
        """One packet. addr: where to; these sockets are not connected."""
        self.send_batch(data, len(data), addr)

    def send_batch(self, data: bytes, size: int, address: Address) -> None:
        """Packets of `size` bytes each, the last maybe shorter, laid end to end."""
        if self._closed:
            return
        step = min(SEGMENTS, max(1, LARGEST // size)) * size
        view = memoryview(data)
        for at in range(0, len(data), step):
            batch = view[at : at + step]
            if self._waiting or not self._sent(batch, size, address):
                if not self._waiting:
                    self._loop.add_writer(self._socket.fileno(), self._writable)
                self._waiting.append((bytes(batch), size, address))

    def may_fragment(self) -> None:
        """From now on IP may cut packets on their way: for what was made for a larger path."""
        self._discover(_MAY_FRAGMENT)

    def close(self) -> None:
        if not self._closed:
            self.abort()

    def abort(self) -> None:
        """Close without a word. The protocol hears of it in the next turn, as asyncio's transports have it."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def _set_up(self, family: socket.AddressFamily) -> None:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if sys.platform == "linux":
            self._discover(_WHOLE)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(_UDP, _GRO, 1)
                self._joins = True
            with contextlib.suppress(OSError):
                self._socket.setsockopt(_UDP, _SEGMENT, 0)
                self._cuts = True

    def _discover(self, how: int) -> None:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._socket.setsockopt(*_DISCOVER[self._socket.family], how)

    def _sent(self, batch: memoryview | bytes, size: int, address: Address) -> bool:
        """Whether the system has it. What it refuses for good is lost, as it could be on its way."""
        try:
            if len(batch) <= size:
                self._socket.sendto(batch, address)
                return True
            if self._cuts:
                try:
                    self._socket.sendmsg((batch,), ((_UDP, _SEGMENT, _LENGTH.pack(size)),), 0, address)
                    return True
                except BlockingIOError:
                    return False
                except OSError as error:
                    if error.errno not in (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP):
                        return True
                    self._cuts = (
                        error.errno == errno.EINVAL
                    )  # EINVAL: too large for this path; else the device cannot
            for at in range(0, len(batch), size):
                self._socket.sendto(batch[at : at + size], address)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _writable(self) -> None:
        while self._waiting:
            if not self._sent(*self._waiting[0]):
                return
            self._waiting.popleft()
        self._loop.remove_writer(self._socket.fileno())
        self._protocol.writable()

    def _readable(self) -> None:
        came = False
        for _ in range(READS):
            try:
                if self._joins:
                    length, notes, _, address = self._socket.recvmsg_into((self._buffer,), 64)
                    size = next(
                        (_INT.unpack_from(value)[0] for _, kind, value in notes if kind == _GRO), length
                    )
                else:
                    length, address = self._socket.recvfrom_into(self._buffer)
                    size = length
            except BlockingIOError:
                break
            except OSError:  # an ICMP error of an earlier packet
                continue
            if length:
                came = True
                self._protocol.batch_received(self._view[:length].tobytes(), size, address)
            if self._closed:
                return
        if came:
            self._protocol.turn_ended()
