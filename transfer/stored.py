"""What the store has of a job, as its sealed indexes say: for a sender whose ledger does not, on another host above all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from transfer import api
from transfer.broker_client import BrokerClient
from transfer.codec import Codec, max_encoded
from transfer.errors import DamagedData, JobGone
from transfer.model import Frame, FrameId, IndexedFrame, Kind, SegmentRef
from transfer.seal import Sealer
from transfer.transports.s3.inbound import read_index
from transfer.transports.s3.pace import Pace
from transfer.transports.s3.store import Store

Opened = TypeVar("Opened")
_ANEW = "send it as a new transfer"


class StoredSegment(NamedTuple):
    """A complete segment. frames: what lies in it end to end, from its first byte on."""

    ref: SegmentRef
    frames: Sequence[IndexedFrame]


class StoreReader:
    """Reads a job's segments with its ticket. Close it.

    Raises, from every method: JobGone, StoreUnreachable, BrokerAbsent; DamagedData for what does not open, twice.
    """

    def __init__(self, broker: BrokerClient, sealer: Sealer) -> None:
        self._broker, self._sealer, self._codec = broker, sealer, Codec(sealer)
        self._store = Store(broker.patience, Pace(), ca=broker.ca)
        self._urls: dict[int, api.SignedUrl] = {}

    def close(self) -> None:
        self._store.close()

    async def segments(self, numbers: Sequence[int]) -> list[StoredSegment]:
        """These segments, in that order. They must be complete, and so must all before them."""
        refs = await self._refs(numbers)
        found: list[StoredSegment] = []
        for at in range(0, len(refs), api.MAX_GETS):
            batch = refs[at : at + api.MAX_GETS]
            await self._sign([ref.number for ref in batch])
            indexes = await asyncio.gather(*map(self._index, batch))
            found += map(StoredSegment, batch, indexes)
        return found

    async def manifest(self, segments: Iterable[tuple[int, Sequence[IndexedFrame]]]) -> dict[int, bytes]:
        """The raw blocks of the manifest, by number, that lie in these segments (number, frames)."""
        blocks: dict[int, bytes] = {}
        for number, frames in segments:
            at = 0
            for row in frames:
                if row.kind is Kind.MANIFEST and row.index not in blocks:
                    opening = partial(self._block, FrameId(row.kind, row.index))
                    blocks[row.index] = await self._opened(number, at, row.length, opening)
                at += row.length
        return blocks

    async def _refs(self, numbers: Sequence[int]) -> list[SegmentRef]:
        refs: dict[int, SegmentRef] = {}
        for number in numbers:
            if number not in refs:
                page = await self._broker.segments(self._sealer, number)
                refs.update((ref.number, ref) for ref in page.refs)
            if number not in refs:  # it was ended in this very moment
                raise JobGone("what was stored of this transfer is not kept any longer", hint=_ANEW)
        return [refs[number] for number in numbers]

    async def _index(self, ref: SegmentRef) -> list[IndexedFrame]:
        if not 0 < ref.index <= min(ref.size, max_encoded(Kind.INDEX)):
            raise DamagedData(f"segment {ref.number} states an impossible index", hint=_ANEW)
        opening = partial(read_index, self._codec, ref)
        return await self._opened(ref.number, ref.size - ref.index, ref.index, opening)

    def _block(self, frame: FrameId, data: bytes) -> bytes:
        return bytes(self._codec.decode(Frame(frame, data)).raw)

    async def _opened(
        self, segment: int, start: int, length: int, opening: Callable[[bytes], Opened]
    ) -> Opened:
        """Bytes of a segment, read and opened; once more if they were damaged on their way."""
        try:
            return opening(await self._get(segment, start, length))
        except DamagedData:
            try:
                return opening(await self._get(segment, start, length))
            except DamagedData as still:
                raise DamagedData(still.what, hint=_ANEW) from None

    async def _get(self, segment: int, start: int, length: int) -> bytes:
        async def sign(refused: api.SignedUrl | None) -> api.SignedUrl:
            if self._urls.get(segment) in (None, refused):
                await self._sign([segment])
            return self._urls[segment]

        return await self._store.get(sign, start, length)

    async def _sign(self, segments: list[int]) -> None:
        urls = await self._broker.sign_gets(self._sealer, segments)
        self._urls.update(zip(segments, urls, strict=True))
