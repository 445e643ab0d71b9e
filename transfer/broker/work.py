"""Work that brokers owe, as a JetStream work queue, and the dead letters of what could not be done.

A job's record stays the truth. An item says no more than «look at that job», so it may be lost, or come twice, or come
late: whoever works it off looks at the record first, and the sweeper finds every record whose item is gone.

    xfer.work.<kind>.<job>   in the stream xfer_work: gone once it is acknowledged
    xfer.dead.<kind>.<job>   in the stream xfer_dead: why it was given up, and when; one a kind and job, the last
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    Header,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from transfer.broker.streams import ensure
from transfer.errors import BusUnreachable

WORK, DEAD = "xfer_work", "xfer_dead"
WORKERS = "xfer_workers"
"""The consumer that all brokers pull from."""
ACK_WAIT = 10.0
"""Seconds after which what a broker neither finished nor said to be at goes to another one, as it does when one dies."""
SAME_WITHIN = 120.0
"""Seconds in which the same debt is queued once, whoever says it and how often."""
DEAD_LIFE = 30 * 86_400.0
WAITING = 50_000
"""Items that may wait for their next try: they count as unacknowledged, and must not keep the others."""

_WORK = StreamConfig(
    name=WORK,
    description="what brokers owe",
    subjects=["xfer.work.>"],
    retention=RetentionPolicy.WORK_QUEUE,
    storage=StorageType.FILE,
    duplicate_window=SAME_WITHIN,
    max_bytes=256 << 20,
    max_msg_size=4096,
)
_DEAD = StreamConfig(
    name=DEAD,
    description="what brokers owe and gave up",
    subjects=["xfer.dead.>"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    max_msgs_per_subject=1,
    max_age=DEAD_LIFE,
    max_bytes=64 << 20,
    max_msg_size=4096,
)
_CONSUMER = ConsumerConfig(
    durable_name=WORKERS,
    description="the brokers' workers",
    ack_policy=AckPolicy.EXPLICIT,
    ack_wait=ACK_WAIT,
    # Whoever works counts the tries (`workers`): what the server gave up would stay in the queue for ever, seen by nobody.
    max_deliver=-1,
    max_ack_pending=WAITING,
)


class Item(NamedTuple):
    """What kind of work, and on which job."""

    kind: str
    job: str


class Kind(NamedTuple):
    """How one kind of work is done, both idempotent and given the job's id.

    do: Raises errors.Temporary or Refusal (busy) for what is to be tried again, any other XferError for what is not.
    give_up: an operator drops its dead letter: nobody owes it any more. Raises the same.
    """

    do: Callable[[str], Awaitable[None]]
    give_up: Callable[[str], Awaitable[None]]


Kinds = Mapping[str, Kind]


class Letter(msgspec.Struct, frozen=True):
    """A dead letter. reason: one sentence. time: seconds since 1970. tries: how often it was begun."""

    reason: str
    time: float
    tries: int


class Queue:
    """The two streams. Raises (any call but `enqueue`): BusUnreachable; UsageError if they cannot have their replicas."""

    def __init__(self, client: Client, *, replicas: int = 1) -> None:
        self._client, self._replicas = client, replicas
        self._jetstream = client.jetstream()

    async def keep(self) -> None:
        """Make streams and consumer, or make them what they should be. Any number of brokers may do so at once."""
        with _translated():
            await ensure(self._jetstream, _WORK, self._replicas)
            await ensure(self._jetstream, _DEAD, self._replicas)
            await self._jetstream.add_consumer(WORK, _CONSUMER)

    async def enqueue(self, item: Item, debt: str = "") -> None:
        """Say that there is something to do. Waits for nobody's word: what gets lost is found by the sweeper.

        debt: the same text for the same debt; it is queued once then, if it is said again soon.
        """
        headers = {Header.MSG_ID.value: f"{item.kind}.{item.job}.{debt}"} if debt else None
        with contextlib.suppress(NatsError, OSError):
            await self._client.publish(f"xfer.work.{item.kind}.{item.job}", headers=headers)

    async def queued(self) -> set[Item]:
        """What is in the queue, being worked off or waiting; of very much (100,000), some."""
        return await self._subjects(WORK, "xfer.work.>")

    async def dead(self) -> set[Item]:
        """What has a dead letter; the same."""
        return await self._subjects(DEAD, "xfer.dead.>")

    async def bury(self, item: Item, reason: str, tries: int) -> None:
        """Write a dead letter. It is kept when this returns."""
        letter = Letter(reason[:1000], time.time(), tries)
        with _translated():
            await self._jetstream.publish(f"xfer.dead.{item.kind}.{item.job}", msgspec.json.encode(letter))

    async def letter(self, item: Item) -> Letter | None:
        with _translated():
            try:
                found = await self._jetstream.get_last_msg(DEAD, f"xfer.dead.{item.kind}.{item.job}")
            except NotFoundError:
                return None
        try:
            return msgspec.json.decode(found.data or b"", type=Letter)
        except msgspec.MsgspecError:
            return Letter("written by another version of the broker", 0.0, 0)

    async def unbury(self, item: Item) -> None:
        """Remove a dead letter; one that is gone is fine."""
        with _translated(), contextlib.suppress(NotFoundError):
            await self._jetstream.purge_stream(DEAD, subject=f"xfer.dead.{item.kind}.{item.job}")

    async def _subjects(self, stream: str, subjects: str) -> set[Item]:
        with _translated():
            try:
                info = await self._jetstream.stream_info(stream, subjects_filter=subjects)
            except NotFoundError:
                return set()
        return {Item(*subject.split(".")[2:4]) for subject in info.state.subjects or {}}


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (NatsError, OSError) as error:
        raise BusUnreachable(
            f"the broker cannot reach the queue of its work ({type(error).__name__})"
        ) from None
