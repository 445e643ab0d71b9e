"""Wires: loopback ports that lead to a server, and can be cut, stalled, slowed, watched and tampered with.

A client is led over them by its NATS_URL and its http_proxy (SeaweedFS takes the absolute form of a
request as it takes the other one), so that each side's way to each server has a wire of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

FIRST, LAST = 30_000, 32_700
"""Ports above those of `xfer up` and below those that Linux hands out itself: a cut wire finds its own free again."""
PIECE = 1 << 17
Way = Callable[[bytes], bytes]
"""What becomes of the next bytes that come along, in order."""
T = TypeVar("T")


class Tap(Protocol):
    """Sees, and may change, what crosses a wire."""

    def connected(self) -> tuple[Way, Way]:
        """For a new connection: what is done to the client's bytes, and to the server's."""
        ...


class Wires:
    """The loop, in a thread of its own, that all wires of a test live in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._thread.start()
        self._wires: list[Wire] = []

    def to(self, port: int) -> Wire:
        """A new wire to that port of 127.0.0.1."""
        wire = Wire(self.do, port)
        self._wires.append(wire)
        return wire

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        for wire in self._wires:
            wire.cut()
        self.do(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Wire:
    """port: where clients connect. target: where it leads; may change, for connections to come.

    rate: bytes a second each way, over all connections; None: as fast as it goes. carried: bytes from
    clients, and to them.
    """

    def __init__(self, do: Callable[[Coroutine[Any, Any, Any]], Any], target: int) -> None:
        self.target = target
        self.rate: float | None = None
        self.tap: Tap | None = None
        self.carried = [0, 0]
        self._do = do
        self._writers: set[asyncio.StreamWriter] = set()
        self._next = [0.0, 0.0]
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0
        while self._server is None:
            with contextlib.suppress(OSError):
                self.port = FIRST + secrets.randbelow(LAST - FIRST)
                do(self._listen())

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Connections are reset, new ones refused. Idempotent."""
        self._do(self._cut())

    def stall(self) -> None:
        """Nothing comes through any more, and nobody is told: a cable pulled out."""
        self._do(self._set(False))

    def mend(self) -> None:
        """As before. What a stall held back comes now. Idempotent."""
        self._do(self._mend())

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port, limit=PIECE)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            _reset(writer)
        self._open.set()

    async def _set(self, passable: bool) -> None:
        (self._open.set if passable else self._open.clear)()

    async def _mend(self) -> None:
        self._open.set()
        if self._server is None:
            await self._listen()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target, limit=PIECE)
        except OSError:
            _reset(writer)
            return
        there, back = self.tap.connected() if self.tap is not None else (_unchanged, _unchanged)
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(
                self._pump(0, reader, far_writer, there), self._pump(1, far_reader, writer, back)
            )
        finally:
            self._writers -= both

    async def _pump(
        self, way: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Way
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                await self._pace(way, len(data))
                await self._open.wait()
                self.carried[way] += len(data)
                writer.write(change(data))
                await writer.drain()
        writer.close()

    def _pace(self, way: int, length: int) -> Awaitable[None]:
        now = asyncio.get_running_loop().time()
        due = max(now, self._next[way])
        self._next[way] = due + length / self.rate if self.rate else 0.0
        return asyncio.sleep(due - now)


def _unchanged(data: bytes) -> bytes:
    return data


def _reset(writer: asyncio.StreamWriter) -> None:
    """Abruptly (RST): what was under way is lost."""
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
