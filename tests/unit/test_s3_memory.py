"""What the S3 route reads ahead is bounded in bytes, and nothing is held when a reader stops or fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from stores import CODEC, MEMORY, SEALER, pause, taken

from transfer import api
from transfer.broker_client import Patience
from transfer.errors import StoreUnreachable
from transfer.model import FORMAT, Frame, FrameId, FrameSet, IndexedFrame, Kind, SegmentIndex, SegmentRef
from transfer.seal import Sealer
from transfer.transports.s3 import Pace, S3Inbound, inbound
from transfer.transports.s3.http import Moved
from transfer.transports.s3.inbound import Run
from transfer.transports.s3.pace import START


class Stored:
    ca = None
    """A job in the store, and the broker that tells of it.

    kinds: of frames that are no chunks, by their number. fails: asked before each read of frames.
    """

    def __init__(self, seed: int, sizes: list[list[int]], kinds: dict[int, Kind] | None = None) -> None:
        self._rng = random.Random(seed)
        self.frames: list[Frame] = []
        self.objects: list[bytes] = []
        self.refs: list[SegmentRef] = []
        self.fails: Callable[[], bool] = lambda: False
        for number, segment in enumerate(sizes):
            rows, body = [], b""
            for size in segment:
                data = self._rng.randbytes(size)
                kind = (kinds or {}).get(len(self.frames), Kind.CHUNK)
                frame = FrameId(kind, len(self.frames) if kind is Kind.CHUNK else 0)
                self.frames.append(Frame(frame, data))
                rows.append(IndexedFrame(frame.kind, frame.index, size, bytes(32)))
                body += data
            index = msgspec.msgpack.encode(SegmentIndex(FORMAT, number, rows))
            sealed = bytes(CODEC.encode(FrameId(Kind.INDEX, number), index).frame.data)
            self.objects.append(body + sealed)
            self.refs.append(SegmentRef(number, len(body) + len(sealed), len(sealed)))

    async def segments(self, _sealer: Sealer, start: int) -> api.SegmentPage:
        await pause(self._rng)
        return api.SegmentPage(self.refs[start : start + 2], api.JobState.STORED)

    async def sign_gets(self, _sealer: Sealer, numbers: list[int]) -> list[api.SignedUrl]:
        return [api.SignedUrl(str(number), {}) for number in numbers]

    async def get(
        self, sign: Callable[[api.SignedUrl | None], Any], start: int, length: int, _moved: object = None
    ) -> bytes:
        number = int((await sign(None)).url)
        await pause(self._rng)
        data = self.objects[number][start : start + length]
        if start + length <= len(self.objects[number]) - self.refs[number].index and self.fails():
            raise StoreUnreachable("cut")
        return data

    def hurry(self, *, anew: bool = False) -> None: ...

    def close(self) -> None: ...


def reader(stored: Stored, pace: Pace | None = None, *, in_order: bool = False) -> S3Inbound:
    made = S3Inbound(cast("Any", stored), SEALER, CODEC, patience=Patience(0), pace=pace, in_order=in_order)
    made._store.close()
    made._store = cast("Any", stored)
    return made


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "IN_MEMORY", MEMORY)
    monkeypatch.setattr(inbound, "READ_AT_ONCE", MEMORY // 5)
    monkeypatch.setattr(inbound, "LIGHTEST", 1)


def any_sizes(seed: int) -> list[list[int]]:
    """Of the frames of some segments; a few of them do not fit memory, nor does a whole segment."""
    rng = random.Random(seed)
    return [
        [
            rng.choice([1, 30, 150, MEMORY // 5, MEMORY // 2, MEMORY, 3 * MEMORY])
            for _ in range(rng.randrange(1, 30))
        ]
        for _ in range(rng.randrange(1, 6))
    ]


def nothing_is_left(made: S3Inbound) -> bool:
    return (
        made._memory._inside == 0
        and not made._memory.waiting
        and asyncio.all_tasks() == {asyncio.current_task()}
    )


def sorted_by_number(frames: list[Frame]) -> list[Frame]:
    return sorted(frames, key=lambda frame: frame.id.index)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.usefixtures("short_of_memory")
async def test_everything_comes_once_and_in_order_if_asked_for_however_short_memory_is(
    seed: int, in_order: bool
) -> None:
    rng, stored = random.Random(seed), Stored(seed, any_sizes(seed))
    fixed = rng.choice([None, 1, 64])
    made = reader(stored, Pace(fixed), in_order=in_order)
    assert made.limits.window == max(MEMORY, MEMORY // 5 * (fixed or START))
    async with asyncio.timeout(20):
        got = await taken(made, FrameSet.everything(), rng)
    assert (got if in_order else sorted_by_number(got)) == stored.frames
    assert nothing_is_left(made)


async def test_a_slow_read_holds_up_no_chunk_but_manifest_and_trailer_keep_their_turn() -> None:
    stored = Stored(1, [[700] * 4, [700] * 4], {0: Kind.MANIFEST, 7: Kind.TRAILER})
    made, get, slow = reader(stored), stored.get, {number: asyncio.Event() for number in (0, 2)}
    starts = {0: (0, 0), 2: (0, 1400)}

    async def slowly(
        sign: Callable[[api.SignedUrl | None], Any], start: int, length: int, _moved: object = None
    ) -> bytes:
        segment = int((await sign(None)).url)
        for number, at in starts.items():
            if (segment, start) == at:
                await slow[number].wait()
        return await get(sign, start, length)

    stored.get = slowly  # type: ignore[method-assign]
    came: list[Frame] = []

    async def take() -> None:
        async for frame in made.frames(FrameSet.everything()):
            came.append(frame)  # noqa: PERF401  # it is looked at meanwhile

    taking = asyncio.create_task(take())
    await settled()
    assert came == []
    slow[0].set()
    await settled()
    first, second, third, fourth, *others, last = stored.frames
    assert came[0] == first
    assert sorted_by_number(came[1:]) == [second, fourth, *others]
    slow[2].set()
    async with asyncio.timeout(20):
        await taking
    assert came[-2:] == [third, last]


@pytest.mark.usefixtures("short_of_memory")
async def test_frames_of_hardly_a_byte_are_not_read_ahead_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Zeros: all of a job of terabytes would fit memory, but for the objects that say what each frame is."""
    monkeypatch.setattr(inbound, "LIGHTEST", MEMORY // 5)
    stored = Stored(1, [[1] * 3] * 20)
    made = reader(stored)
    async with contextlib.aclosing(made.frames(FrameSet.everything())) as frames:
        await anext(frames)
        await settled()
        assert made._memory.waiting
        assert made._memory._inside <= made.limits.window
    assert nothing_is_left(made)


async def settled() -> None:
    for _ in range(500):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.usefixtures("short_of_memory")
async def test_a_reader_that_stops_anywhere_holds_nothing_and_may_begin_again(seed: int) -> None:
    rng, stored = random.Random(seed), Stored(seed, any_sizes(seed))
    made = reader(stored)
    async with asyncio.timeout(20):
        for turn in range(4):
            if turn % 2:
                await taken(made, FrameSet.everything(), rng, rng.randrange(1, len(stored.frames) + 1))
            else:
                task = asyncio.create_task(taken(made, FrameSet.everything(), rng))
                for _ in range(rng.randrange(60)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert nothing_is_left(made)
        assert sorted_by_number(await taken(made, FrameSet.everything(), rng)) == stored.frames


@pytest.mark.parametrize("what", ["frames", "index"])
@pytest.mark.usefixtures("short_of_memory")
async def test_a_reader_that_stops_waits_for_no_read_that_hangs(what: str) -> None:
    stored = Stored(1, [[150] * 12, [150] * 6])  # the first is more than memory
    made, get, hanging = reader(stored), stored.get, asyncio.Event()

    async def hangs(
        sign: Callable[[api.SignedUrl | None], Any], start: int, length: int, _moved: object = None
    ) -> bytes:
        number = int((await sign(None)).url)
        of_index = start + length == len(stored.objects[number])
        if (what == "index" and of_index and number == 1) or (what == "frames" and not of_index and start):
            hanging.set()
            await asyncio.Event().wait()
        return await get(sign, start, length)

    stored.get = hangs  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        async with contextlib.aclosing(made.frames(FrameSet.everything())) as frames:
            await anext(frames)
            await hanging.wait()
        assert nothing_is_left(made)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.usefixtures("short_of_memory")
async def test_a_read_that_fails_ends_the_frames_and_holds_nothing(seed: int) -> None:
    rng, stored = random.Random(seed), Stored(seed, any_sizes(seed))
    made = reader(stored)
    left = rng.randrange(8)

    def fails() -> bool:
        nonlocal left
        left -= 1
        return left == -1

    stored.fails = fails
    async with asyncio.timeout(20):
        with contextlib.suppress(StoreUnreachable):  # there may be fewer reads than that
            await taken(made, FrameSet.everything(), rng)
        assert nothing_is_left(made)
        stored.fails = lambda: False
        assert sorted_by_number(await taken(made, FrameSet.everything(), rng)) == stored.frames


async def test_what_has_come_of_a_read_shows_until_it_is_not_wanted_any_more() -> None:
    stored = Stored(0, [[100, 200]])
    made = reader(stored)
    wanted = FrameSet([(Kind.CHUNK, 0, 2)])
    run = Run(0, [IndexedFrame(Kind.CHUNK, 0, 100, bytes(32)), IndexedFrame(Kind.CHUNK, 1, 200, bytes(32))])
    moved = Moved()
    made._moving.append((run, moved))
    for come, each in ((0, [0, 0]), (40, [40, 0]), (100, [100, 0]), (250, [100, 150]), (300, [100, 200])):
        moved.bytes = come
        assert [here for _, here in made.under_way(wanted)] == each
    wanted.discard(FrameId(Kind.CHUNK, 0))
    assert [(row.index, here) for row, here in made.under_way(wanted)] == [(1, 200)]
    wanted.discard(FrameId(Kind.CHUNK, 1))
    assert made.under_way(wanted) == []
    assert made._moving == []
    await made.close()
