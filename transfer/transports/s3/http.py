"""The store's side of the S3 route: signed URLs over urllib3, from threads; its refusals in our words."""

from __future__ import annotations

import base64
import contextlib
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import google_crc32c

from transfer.api import SignedUrl
from transfer.broker_client import JobPaused
from transfer.bwlimit import BwLimit
from transfer.config import to_trust
from transfer.errors import DamagedData, JobGone, StoreUnreachable, Temporary, UntrustedServer, XferError
from transfer.hold import Hold
from transfer.model import Bytes
from transfer.transports.s3.congestion import NetworkPath
from transfer.transports.s3.proxies import proxy_for, shown
from transfer.unreachable import why

if TYPE_CHECKING:
    import urllib3

PIECE = 1 << 17
"""Bytes that are sent, read or summed at a time, and counted."""
END_WITHIN, SIT_OUT, LOOK_EVERY = 0.3, 10.0, 0.05
"""A pause is obeyed within half a second, and its word takes a part of that. Seconds after which a part that is under
way still may end, if it goes on as fast as so far; any other stops at once. Seconds that this one then sits out the
pause, before it is given up and sent again from its beginning: S3 has a part whole or not at all, takes none of less
than 5 MiB, and cuts off what is silent for 20 s or more. And seconds between two looks."""
MAX_ANSWER = 1 << 14
"""Bytes that are read of an answer which carries no payload."""
_KINDS = {
    "ConnectTimeoutError": "timed out",
    "ReadTimeoutError": "timed out",
    "ProtocolError": "connection broken",
    "NameResolutionError": "unknown host",
}


class SignatureRefused(Temporary):
    """400 or 403: the URL may have expired (SeaweedFS and AWS say 403, others 400). Sign again, try once more."""

    hint = "check the broker's S3 credentials and the clocks of broker and store, then run the same command again"


def crc32c(pieces: Sequence[Bytes]) -> str:
    """Of all of them in a row, as S3 states it: base64 of the 4 big-endian bytes."""
    crc = 0
    for piece in pieces:
        view = memoryview(piece)
        for at in range(
            0, len(view), PIECE
        ):  # it takes what cannot change, so a copy that stays in the cache
            crc = google_crc32c.extend(crc, bytes(view[at : at + PIECE]))
    return base64.b64encode(struct.pack(">I", crc)).decode()


def lives(url: SignedUrl) -> float:
    """Seconds for which a URL is good from its signing, as it says; 0 if it does not."""
    said = parse_qs(urlsplit(url.url).query).get("X-Amz-Expires", [""])[0]
    return float(said) if said.isascii() and said.isdigit() else 0.0


class SlowDown(StoreUnreachable):
    """503: too many requests for it just now."""


class Moved:
    """How much of a request's body has gone, or come, in this try. One thread writes it, whoever wants to know reads it."""

    bytes = 0


class StoreHttp:
    """A pool of connections to the store. Blocking: call it from threads.

    connections: how many are kept. limit: of bytes a second, over all of them. moved: bytes of bodies so far.
    path: what the connections see of the way. ca: PEM file of the authorities that may vouch for the store, and no
    others; None: those of the system. hold: during its pauses nothing more is sent.
    One try each; the caller retries. Redirects are never followed, because a signed URL is a secret.
    Proxy: as `proxies` finds it.
    urllib3 is imported with the first request: it takes 50 ms, which a transfer from peer to peer need not spend.
    """

    def __init__(
        self,
        connections: int,
        limit: BwLimit | None = None,
        hold: Hold | None = None,
        ca: Path | None = None,
    ) -> None:
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._ca = ca
        self._connections, self._limit, self._hold = connections, limit, hold
        self.path = NetworkPath()
        self._closed = False
        self._counting, self._making = threading.Lock(), threading.Lock()
        self.moved = 0

    def close(self) -> None:
        with self._making:
            self._closed = True
        for pool in self._pools.values():
            pool.clear()

    def connect(self, origin: str) -> None:
        """Have one more connection there, for a request to come. What goes wrong is that request's to tell, and a proxy is
        left to it, too."""
        with contextlib.suppress(XferError, *_failures()):
            if not self._closed and not proxy_for(origin):
                self._pool(origin).connection_from_url(origin).ready()  # type: ignore[attr-defined]  # `connections`

    def put(self, url: SignedUrl, body: Sequence[Bytes], moved: Moved | None = None) -> str:
        """Store a part, piece by piece; returns its ETag. moved: kept up to date.

        Raises SignatureRefused (also for a body that does not match its checksum), StoreUnreachable; JobPaused.
        """
        moved = moved or Moved()
        try:
            response = self._request("PUT", url, body=self._pieces(body, moved))
        except XferError:
            moved.bytes = 0  # the store has a part whole or not at all
            raise
        self._let_go(response)
        etag: str = response.headers.get("ETag", "").strip('"')
        if not etag:
            raise StoreUnreachable(
                "the store took a part but returned no ETag", hint="use a store with S3 multipart uploads"
            )
        return etag

    def get(self, url: SignedUrl, start: int, length: int, moved: Moved | None = None) -> bytes:
        """Bytes start … start+length of an object. moved: kept up to date.

        Raises SignatureRefused, JobGone, StoreUnreachable; DamagedData where the object has not so many.
        """
        headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        response = self._request("GET", url, headers=headers)
        try:
            data = self._read(response, length + 1, moved or Moved())  # never more, whatever the store sends
        except _failures() as error:
            raise StoreUnreachable(f"the store at {_place(url.url)} broke off ({_plain(error)})") from None
        finally:
            response.release_conn()
        if len(data) != length:
            response.close()
            raise StoreUnreachable(f"the store sent {len(data)} bytes where {length} were asked for")
        return data

    def _pieces(self, body: Sequence[Bytes], moved: Moved) -> Iterator[memoryview]:
        """In handy lengths, each when its time has come."""
        step, left, moved.bytes = self._limit.piece if self._limit else PIECE, sum(map(len, body)), 0
        began, paused = time.monotonic(), None
        for data in body:
            whole = memoryview(data)
            for at in range(0, len(whole), step):
                piece = whole[at : at + step]
                if self._limit:
                    time.sleep(self._limit.debt(len(piece)))
                if self._hold is None or not self._hold.paused:
                    paused = None
                else:
                    now = time.monotonic()
                    paused = now if paused is None else paused
                    until_done = (now - began) * left / moved.bytes if moved.bytes else END_WITHIN
                    if now + until_done >= paused + END_WITHIN:
                        self._sit_out()
                yield piece
                left -= len(piece)
                moved.bytes += len(piece)
                self._count(len(piece))

    def _sit_out(self) -> None:
        """Raises JobPaused for a pause that is not over soon."""
        began = time.monotonic()
        while self._hold is not None and self._hold.paused:
            if self._closed or time.monotonic() - began > SIT_OUT:
                raise JobPaused("this transfer is paused by its owner")
            time.sleep(LOOK_EVERY)

    def _read(self, response: Any, most: int, moved: Moved) -> bytes:
        from transfer.transports.s3.connections import look

        pieces, left, step = [], most, self._limit.piece if self._limit else PIECE
        moved.bytes = 0
        while left and (piece := response.read(min(left, step), decode_content=False)):
            pieces.append(piece)
            left -= len(piece)
            moved.bytes += len(piece)
            self._count(len(piece))
            look(response.connection)
            if self._limit:
                time.sleep(self._limit.debt(len(piece)))  # what is not read yet, TCP holds back at the store
        return b"".join(pieces)

    def _count(self, length: int) -> None:
        with self._counting:
            self.moved += length

    def _request(
        self,
        method: str,
        url: SignedUrl,
        body: Iterator[memoryview] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        if self._closed:
            raise StoreUnreachable("the transfer was stopped")
        try:
            response = self._pool(url.url).request(
                method,
                url.url,
                body=body,  # type: ignore[arg-type]  # what it sends is any buffer
                headers={**url.headers, **(headers or {})},
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except _failures() as error:
            if (distrust := _distrust(error)) is not None:
                raise UntrustedServer(
                    f"the store at {_place(url.url)} is not to be trusted: {distrust}",
                    hint=to_trust(self._ca),
                ) from None
            raise StoreUnreachable(
                f"the store at {_place(url.url)} does not answer ({_plain(error)})"
            ) from None
        if response.status in (200, 201, 204, 206):
            return response
        raise _refusal(response, _place(url.url))

    def _let_go(self, response: Any) -> None:
        """Keep the connection if the rest of the body is short: what says nothing to us is not read for ever."""
        with contextlib.suppress(*_failures()):
            if len(response.read(MAX_ANSWER, decode_content=False)) < MAX_ANSWER:
                response.release_conn()
                return
        response.close()

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy = proxy_for(url)
        with self._making:
            if self._closed:
                raise StoreUnreachable("the transfer was stopped")
            if proxy not in self._pools:
                from transfer.transports.s3.connections import make_pool

                self._pools[proxy] = make_pool(self._connections, proxy, self.path, self._ca)
            return self._pools[proxy]


def _failures() -> tuple[type[Exception], ...]:
    """What a request may raise that never reached the store, or whose answer broke off."""
    from urllib3.exceptions import HTTPError

    return HTTPError, OSError


def _refusal(response: Any, host: str) -> XferError:
    try:
        code = _error_code(response.read(MAX_ANSWER, decode_content=False))
    except _failures():
        code = ""
    response.close()
    said = f"{response.status} {code}".strip()
    if response.status == 404:
        return JobGone(f"the store at {host} no longer has this transfer", hint="start it anew")
    if response.status == 416:
        return DamagedData("the store has less of this transfer than was put there")
    if response.status in (400, 403):
        return SignatureRefused(f"the store at {host} refused a signed request ({said})")
    kind = SlowDown if response.status == 503 or code == "SlowDown" else StoreUnreachable
    error = kind(f"the store at {host} cannot serve now ({said})")
    after = response.headers.get("Retry-After", "")
    if after.isascii() and after.isdigit():
        error.retry_after = float(after)
    return error


def _error_code(body: bytes) -> str:
    start, end = body.find(b"<Code>"), body.find(b"</Code>")
    return body[start + 6 : end].decode("ascii", "replace")[:60] if 0 <= start < end else ""


def _place(url: str) -> str:
    """The store's host, and the proxy on the way there, which may be what is wrong."""
    host, proxy = urlsplit(url).netloc.rpartition("@")[2], proxy_for(url)
    return f"{host} (by way of the proxy {shown(proxy)})" if proxy else host


def _plain(error: Exception) -> str:
    """urllib3's messages hold the URL, which is a secret: say the kind only."""
    reason = getattr(error, "reason", None) or error
    text = type(reason).__name__
    return _KINDS.get(text) or why(error) or text


def _distrust(error: BaseException | None) -> str | None:
    """What was wrong with the certificate, if that is at the bottom of it; urllib3 wraps it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return None if error is None else error.verify_message
