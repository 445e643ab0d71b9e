"""Assembly of streams, whose length nobody knows before the trailer."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import time
import tracemalloc
from collections.abc import AsyncGenerator, Sequence

import pytest
from assembling import (
    CHUNK,
    CODEC,
    FIRST,
    STREAM_CHUNK,
    Receiver,
    chunk,
    encode,
    hear_nothing,
    job,
    stream,
    trailer,
)

from transfer.assembly import WORKERS, Assembly
from transfer.chunks import Extent
from transfer.errors import DamagedData, DiskFull, ProtocolError
from transfer.meter import Meter
from transfer.model import INDEX_LIMIT, TRAILER, Frame
from transfer.pipe import PipeSink
from transfer.sink import Raw


async def test_far_numbers_of_a_streams_chunks_take_no_memory(receiver: Receiver) -> None:
    """A stream's sender chooses them, and a chunk of zeros is some hundred bytes on the wire."""
    first = stream([STREAM_CHUNK])
    raw = bytes(STREAM_CHUNK)
    far = [encode(chunk(number), raw) for number in range(10**6, INDEX_LIMIT, INDEX_LIMIT // 10)]
    await receiver.take([first[FIRST], first[chunk(0)]])
    tracemalloc.start()
    try:
        with contextlib.suppress(DiskFull):  # a file system may not have files of petabytes
            await receiver.take(far)
        assert tracemalloc.get_traced_memory()[0] < CHUNK
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("raw", [bytes(STREAM_CHUNK + 1), random.Random(6).randbytes(STREAM_CHUNK + 1)])
async def test_a_chunk_of_a_stream_that_is_longer_than_chunks_are_is_refused(
    receiver: Receiver, raw: bytes
) -> None:
    """Packed it fits the memory for one, and else it does not."""
    long = encode(chunk(0), raw)
    with pytest.raises((ProtocolError, DamagedData)):
        await receiver.take([stream([1])[FIRST], long, long])
    assert chunk(0) not in receiver.acked


# streams of unknown length


@pytest.mark.parametrize(
    "lengths", [[], [1], [STREAM_CHUNK], [STREAM_CHUNK, STREAM_CHUNK], [STREAM_CHUNK, STREAM_CHUNK, 5]]
)
@pytest.mark.parametrize("trailer_first", [False, True])
async def test_a_stream_of_any_length_arrives(
    receiver: Receiver, lengths: list[int], trailer_first: bool
) -> None:
    frames = stream(lengths)
    order = list(frames)
    if trailer_first:
        order = [order[0], order[-1], *order[-2:0:-1]]
    await receiver.take(frames[f] for f in order)
    assert receiver.complete()
    assert receiver.meter.total == sum(lengths)
    assert receiver.files() == {b"s": b"".join(bytes([n + 1]) * ln for n, ln in enumerate(lengths))}


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([STREAM_CHUNK, STREAM_CHUNK - 5, STREAM_CHUNK], id="a short chunk in the middle"),
        pytest.param([1, STREAM_CHUNK], id="a short chunk at the start"),
        pytest.param([STREAM_CHUNK - 5, 5, STREAM_CHUNK], id="two short chunks that make a full one"),
        pytest.param([STREAM_CHUNK, 5, 5], id="two short chunks at the end"),
        pytest.param([STREAM_CHUNK - 5, STREAM_CHUNK, 6], id="a short chunk that another one makes up for"),
        pytest.param([STREAM_CHUNK, 0], id="an empty chunk"),
        pytest.param([STREAM_CHUNK + 1], id="a chunk too long"),
    ],
)
async def test_a_stream_with_a_hole_is_refused(receiver: Receiver, lengths: list[int]) -> None:
    with pytest.raises(ProtocolError):
        await receiver.take_one_by_one(stream(lengths).values())
    assert not receiver.complete()
    assert receiver.nothing_published()


@pytest.mark.parametrize("length", [0, STREAM_CHUNK + 1, 3 * STREAM_CHUNK])
async def test_a_stream_chunk_of_impossible_length_is_refused_before_it_is_written(
    receiver: Receiver, length: int
) -> None:
    frames = stream([STREAM_CHUNK, length])
    with pytest.raises(ProtocolError, match="impossible length"):
        await receiver.take([frames[FIRST], frames[chunk(1)]])
    assert receiver.meter.done == 0
    assert not any(p.stat().st_size for p in receiver.out.glob(".xfer-*/tree/*"))


async def test_a_stream_chunk_beyond_the_end_that_its_trailer_states_is_refused(receiver: Receiver) -> None:
    frames = stream([STREAM_CHUNK, 5])
    await receiver.take([frames[FIRST], encode(chunk(2), b"x" * STREAM_CHUNK)])
    with pytest.raises(DamagedData):
        await receiver.take(frames.values())
    assert not receiver.complete()


@pytest.mark.parametrize(
    ("total", "count"),
    [
        (STREAM_CHUNK + 5, 1),
        (STREAM_CHUNK + 5, 3),
        (2 * STREAM_CHUNK + 5, 2),
        (STREAM_CHUNK + 6, 2),
        (STREAM_CHUNK + 4, 2),
        (2**62, 2),
        (0, 0),
    ],
)
async def test_a_streams_trailer_that_lies_about_its_length_is_refused(
    receiver: Receiver, total: int, count: int
) -> None:
    frames = stream([STREAM_CHUNK, 5])
    blocks = [CODEC.decode(frames[FIRST]).raw]
    digests = [CODEC.decode(frames[chunk(n)]).digest for n in (0, 1)]
    digests = [*digests, bytes(32)][:count]
    frames[TRAILER] = trailer(total, digests, blocks)
    with pytest.raises((ProtocolError, DamagedData)):
        await receiver.take(frames.values())
    assert not receiver.complete()


class SlowFirst(PipeSink):
    """Its first chunk takes its time; overtaken: how many came meanwhile."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.written, self.overtaken = 0, -1

    def write(self, extents: Sequence[Extent], raw: Raw) -> None:
        if extents[0].start == 0:
            time.sleep(0.3)
            self.overtaken = self.written
        self.written += 1
        super().write(extents, raw)


@pytest.mark.parametrize("pause", [0, 0.02])
async def test_a_chunk_for_a_pipe_is_overtaken_by_no_more_than_are_decoded_at_once(pause: float) -> None:
    """However slowly they come: the others then end one by one, and never are many at once."""

    async def paused() -> AsyncGenerator[Frame, None]:
        for frame in job({b"f": content}).values():
            yield frame
            await asyncio.sleep(pause)

    content = bytes(range(250)) * (CHUNK // 25)
    out = io.BytesIO()
    sink = SlowFirst(out)
    assembly = Assembly(CODEC, sink, Meter(lambda _event: None), None, None, lambda: None)
    async with asyncio.timeout(20):
        await assembly.consume(paused(), hear_nothing)
    assembly.close()
    assert assembly.complete.is_set()
    assert out.getvalue() == content
    assert 0 <= sink.overtaken < WORKERS
