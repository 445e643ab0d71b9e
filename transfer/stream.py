"""Reading what can be read only once: as it comes, in full pieces, in the background."""

from __future__ import annotations

import asyncio
import queue
import select
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import BinaryIO

from transfer.errors import SourceTrouble


def stream_reader(stream: BinaryIO) -> Callable[[int], bytes]:
    """Returns as soon as there are some bytes, so that a slow producer is followed closely."""
    take: Callable[[int], bytes | None] = getattr(stream, "read1", stream.read)

    def read(size: int) -> bytes:
        while (piece := take(size)) is None:  # a non-blocking one has nothing yet: that is not its end
            select.select([stream], [], [])
        return piece

    return read


async def pieces_of(read: Callable[[int], bytes], size: int) -> AsyncGenerator[bytes, None]:
    """Full pieces of `size` bytes (the last may be shorter) from a blocking reader.

    The reader has a daemon thread of its own, because a read of a silent pipe cannot be interrupted
    and must not keep the process alive.
    """
    loop = asyncio.get_running_loop()
    wanted: queue.SimpleQueue[Future[bytes] | None] = queue.SimpleQueue()

    def work() -> None:
        while (answer := wanted.get()) is not None and answer.set_running_or_notify_cancel():
            try:
                parts, missing = [], size
                while missing and (part := read(missing)):
                    parts.append(part)
                    missing -= len(part)
                answer.set_result(b"".join(parts))
            except Exception as error:  # a caller's stream may raise anything, and its answer is waited for
                answer.set_exception(SourceTrouble(f"the input cannot be read ({error})"))

    threading.Thread(target=work, name="input", daemon=True).start()
    try:
        while True:
            answer: Future[bytes] = Future()
            wanted.put(answer)
            if not (piece := await asyncio.wrap_future(answer, loop=loop)):
                return
            yield piece
            if len(piece) < size:
                return
    finally:
        wanted.put(None)


def no_verdict() -> None:
    """Of a stream whose end cannot tell whether it was a good one: a pipe."""
