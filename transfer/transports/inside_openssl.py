"""What of pyOpenSSL is not public: the place to look at when a new version comes. It takes a Python call, a lock and a
buffer for each record; `Records` calls OpenSSL itself for many at a time.

Raises XferError if a name is missing; then `plain` carries the transfer.
"""

from __future__ import annotations

from OpenSSL import SSL

from transfer.errors import XferError

CHECKED = "26."
"""The versions whose insides were looked at: how these begin."""

try:
    _lib, _ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]
    _SSL_write, _SSL_read, _BIO_write = _lib.SSL_write, _lib.SSL_read, _lib.BIO_write
except AttributeError as missing:
    raise XferError(f"the installed pyOpenSSL has no {missing.name}, which the direct route needs") from None

LARGEST_RECORD, MOST_OVERHEAD = 16_640, 128
"""Bytes of a record, and how many of them are not its data. Source: RFC 6347, RFC 5246 section 6.2.3."""


class Records:
    """Data of a pyOpenSSL connection whose handshake is done, many records a call."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self._ssl, self._bio = connection._ssl, connection._into_ssl
        self._plain = _ffi.new("char[]", LARGEST_RECORD)
        self._view = _ffi.buffer(self._plain)

    def seal(self, packets: list[bytes]) -> tuple[bytes, int]:
        """A record for each, laid end to end, and the bytes that each is larger than its packet. Nothing on failure."""
        ssl, total = self._ssl, 0
        for packet in packets:
            if _SSL_write(ssl, packet, len(packet)) <= 0:
                _lib.ERR_clear_error()
                return b"", 0
            total += len(packet)
        sealed = self._connection.bio_read(total + len(packets) * MOST_OVERHEAD)
        return sealed, (len(sealed) - total) // len(packets)

    def open(self, data: bytes, size: int, into: list[bytes]) -> None:
        """Records of `size` bytes each, the last maybe shorter. What is no good record is passed over."""
        ssl, bio, plain, view = self._ssl, self._bio, self._plain, self._view
        step = (
            max(1, LARGEST_RECORD // size) * size
        )  # OpenSSL reads no more at once, and forgets what is cut off
        for at in range(0, len(data), step):
            piece = data[at : at + step] if len(data) > step else data
            _BIO_write(bio, _ffi.from_buffer(piece), len(piece))
            while (length := _SSL_read(ssl, plain, LARGEST_RECORD)) > 0:
                into.append(view[:length])
        _lib.ERR_clear_error()
