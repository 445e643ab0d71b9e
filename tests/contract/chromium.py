"""A headless Chromium with one page, which this test process serves it from loopback and talks with by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

PATIENCE = 60.0
"""Seconds: a browser on a busy machine takes its time to start."""
HIDING = "WebRtcHideLocalIpsWithMdns"
"""Chromium's feature that puts a name in the place of each address; on by default."""


def chromium() -> str:
    """The program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


class Page:
    """What the page says by POST, a path and a text each. A path that ends in ? asks: it is answered once that is known."""

    def __init__(self, html: str) -> None:
        self._html = html
        self._said: dict[str, asyncio.Future[str]] = {}
        self._answers: dict[str, asyncio.Future[str]] = {}

    async def hear(self, path: str) -> str:
        """What the page said under that path. Raises AssertionError if it said /failed instead."""
        said, failed = self._future(self._said, path), self._future(self._said, "/failed")
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait((said, failed), return_when=asyncio.FIRST_COMPLETED)
        assert not failed.done(), f"the page failed: {failed.result()}"
        return said.result()

    def tell(self, path: str, answer: str) -> None:
        """What the page gets for its request to that path, which waits until it is known."""
        self._future(self._answers, path).set_result(answer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            length = next(
                (int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")),
                0,
            )
            body = (await reader.readexactly(length)).decode()
            if method == "POST":
                said = self._future(self._said, path)
                if not said.done():
                    said.set_result(body)
                answer = await self._future(self._answers, path) if path.endswith("?") else ""
            else:
                answer = self._html if path == "/" else ""
            content = answer.encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
            )
            await writer.drain()

    def _future(self, among: dict[str, asyncio.Future[str]], path: str) -> asyncio.Future[str]:
        return among.setdefault(path, asyncio.get_running_loop().create_future())


@contextlib.asynccontextmanager
async def browsing(html: str, folder: Path, *, hiding: bool) -> AsyncIterator[Page]:
    """Chromium shows that page. hiding: names in the place of its addresses, as is its default."""
    program = chromium()
    page = Page(html)
    server = await asyncio.start_server(page.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless=new",
        "--no-sandbox",
        "--no-first-run",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--{'enable' if hiding else 'disable'}-features={HIDING}",
        f"--user-data-dir={folder}",
        f"http://127.0.0.1:{port}/",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
        start_new_session=True,
    )
    try:
        yield page
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        server.close()
        await server.wait_closed()
