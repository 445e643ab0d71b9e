"""What its owner does to a job while we send it, from whatever host: pause, go on, cancel.

The brokers tell on the job's control subject. That may be lost, so the record is asked as well: when a call was
refused, and now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from transfer import api, bus
from transfer.broker_client import BrokerClient, Patience
from transfer.errors import CANCELLED, JobCancelled, JobGone, XferError
from transfer.hold import Hold
from transfer.meter import Meter
from transfer.tasks import ended

if TYPE_CHECKING:
    from nats.aio.client import Client

RUNNING, PAUSED, AGAIN = 15.0, 3.0, 1.0
"""Seconds between two questions to the broker that nothing prompts; after one that was not answered."""
TELL = 1.0
"""Seconds between two reminders of what is waited for."""
Result = TypeVar("Result")


class Control:
    """Sets the hold as the record says; ends what `guard` runs when the job is cancelled."""

    def __init__(self, client: Client, broker: BrokerClient, job: str, hold: Hold, meter: Meter) -> None:
        self._client, self._job, self._hold, self._meter = client, job, hold, meter
        self._subject = bus.control_subject(broker.user, job)
        # Nothing else waits for these answers: an outage is for others to ride out, and to tell of.
        self._broker = broker.with_patience(Patience(0.0))

    async def guard(self, story: Coroutine[Any, Any, Result]) -> Result:
        """Run it to its end. Raises JobCancelled if its owner ended the job meanwhile, else what it raises."""
        telling = asyncio.create_task(story)
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._remind()),
        ]
        try:
            async with bus.hearing(self._client, self._subject, lambda _: self._hold.doubt.set()):
                await asyncio.wait({telling, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if not telling.done():
                for task in tasks:
                    if task.done():
                        task.result()
            return await telling
        finally:
            await ended(telling, *tasks)

    async def _follow(self) -> None:
        """Ask how it stands whenever there is doubt."""
        pause = PAUSED if self._hold.paused else RUNNING
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hold.doubt.wait()
            self._hold.doubt.clear()
            try:
                state = (await self._broker.status(self._job)).state
            except JobGone:
                raise JobCancelled("this transfer was removed by its owner, or has expired") from None
            except XferError:  # no bus, no broker: whoever needs them says so
                pause = AGAIN
                continue
            if state is api.JobState.VOID:
                raise JobCancelled(CANCELLED)
            self.stands(state)
            pause = PAUSED if self._hold.paused else RUNNING

    def stands(self, state: api.JobState) -> None:
        """Take note of what the record says."""
        paused = state is api.JobState.PAUSED
        if paused == self._hold.paused and paused == bool(self._meter.held):
            return
        self._hold.set(paused)
        self._meter.held = f"paused by its owner; `xfer resume {self._job}` goes on" if paused else ""
        if not paused:
            self._meter.notice("its owner has it go on")
            self._meter.tell()

    async def _remind(self) -> None:
        while True:
            await self._hold.held()
            self._meter.waiting("", None)
            await asyncio.sleep(TELL)
