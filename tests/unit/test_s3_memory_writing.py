"""What the S3 route has on its way up is bounded in bytes, and nothing is held when a sender stops or fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import pytest
from stores import CODEC, JOB, MEMORY, pause

from transfer import api, plan
from transfer.broker_client import Patience
from transfer.errors import Refused, StoreUnreachable
from transfer.model import Frame, FrameId, Kind, SegmentRef
from transfer.plan import Part
from transfer.transports.s3 import NOTHING, OpenSegment, Pace, Remains, S3Outbound, outbound
from transfer.transports.s3.http import Moved

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

    def hurry(self, *, anew: bool = False) -> None: ...

    def close(self) -> None: ...


class Refusing(Storing):
    async def begin(self, _job: str, segment: int) -> str:
        raise Refused("no more")


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


async def test_a_stream_hears_at_its_first_frame_that_its_segment_is_refused() -> None:
    """The next one may be long in coming."""
    made = writer(Refusing(1))
    with pytest.raises(Refused):
        await made.put(Frame(FrameId(Kind.CHUNK, 0), b"first"))
    await made.close()


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

    storing.put = hangs  # type: ignore[method-assign, assignment]

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
