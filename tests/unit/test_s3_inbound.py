"""Who is waited for, as the store's reader knows it: the sender, or the store; and a broker that signs too little."""

from __future__ import annotations

from typing import Any, cast

import pytest

from transfer import api
from transfer.broker_client import BrokerClient, Patience
from transfer.broker_client.asking import Asking
from transfer.codec import Codec
from transfer.errors import UnsupportedVersion
from transfer.model import FrameSet, Kind, SegmentRef
from transfer.seal import Sealer
from transfer.ticket import Ticket
from transfer.transports.s3 import S3Inbound
from transfer.transports.s3.inbound import _Taken

SEALER = Sealer(Ticket("q" * 16, bytes(16)))
REF = SegmentRef(0, 100, 10)


class Broker:
    ca = None
    """Says these pages in turn; notes whether the reader starved when it was asked."""

    def __init__(self, *pages: api.SegmentPage) -> None:
        self.pages, self.starved = list(pages), list[bool]()
        self.inbound: S3Inbound | None = None

    async def segments(self, _sealer: Sealer, _start: int) -> api.SegmentPage:
        assert self.inbound is not None
        self.starved.append(self.inbound.starved)
        self.inbound.announce(None)  # there is news: it asks again at once
        return self.pages.pop(0)


async def test_it_starves_from_the_first_answer_without_a_segment_until_there_is_one() -> None:
    broker = Broker(
        api.SegmentPage([], api.JobState.OPEN),
        api.SegmentPage([], api.JobState.OPEN),
        api.SegmentPage([REF], api.JobState.OPEN),
        api.SegmentPage([], api.JobState.STORED),
    )
    inbound = broker.inbound = S3Inbound(cast("Any", broker), SEALER, Codec(SEALER), patience=Patience(0))
    taken = _Taken()
    assert await inbound._segment(taken, FrameSet.everything()) == REF
    taken.add(0)
    assert (broker.starved, inbound.starved) == ([False, True, True], False)
    assert await inbound._segment(taken, FrameSet.everything()) is None
    assert not inbound.starved
    await inbound.close()


def chunks_only() -> FrameSet:
    """What is wanted once the manifest is known."""
    return FrameSet([(Kind.CHUNK, 0, 100), (Kind.TRAILER, 0, 1)])


@pytest.mark.parametrize(
    ("in_order", "wanted", "taken_in_order"),
    [(False, chunks_only(), False), (False, FrameSet.everything(), True), (True, chunks_only(), True)],
)
async def test_segments_are_taken_as_they_come_once_it_is_known_where_chunks_go(
    *, in_order: bool, wanted: FrameSet, taken_in_order: bool
) -> None:
    last = SegmentRef(2, 100, 10)
    broker = Broker(api.SegmentPage([REF, SegmentRef(1, 100, 10), last], api.JobState.STORED))
    patience = Patience(0)
    inbound = broker.inbound = S3Inbound(
        cast("Any", broker), SEALER, Codec(SEALER), patience=patience, in_order=in_order
    )
    inbound.announce(last)
    taken, numbers = _Taken(), list[int]()
    for _ in range(3):
        ref = await inbound._segment(taken, wanted)
        assert ref is not None
        numbers.append(ref.number)
        taken.add(ref.number)
        inbound.announce(ref)  # said once more: it is not taken twice
    assert numbers == ([0, 1, 2] if taken_in_order else [2, 0, 1])
    await inbound.close()


async def test_a_broker_that_signs_fewer_requests_than_asked_for_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def as_if_for_nothing(*_args: Any, **_more: Any) -> Any:
        return api.SignedUrls([])

    monkeypatch.setattr(Asking, "__call__", as_if_for_nothing)
    careless = BrokerClient(cast("Any", None), "u", Patience(0))
    with pytest.raises(UnsupportedVersion, match="signed 0 requests where 1"):
        await careless.sign_gets(SEALER, [0])
    with pytest.raises(UnsupportedVersion):
        await careless.sign_part("j", 0, "u", api.PartToSign(1, 1, "c"))
