"""OutgoingStream: what a pipe or a command gives, cut into chunks; void if it fails."""

from __future__ import annotations

import asyncio
import io
import os
import random
import sys
import threading
from collections.abc import Callable

import pytest
from outgoings import CODEC, MIB, SOON, chunk, collect, collect_ids, gone, pieces_of, raw_of, threads

from transfer.chunks import read_trailer, root_digest
from transfer.content import Content, of_command, of_stream
from transfer.errors import CommandFailed, SourceTrouble
from transfer.model import TRAILER, FrameId, Kind
from transfer.outgoing import AHEAD, OutgoingStream
from transfer.stream import no_verdict

STREAM_CHUNK = 4 * MIB
posix_only = pytest.mark.skipif(os.name != "posix", reason="shell and FIFO")


def stream_of(read: Callable[[int], bytes], verdict: Callable[[], None] = no_verdict) -> OutgoingStream:
    manifest = of_stream(io.BytesIO(), "s").manifest
    return OutgoingStream(read, manifest, CODEC, verdict)


# a stream


@pytest.mark.parametrize(
    "total", [0, 1, STREAM_CHUNK - 1, STREAM_CHUNK, 2 * STREAM_CHUNK, 2 * STREAM_CHUNK + 3]
)
@pytest.mark.parametrize("at_most", [700_001, 1 << 30])
async def test_a_stream_is_cut_into_full_chunks_whatever_its_pieces(total: int, at_most: int) -> None:
    whole = random.Random(total).randbytes(total)
    outgoing = stream_of(pieces_of(whole, at_most))
    made = await collect(outgoing.frames(outgoing.everything))
    count = -(-total // STREAM_CHUNK)
    assert [m.frame.id for m in made] == [FrameId(Kind.MANIFEST, 0), *map(chunk, range(count)), TRAILER]
    assert all(m.raw_length == STREAM_CHUNK for m in made[1:-2])
    assert b"".join(raw_of(m) for m in made[1:-1]) == whole
    trailer = read_trailer(raw_of(made[-1]))
    assert (trailer.total, trailer.chunks, trailer.digest) == (total, count, outgoing.root)
    assert outgoing.root == root_digest([made[0].digest], [m.digest for m in made[1:-1]])
    assert sum(outgoing.raw_length(m.frame.id) for m in made) == total
    outgoing.close()


async def test_a_slow_producer_does_not_hold_back_what_is_made() -> None:
    more = threading.Event()
    given = iter([b"x" * STREAM_CHUNK, b"y" * STREAM_CHUNK])

    def read(size: int) -> bytes:
        piece = next(given, None)
        if piece is None:
            more.wait(SOON)
            return b""
        return piece

    outgoing = stream_of(read)
    frames = outgoing.frames(outgoing.everything)
    try:
        first = [(await asyncio.wait_for(anext(frames), SOON / 2)).frame.id for _ in range(3)]
        assert first == [FrameId(Kind.MANIFEST, 0), chunk(0), chunk(1)]
        assert not more.is_set()
    finally:
        more.set()
    assert [m.frame.id for m in await collect(frames)] == [TRAILER]
    outgoing.close()


async def test_a_slow_consumer_holds_back_an_endless_producer() -> None:
    served = 0

    def read(size: int) -> bytes:
        nonlocal served
        served += size
        return bytes(size)

    outgoing = stream_of(read)
    frames = outgoing.frames(outgoing.everything)
    for taken in range(1, 12):
        await anext(frames)
        await asyncio.wrap_future(outgoing._pool.submit(int))
        assert served // STREAM_CHUNK <= taken + AHEAD // STREAM_CHUNK + 1
    await frames.aclose()
    outgoing.close()


def python(code: str) -> str:
    return f'"{sys.executable}" -c "{code}"'


async def run_command(command: str) -> tuple[list[FrameId], Exception | None, Content]:
    content = of_command(command, "x")
    outgoing = content.outgoing(CODEC)
    seen: list[FrameId] = []
    try:
        await collect_ids(outgoing.frames(outgoing.everything), seen)
    except CommandFailed as failed:
        return seen, failed, content
    finally:
        outgoing.close()
        content.close()
    return seen, None, content


async def test_a_good_commands_output_is_a_whole_job() -> None:
    seen, failed, _ = await run_command(python("print('hello')"))
    assert (seen, failed) == ([FrameId(Kind.MANIFEST, 0), chunk(0), TRAILER], None)


async def test_a_failing_command_gives_no_trailer() -> None:
    seen, failed, _ = await run_command(python("import sys; print('hello'); sys.exit(3)"))
    assert seen == [FrameId(Kind.MANIFEST, 0), chunk(0)]
    assert failed is not None
    assert "exit code 3" in str(failed)


async def test_a_command_that_does_not_exist_gives_no_trailer() -> None:
    seen, failed, _ = await run_command("no-such-command-anywhere 2>&1 >/dev/null")
    assert TRAILER not in seen
    assert isinstance(failed, CommandFailed)


@posix_only
async def test_a_killed_command_gives_no_trailer() -> None:
    seen, failed, _ = await run_command("echo hello; kill -9 $$")
    assert TRAILER not in seen
    assert "signal 9" in str(failed)


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("closed"), RuntimeError("a caller's own")])
async def test_a_stream_that_cannot_be_read_gives_no_trailer(error: Exception) -> None:
    given = iter([b"x" * STREAM_CHUNK])

    def read(size: int) -> bytes:
        if (piece := next(given, None)) is None:
            raise error
        return piece

    outgoing = stream_of(read)
    seen: list[FrameId] = []
    with pytest.raises(SourceTrouble, match=str(error)):
        await collect_ids(outgoing.frames(outgoing.everything), seen)
    assert TRAILER not in seen
    outgoing.close()


async def test_cancelling_during_a_silent_read_leaves_no_task_and_the_thread_ends_quietly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    before = threads("input")
    reading, release = threading.Event(), threading.Event()

    def read(size: int) -> bytes:
        reading.set()
        release.wait(SOON)
        return b""

    outgoing = stream_of(read)

    async def consume() -> None:
        await collect(outgoing.frames(outgoing.everything))

    task = asyncio.create_task(consume())
    await asyncio.to_thread(reading.wait, SOON)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    outgoing.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    release.set()
    assert gone("input", before)
    assert gone("encode", [])
    assert not complaints


async def test_a_reader_thread_never_keeps_the_process_alive() -> None:
    reading, release = threading.Event(), threading.Event()

    def read(_size: int) -> bytes:
        reading.set()
        release.wait(SOON)
        return b""

    outgoing = stream_of(read)
    before = threads("input")
    collecting = asyncio.create_task(collect(outgoing.frames(outgoing.everything)))
    await asyncio.to_thread(reading.wait, SOON)
    assert [t.daemon for t in threads("input") if t not in before] == [True]
    release.set()
    await collecting
    outgoing.close()
    assert gone("input", before)
