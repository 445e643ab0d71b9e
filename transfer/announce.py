"""Live: what a transfer does, published for its owner on `xfer.events.<owner>.<job>`, at most five times a second.

Every announcement is the whole state, so the newest makes all earlier ones needless: while the bus is away, or slower
than we are, they are left out and nothing waits for them. Numbers and fixed words only: whoever may listen learns no
name, no ticket and no digest. A stream at the brokers keeps what is `kept` for days and the rest for a minute or two
(a TTL on the message), so that the story of a transfer of hours is some hundred announcements and not 18,000 an hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from transfer import bus
from transfer.errors import XferError
from transfer.events import (
    Event,
    Listener,
    Notice,
    Progress,
    Receipt,
    RouteChosen,
    RouteName,
    Stored,
    WaitedFor,
    Waiting,
)

if TYPE_CHECKING:
    from nats.aio.client import Client

EVERY = 0.2
"""Seconds between two announcements, at least."""
KEPT_EVERY, KEPT_SHARE, KEPT_RARELY = 1.0, 0.01, 60.0
"""One in so many seconds is kept: a hundredth of the time since the start, but within these bounds."""
TTL = 2 * KEPT_RARELY
"""Seconds that one which is not kept stays in the stream; by then the next kept one is there."""
END_WITHIN = 1.0
"""Seconds that a transfer which is over is held up at most to say so, if the bus is away."""
END_TRIES = 10

State = Literal["starting", "waiting", "paused", "moving", "stored", "receipt", "failed", "interrupted"]


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What a watcher is told. Within version 1 fields may be added, never renamed or dropped.

    event: `progress`, or `end`, the last one of a run. run: random, one for each run of `send`; seq counts its
    announcements from 0, and kept those of them that last, this one included if it does. time: seconds since 1970.
    state: the last four only at the end, but for `stored`, which is also what a send that waits for a receipt is.
    waiting: what for, null where that has no word; left: seconds, null without limit. segments, expires: as of
    `events.Stored`, null before. code: the exit code, kind: the error's class, both only of a run that failed.
    The other numbers are those of `events.Progress`.
    """

    v: int = 1
    event: Literal["progress", "end"] = "progress"
    job: str
    run: str
    seq: int = 0
    kept: int = 0
    time: float = 0.0
    state: State = "starting"
    route: RouteName | None = None
    done: int = 0
    under_way: int = 0
    total: int | None = None
    wire: int = 0
    files: int = 0
    files_done: int | None = None
    waiting: WaitedFor | None = None
    left: float | None = None
    segments: int | None = None
    expires: float | None = None
    receipts: int = 0
    code: int | None = None
    kind: str | None = None


class Story:
    """What there is to say, and when. No I/O; now: monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._last = self._last_kept = -float("inf")
        self._news = self._unkept = True
        self.state = Announcement(job="", run=secrets.token_hex(4))

    def note(self, event: Event) -> None:
        """Take in what the transfer told its listener."""
        before, state = self.state, self.state
        if isinstance(event, Progress):
            state = replace(
                state,
                done=event.done,
                under_way=event.under_way,
                total=event.total,
                wire=event.wire,
                files=event.files,
                files_done=event.files_done,
            )
            on = state.done + state.under_way > before.done + before.under_way
            if on and state.state != "stored":
                state = replace(state, state="moving", waiting=None, left=None)
        elif isinstance(event, Waiting):
            state = replace(state, waiting=event.on, left=event.left)
            if state.state != "stored":
                state = replace(state, state="paused" if event.on == "owner" else "waiting")
        elif isinstance(event, Notice) and state.state == "paused":  # that the pause is over
            state = replace(state, state="waiting", waiting=None)
        elif isinstance(event, RouteChosen):
            state = replace(state, route=event.route)
        elif isinstance(event, Stored):
            state = replace(state, state="stored", segments=event.segments, expires=event.expires)
        elif isinstance(event, Receipt):
            state = replace(state, receipts=state.receipts + 1)
        self.state = state
        self._news = self._news or state != before

    def end(self, state: State, **facts: object) -> None:
        """It is over; there is one more announcement to be made, and at once."""
        self.state = replace(self.state, event="end", state=state, waiting=None, left=None, **facts)
        self._news, self._last = True, -float("inf")

    def due(self, now: float) -> float | None:
        """Seconds until the next announcement; None as long as nothing happens."""
        if self._news:
            return max(0.0, self._last + EVERY - now)
        return max(0.0, self._next_kept() - now) if self._unkept else None

    def next(self, now: float) -> tuple[Announcement, bool]:
        """The announcement to make, without its time, and whether it is to be kept."""
        keep = self.state.event == "end" or now >= self._next_kept()
        return replace(self.state, kept=self.state.kept + keep), keep

    def said(self, announcement: Announcement, keep: bool, now: float) -> None:
        """It was made; it said what was news when it was composed."""
        self._news = self.state != replace(announcement, kept=self.state.kept)
        self.state = replace(self.state, seq=announcement.seq + 1, kept=announcement.kept)
        self._unkept, self._last = not keep, now
        if keep:
            self._last_kept = now

    def _next_kept(self) -> float:
        share = KEPT_SHARE * (self._last_kept - self._began)
        return self._last_kept + min(KEPT_RARELY, max(KEPT_EVERY, share))


class Announcer:
    """A listener that passes everything on, and from `on` on announces it. Called in the event loop's thread."""

    def __init__(self, listener: Listener, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener, self._clock = listener, clock
        self._story = Story(clock())
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self._listener(event)
        self._story.note(event)
        self._news.set()

    @contextlib.asynccontextmanager
    async def on(self, client: Client, user: str, job: str) -> AsyncIterator[None]:
        """Announce the job on the bus while the block lasts, then how it ended. Never raises anything of its own."""
        story = self._story
        story.state = replace(story.state, job=job)
        say = _Saying(client, bus.events_subject(user, job), story, self._clock)
        telling = asyncio.create_task(self._tell(say))
        try:
            yield
            story.end("receipt" if story.state.receipts else "stored")
        except asyncio.CancelledError:
            story.end("interrupted")
            raise
        except Exception as error:
            code = error.exit_code if isinstance(error, XferError) else 1
            story.end("failed", code=code, kind=type(error).__name__)
            raise
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            for _ in range(END_TRIES):  # a connection that was just lost may be back
                if await say():
                    break
                await asyncio.sleep(END_WITHIN / END_TRIES)

    async def _tell(self, say: _Saying) -> None:
        while True:
            due = self._story.due(self._clock())
            if due is None:
                self._news.clear()
                await self._news.wait()
            elif due > 0:
                await asyncio.sleep(min(due, EVERY))
            elif not await say():
                await asyncio.sleep(EVERY)


class _Saying:
    """Makes the next announcement. Called: False if the bus does not take it now."""

    def __init__(self, client: Client, subject: str, story: Story, clock: Callable[[], float]) -> None:
        self._client, self._subject, self._story, self._clock = client, subject, story, clock

    async def __call__(self) -> bool:
        now = self._clock()
        announcement, keep = self._story.next(now)
        body = msgspec.json.encode(replace(announcement, time=time.time()))
        if not await bus.tell(self._client, self._subject, body, ttl=None if keep else TTL):
            return False
        self._story.said(announcement, keep, now)
        return True
