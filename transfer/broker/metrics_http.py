"""`/metrics` and `/healthz` on loopback: a few lines of HTTP/1.1, one request a connection, bounded in every way.

Not prometheus_client's own server: that is a thread for each connection, without a limit of their number or time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from transfer.errors import UsageError

HOST = "127.0.0.1"
MAX_HEAD = 8192
"""Bytes of a request's head."""
AT_ONCE = 16
"""Connections; one more is closed unanswered."""
HEAD_WITHIN, ANSWER_WITHIN = 5.0, 5.0
"""Seconds for a client to state its request, and to take the answer."""
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}

Page = Callable[[], tuple[int, str, bytes]]
"""Status, content type and body."""


@contextlib.asynccontextmanager
async def serving(port: int, pages: dict[str, Page]) -> AsyncIterator[int]:
    """Answer GET and HEAD of these paths for as long as the block lasts. Gives the port. Raises UsageError."""
    server = _Server(pages)
    try:
        listening = await asyncio.start_server(server.answer, HOST, port, limit=MAX_HEAD)
    except OSError as error:
        raise UsageError(
            f"metrics cannot be served at {HOST}:{port} ({error.strerror})",
            hint="choose another port with --metrics",
        ) from None
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        for task in list(server.tasks):
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


class _Server:
    def __init__(self, pages: dict[str, Page]) -> None:
        self._pages = pages
        self.tasks: set[asyncio.Task[None]] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self.tasks) >= AT_ONCE:
            writer.transport.abort()
            return
        self.tasks.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, EOFError):
                async with asyncio.timeout(HEAD_WITHIN):
                    head = await _head(reader)
                writer.write(self._response(head))
                async with asyncio.timeout(ANSWER_WITHIN):
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            self.tasks.discard(task)
            writer.transport.abort()

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path, _, protocol = rest.partition(b" ")
        status, kind, body = 400, "text/plain", b""
        if protocol.startswith(b"HTTP/1."):
            page = self._pages.get(path.partition(b"?")[0].decode("ascii", "replace"))
            if page is None:
                status, body = 404, b"there are /metrics and /healthz\n"
            elif method not in (b"GET", b"HEAD"):
                status = 405
            else:
                status, kind, body = page()
        lines = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(["Allow: GET, HEAD"] if status == 405 else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == b"HEAD" else body)


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Up to the empty line; what is longer than MAX_HEAD, or ends before, is none: then an empty one."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
        return b""
