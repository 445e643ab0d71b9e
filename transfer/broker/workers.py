"""Who works off what brokers owe: every broker pulls a few items at a time.

An item is acknowledged when it is done, given back with a growing delay when it could not be done for now, and becomes
a dead letter when it never can be, or was tried often enough. A broker that dies gives nothing back: after
`work.ACK_WAIT` the server gives its items to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import AsyncIterator

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from transfer.api import ErrorCode
from transfer.broker.job import Refusal
from transfer.broker.work import ACK_WAIT, WORK, WORKERS, Item, Kinds, Queue
from transfer.errors import Temporary, UnsupportedVersion, XferError
from transfer.tasks import AGAIN_SOON, ended

log = logging.getLogger(__name__)

AT_ONCE = 6
"""Items that one broker works at: most wait for the store, which answers requests as well."""
PULL_LIFE = 30.0
"""Seconds after which the server ends a pull that it could not fill, and we begin another."""
HEARTBEAT = 2.0
"""Seconds between the server's signs of life during a pull. A server that restarts forgets pulls and says nothing, and
so does one whose stream is gone; nats-py's own `fetch` would wait for its whole time."""
DONE_WITHIN = 120.0
"""Seconds that one try may take."""
DELAYS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)
"""Seconds before the next try; the last one for all that follow."""
LEFT_WITHIN = 5.0
"""Seconds that items under way have when the broker leaves."""


class Workers:
    """Runs until `stop`; rides out whatever happens to NATS and to the queue."""

    def __init__(
        self, client: Client, queue: Queue, kinds: Kinds, *, tries: int, delays: tuple[float, ...] = DELAYS
    ) -> None:
        """tries: after so many an item becomes a dead letter. delays: seconds between them."""
        self._client, self._queue, self._kinds = client, queue, kinds
        self._tries, self._delays = tries, delays
        self._working: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(AT_ONCE)
        self._pulling: asyncio.Task[None] | None = None
        self._said = ""

    def start(self) -> None:
        self._pulling = asyncio.create_task(self._pull_for_ever())

    async def stop(self) -> None:
        """Take nothing new, finish what is under way or give it back."""
        if self._pulling is None:
            return
        await ended(self._pulling, again=AGAIN_SOON)
        if self._working:
            await asyncio.wait(self._working, timeout=LEFT_WITHIN)
        await ended(*self._working, again=AGAIN_SOON)

    async def _pull_for_ever(self) -> None:
        while True:
            try:
                await self._queue.keep()
                await self._pull()
            except (XferError, NatsError, OSError, TimeoutError) as error:
                self._say(error)
            except Exception:
                log.exception("pulling work failed")
            await asyncio.sleep(random.uniform(0.2, 1.0))

    async def _pull(self) -> None:
        """Until the server falls silent, or says that there is nothing to pull from."""
        inbox = self._client.new_inbox()
        pulled = await self._client.subscribe(inbox)
        try:
            while True:
                await self._one_pull(inbox, pulled)
                self._said = ""
        finally:
            with contextlib.suppress(NatsError, OSError):
                while pulled.pending_msgs:  # those that came as we ended
                    await _give_back(await pulled.next_msg(timeout=0.1))
                await pulled.unsubscribe()

    async def _one_pull(self, inbox: str, pulled: Subscription) -> None:
        """Ask for as many as may be worked at, and take them until all came or the server ends the pull."""
        async with self._free:
            wanted = AT_ONCE - len(self._working)
        body = {"batch": wanted, "expires": int(PULL_LIFE * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{WORK}.{WORKERS}", json.dumps(body).encode(), reply=inbox
        )
        while wanted:
            message = await pulled.next_msg(timeout=2.5 * HEARTBEAT)
            status = (message.headers or {}).get("Status")
            if status is None:
                wanted -= 1
                await self._take(message)
            elif status in ("404", "408"):  # nothing came in all that time
                return
            elif status != "100":
                raise ConnectionError(f"the queue ended a pull with {status}")

    async def _take(self, message: Msg) -> None:
        await self._free.acquire()
        task = asyncio.create_task(self._work(message))
        self._working.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._free.release()

    async def _work(self, message: Msg) -> None:
        """Whatever becomes of it, the item ends acknowledged or given back, or the server hears nothing and waits."""
        with contextlib.suppress(NatsError, OSError):
            try:
                await self._settle(message)
            except asyncio.CancelledError:
                await _give_back(message)
                raise

    async def _settle(self, message: Msg) -> None:
        item, tries = Item(*message.subject.split(".")[2:4]), message.metadata.num_delivered or 1
        try:
            if tries > self._tries:
                raise _Never("the broker that tried it last ended during that")
            await self._attempt(item, message)
        except _Later as later:
            if tries < self._tries:
                await message.nak(self._delay(tries))
            else:
                await self._bury(item, message, str(later), tries)
        except _Never as never:
            await self._bury(item, message, str(never), min(tries, self._tries))
        else:
            await message.ack()

    async def _bury(self, item: Item, message: Msg, reason: str, tries: int) -> None:
        try:
            await self._queue.bury(item, reason, tries)
        except XferError as error:
            self._say(error)
            await message.nak(self._delay(1))
            return
        log.error("job %s: gave up to %s after %d tries: %s", item.job, item.kind, tries, reason)
        await message.ack()

    async def _attempt(self, item: Item, message: Msg) -> None:
        """Raises _Later, _Never."""
        try:
            async with _in_progress(message), asyncio.timeout(DONE_WITHIN):
                await self._do(item)
        except TimeoutError:
            raise _Later(f"it takes longer than {DONE_WITHIN:g} s") from None

    async def _do(self, item: Item) -> None:
        """Raises _Later, _Never."""
        kind = self._kinds.get(item.kind)
        if kind is None:  # of a newer broker, which may be next to pull it
            raise _Later("this broker knows no such work")
        try:
            await kind.do(item.job)
        except (Temporary, UnsupportedVersion) as error:  # a newer broker can read it
            raise _Later(error.what) from None
        except Refusal as refusal:
            if refusal.error.code is ErrorCode.NOT_FOUND:
                return  # gone, and all that was owed with it
            again = refusal.error.code is ErrorCode.BUSY
            raise (_Later if again else _Never)(refusal.what) from None
        except XferError as error:
            raise _Never(error.what) from None
        except Exception as error:
            log.exception("a bug in %s", item.kind)
            raise _Later(f"the broker failed ({type(error).__name__}); its log says where") from None

    def _delay(self, tries: int) -> float:
        return self._delays[min(tries, len(self._delays)) - 1] * random.uniform(0.8, 1.2)

    def _say(self, error: Exception) -> None:
        """Each new reason once."""
        said = error.what if isinstance(error, XferError) else f"it says nothing ({type(error).__name__})"
        if said != self._said:
            log.warning("what brokers owe waits for NATS: %s", said)
        self._said = said


class _Later(Exception):
    pass


class _Never(Exception):
    pass


async def _give_back(message: Msg) -> None:
    """To be given to another broker at once. What is only a sign of life has nothing to give back."""
    if message.reply and not message.is_acked:
        await message.nak()


@contextlib.asynccontextmanager
async def _in_progress(message: Msg) -> AsyncIterator[None]:
    """Say again and again that it is worked at."""

    async def say() -> None:
        while True:
            await asyncio.sleep(ACK_WAIT / 3)
            with contextlib.suppress(NatsError, OSError):
                await message.in_progress()

    saying = asyncio.create_task(say())
    try:
        yield
    finally:
        saying.cancel()
