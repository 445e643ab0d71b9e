"""What the S3 route holds at once: bounded, whatever comes; and free again after every end, good or bad.

Broker and store are stood in for by objects that answer in any order: what they do is `tests/contract`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from transfer import api, plan
from transfer.broker_client import Patience
from transfer.codec import Codec
from transfer.errors import StoreUnreachable
from transfer.model import FORMAT, Frame, FrameId, FrameSet, IndexedFrame, Kind, SegmentIndex, SegmentRef
from transfer.plan import Part
from transfer.seal import Sealer
from transfer.ticket import Ticket
from transfer.transports.s3 import (
    NOTHING,
    OpenSegment,
    Pace,
    Remains,
    S3Inbound,
    S3Outbound,
    inbound,
    outbound,
)
from transfer.transports.s3.http import Moved
from transfer.transports.s3.inbound import Run
from transfer.transports.s3.pace import START

JOB = "q" * 16
SEALER = Sealer(Ticket(JOB, bytes(16)))
CODEC = Codec(SEALER)
MEMORY = 1000
"""Bytes: small, so that it is short."""


async def pause(rng: random.Random) -> None:
    for _ in range(rng.randrange(6)):
        await asyncio.sleep(0)


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

    def hurry(self) -> None: ...

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


async def taken(made: S3Inbound, wanted: FrameSet, rng: random.Random, upto: int = 10**6) -> list[Frame]:
    """The frames, up to so many; memory is looked at with each of them."""
    got: list[Frame] = []
    async with contextlib.aclosing(made.frames(wanted)) as frames:
        async for frame in frames:
            got.append(Frame(frame.id, bytes(frame.data)))
            # One that is too large goes alone.
            assert made._memory._inside <= max(made.limits.window, 3 * MEMORY)
            await pause(rng)
            if len(got) >= upto:
                break
    return got


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


# sending


class Storing:
    ca = None
    """A broker and a store that take parts, in any order. fails: asked for each part."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.fails: Callable[[], bool] = lambda: False
        self.under_way = self.bytes_under_way = self.most = self.most_bytes = 0
        self.parts = 0
        self.complete_segments: list[int] = []

    async def begin(self, _job: str, segment: int) -> str:
        await pause(self._rng)
        return f"upload {segment}"

    async def sign_part(self, *_: object) -> api.SignedUrl:
        await pause(self._rng)
        return api.SignedUrl("", {})

    async def complete(
        self, _job: str, segment: int, _upload: str, parts: list[api.StoredPart], index: int
    ) -> SegmentRef:
        await pause(self._rng)
        assert [part.number for part in parts] == list(range(1, len(parts) + 1))
        self.complete_segments.append(segment)
        return SegmentRef(segment, sum(part.length for part in parts), index)

    async def put(
        self, sign: Callable[[api.SignedUrl | None], Any], body: tuple[bytes, ...], _moved: object
    ) -> str:
        self.under_way += 1
        self.bytes_under_way += sum(map(len, body))
        self.most, self.most_bytes = (
            max(self.most, self.under_way),
            max(self.most_bytes, self.bytes_under_way),
        )
        try:
            await sign(None)
            await pause(self._rng)
            if self.fails():
                raise StoreUnreachable("cut")
        finally:
            self.under_way -= 1
            self.bytes_under_way -= sum(map(len, body))
        self.parts += 1
        return "etag"

    def hurry(self) -> None: ...

    def close(self) -> None: ...


class NoLog:
    def segment_begun(self, segment: int, upload: str) -> None: ...
    def part_made(self, segment: int, part: Part, crc: str) -> None: ...
    def segment_stored(self, ref: SegmentRef) -> None: ...


class SameDigest(dict[FrameId, bytes]):
    def __missing__(self, key: FrameId) -> bytes:
        return bytes(32)


def writer(storing: Storing, pace: Pace | None = None, remains: Remains = NOTHING) -> S3Outbound:
    made = S3Outbound(
        cast("Any", storing), JOB, CODEC, SameDigest(), NoLog(),
        patience=Patience(0), total=None, pace=pace, remains=remains,
    )  # fmt: skip
    made._store.close()
    made._store = cast("Any", storing)
    return made


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plan, outbound):
        monkeypatch.setattr(module, "MIN_PART", 100)
    for module in (plan, outbound):
        monkeypatch.setattr(module, "FULL_SEGMENT", 800)
    monkeypatch.setattr(plan, "FIRST_SEGMENT", 100)
    monkeypatch.setattr(outbound, "IN_MEMORY", MEMORY)


@pytest.mark.parametrize("fixed", [None, 1, 3, 64])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("short_parts")
async def test_what_is_on_its_way_up_is_bounded_in_number_and_bytes(seed: int, fixed: int | None) -> None:
    rng, storing, pace = random.Random(seed), Storing(seed), Pace(fixed)
    made = writer(storing, pace)
    sizes = [rng.choice([60, 110, 250, 900, 1500]) for _ in range(150)]
    async with asyncio.timeout(20):
        for number, size in enumerate(sizes):
            await made.put(Frame(FrameId(Kind.CHUNK, number), rng.randbytes(size)))
        await made.finish()
    segments = made.segments
    await made.close()
    assert storing.complete_segments
    assert sorted(storing.complete_segments) == list(range(segments))
    assert storing.most <= pace.limit + 1
    index = 800  # at the end of a last part
    assert storing.most_bytes <= max(MEMORY, 100 * pace.limit, 100 + 1500 + index)
    assert made._memory._inside == made._ahead._inside == made._slots._inside == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.usefixtures("short_parts")
async def test_a_segment_that_lacks_among_others_is_made_however_little_is_left(count: int) -> None:
    """What an earlier run joined at the store, and its record never counted: without it the job could not end."""
    storing = Storing(1)
    left = [OpenSegment(number, f"upload {number}", [], 0) for number in (2, 5)]
    made = writer(
        storing, remains=Remains({0: SegmentRef(0, 500, 50), 3: SegmentRef(3, 500, 50)}, left, set())
    )
    async with asyncio.timeout(20):
        for number in range(count):
            await made.put(Frame(FrameId(Kind.CHUNK, number), bytes(90)))
        await made.finish()
    segments = made.segments
    await made.close()
    assert sorted([0, 3, *storing.complete_segments]) == list(range(segments))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("short_parts")
async def test_a_part_that_cannot_be_stored_is_an_error_and_holds_nothing(seed: int) -> None:
    rng, storing = random.Random(seed), Storing(seed)
    made = writer(storing)
    storing.fails = lambda: rng.random() < 0.1

    async def put_all() -> None:
        for number in range(200):
            await made.put(Frame(FrameId(Kind.CHUNK, number), rng.randbytes(rng.choice([60, 250, 900]))))
        await made.finish()

    async with asyncio.timeout(20):
        with pytest.raises(StoreUnreachable):
            await put_all()
        await made.close()
        await made.close()
    assert made._memory._inside == made._ahead._inside == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("short_parts")
async def test_a_sender_that_is_cancelled_anywhere_can_be_closed_and_holds_nothing(seed: int) -> None:
    rng, storing = random.Random(seed), Storing(seed)
    made = writer(storing)

    async def put_all() -> None:
        for number in range(200):
            await made.put(Frame(FrameId(Kind.CHUNK, number), rng.randbytes(rng.choice([60, 250, 900]))))
        await made.finish()

    task = asyncio.create_task(put_all())
    for _ in range(rng.randrange(200)):
        await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(20):
        await asyncio.gather(task, return_exceptions=True)
        await made.close()
    assert made._ahead._inside == made._memory._inside == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("size", [30, 900], ids=["waits for its turn", "waits for memory"])
@pytest.mark.usefixtures("short_parts")
async def test_closing_a_sender_whose_next_part_waits_holds_nothing(size: int) -> None:
    storing = Storing(1)
    made = writer(storing)

    async def hangs(_sign: Callable[[api.SignedUrl | None], Any], _body: bytes, _moved: object) -> str:
        await asyncio.Event().wait()
        return ""

    storing.put = hangs  # type: ignore[method-assign]

    async def put_all() -> None:
        for number in range(200):
            await made.put(Frame(FrameId(Kind.CHUNK, number), bytes(size)))

    task = asyncio.create_task(put_all())
    async with asyncio.timeout(20):
        while not (made._ahead.waiting or made._memory.waiting):  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.close()
    assert made._ahead._inside == made._memory._inside == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Signing(Storing):
    """Signs a URL of 900 s each time; the store is away for so many tries and then refuses one URL."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__(0)
        self.answers, self.now, self.signed = answers, 0.0, 0
        self.used = list[str]()

    async def sign_part(self, *_: object) -> api.SignedUrl:
        self.signed += 1
        return api.SignedUrl(f"http://store/o?X-Amz-Expires=900&X-Amz-Signature={self.signed}", {})

    async def put(
        self, sign: Callable[[api.SignedUrl | None], Any], body: tuple[bytes, ...], _moved: object
    ) -> str:
        for answer in self.answers:
            url = await sign(None)
            self.used.append(url.url[-1])
            if answer == "refused":
                self.used.append((await sign(url)).url[-1])
            self.now += 100
        self.answers = []
        return "etag"


async def test_a_part_is_signed_again_only_when_its_url_is_half_way_to_its_end_or_refused() -> None:
    """The broker counts what it signs, and an outage may take a hundred tries."""
    storing = Signing(["away"] * 7 + ["refused", "away"])
    made = writer(storing)
    made._clock = lambda: storing.now
    async with asyncio.timeout(20):
        await made.put(Frame(FrameId(Kind.CHUNK, 0), b"x"))
        await made.finish()
    await made.close()
    assert "".join(storing.used) == "1111122233"


async def test_what_has_left_of_a_part_shows_until_the_store_has_taken_it() -> None:
    storing, told = Storing(0), list[tuple[list[int], int]]()
    sending, taken = asyncio.Event(), asyncio.Event()
    made = writer(storing)

    async def put(_sign: object, _body: object, moved: Moved) -> str:
        moved.bytes = 7
        sending.set()
        await taken.wait()
        return "etag"

    storing.put = put  # type: ignore[assignment]
    made._on_part = lambda part: told.append(([left for _, left in made.under_way], part.length))
    async with asyncio.timeout(20):
        await made.put(Frame(FrameId(Kind.CHUNK, 0), b"x" * 50))
        finishing = asyncio.create_task(made.finish())
        await sending.wait()
        [(part, left)] = made.under_way
        assert (left, [row.index for row in part.frames]) == (7, [0])
        taken.set()
        await finishing
    assert told == [([], part.length)]
    await made.close()


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
