"""Watching a transfer that runs elsewhere: what was announced so far, and then what is, until the job has ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from transfer import api, bus, config, errors
from transfer.announce import Announcement
from transfer.broker_client import FIRST_CONTACT, BrokerClient, Patience, connected
from transfer.errors import Interrupted, JobCancelled, JobGone, Temporary, XferError
from transfer.jobs import Jobs

LOOK_EVERY = 5.0
"""Seconds without a word after which the broker is asked how the job stands."""
BEHIND = 4096
"""Announcements that may wait to be shown; they come at most five times a second."""
_decoder = msgspec.json.Decoder(Announcement)


class Heard(NamedTuple):
    """said: an announcement. sequence: its number in the stream; None as it comes. gap: some before it are missing."""

    said: Announcement
    sequence: int | None = None
    gap: bool = False


async def watch(
    job: str,
    *,
    context: config.Context | None = None,
    start: int = 0,
    on_heard: Callable[[Heard], None],
) -> Announcement | None:
    """Tell everything that was announced of a job from a sequence of the stream on, then what comes, until it ends.

    Args:
        job: its id, or how that begins.
        start: 0 is the beginning.
    Returns:
        The last announcement; None if there is none: it was stored or delivered, and what its sends said is not kept.
    Raises:
        XferError: the job is void: with its sender's exit code, if that is known. JobGone: it expired, was removed, is not ours.
    """
    where = context or config.load()
    async with connected(where, "xfer watch", Patience(FIRST_CONTACT)) as (client, broker):
        whole = await Jobs(broker).find(job)
        live: asyncio.Queue[bytes] = asyncio.Queue(BEHIND)

        def take(data: bytes) -> None:
            with contextlib.suppress(asyncio.QueueFull):  # whoever is so slow misses some, and hears of it
                live.put_nowait(data)

        async with bus.hearing(client, bus.events_subject(broker.user, whole), take):
            return await _Watch(broker, whole, on_heard, start).run(live)


class _Watch:
    def __init__(self, broker: BrokerClient, job: str, on_heard: Callable[[Heard], None], start: int) -> None:
        self._broker, self._job, self._on_heard, self._start = broker, job, on_heard, start
        self._last: Announcement | None = None

    async def run(self, live: asyncio.Queue[bytes]) -> Announcement | None:
        async for past in self._past():
            if (said := _read(bytes(past.said))) is not None:
                self._hear(said, past.sequence, past.lasting)
        while not await self._is_over() and not self._good_end():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    while not self._ended(_read(await live.get())):
                        pass
        return self._last

    async def _past(self) -> AsyncIterator[api.Past]:
        start, more = self._start, True
        while more:
            page = await self._broker.history(self._job, start)
            for past in page.past:
                yield past
                start = past.sequence + 1
            more = page.more

    def _ended(self, said: Announcement | None) -> bool:
        """Take in what comes; whether a run ended with it."""
        known = self._last
        if said is None or (known is not None and known.run == said.run and said.seq <= known.seq):
            return False
        self._hear(said, None, True)
        return said.event == "end"

    def _hear(self, said: Announcement, sequence: int | None, lasting: bool) -> None:
        gap = missed(self._last, said, lasting=lasting, from_start=not self._start)
        self._last = said
        self._on_heard(Heard(said, sequence, gap))

    def _good_end(self) -> bool:
        last = self._last
        return last is not None and last.event == "end" and last.state in ("stored", "receipt")

    async def _is_over(self) -> bool:
        """What the record says. Raises for a job that is void or gone."""
        try:
            state = (await self._broker.status(self._job)).state
        except Temporary:
            return False
        if state is api.JobState.VOID:
            raise _failure(self._last)
        if (
            state is api.JobState.DELIVERED and self._last is not None
        ):  # by a receiver who came after the send's end
            self._last = replace(self._last, state="receipt")
        return not state.unfinished


def missed(before: Announcement | None, said: Announcement, *, lasting: bool, from_start: bool) -> bool:
    """Whether announcements that are kept for days are missing between these two.

    before: None if this is the first. lasting: this one is such. from_start: everything was asked for.
    """
    if before is None or before.run != said.run:
        return said.kept > lasting and (before is not None or from_start)
    return said.kept - before.kept > lasting


def _read(data: bytes) -> Announcement | None:
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # of another version, or not ours


def _failure(last: Announcement | None) -> XferError:
    """A void job, as its sender ended."""
    kind = vars(errors).get(last.kind or "") if last is not None and last.event == "end" else None
    if isinstance(kind, type) and issubclass(kind, XferError) and not issubclass(kind, Interrupted | JobGone):
        assert last is not None
        return kind(f"this transfer is void: its send failed with exit code {last.code}")
    return JobCancelled("this transfer is void: it was ended by its owner")
