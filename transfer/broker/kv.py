"""Values in a JetStream KV bucket, by the shortest way: a request each, and nothing parsed that is not used.

nats-py's KeyValue takes three times our time and twice the server's for it: it asks a stream's leader by JSON even where
there is only one replica, and reads what is not looked at. Source: NATS ADR-8 (KV), ADR-31 (direct get).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header, KeyValueConfig, StorageType
from nats.js.errors import APIError, BadRequestError, NotFoundError
from nats.js.kv import KV_OP, KV_PURGE, MSG_ROLLUP_SUBJECT

from transfer.broker.streams import NAME_IN_USE, keep_right, needs_cluster, raise_replicas
from transfer.errors import BusUnreachable

WITHIN = 5.0
"""Seconds for an answer."""
WRONG_REVISION = frozenset({10071, 10164})
"""Source: nats-server errors.json, JSStreamWrongLastSequenceErrF and …ConstantErr."""
NO_MESSAGE, NO_STREAM = 10037, 10059
"""Source: the same, JSNoMessageFoundErr and JSStreamNotFoundErr."""
NO_SUCH_MESSAGE = "404"
LISTING_WITHIN, LISTED_AT_ONCE = 10.0, 256
"""Seconds that so many values may take before the bus counts as gone; the server forgets their consumer as soon."""
MARKER_LIFE = 3600
"""Seconds that the mark of a deletion stays. Source: NATS ADR-43, per-message TTL."""
_PURGE = {KV_OP: KV_PURGE, Header.ROLLUP.value: MSG_ROLLUP_SUBJECT, Header.MSG_TTL.value: str(MARKER_LIFE)}
"""Headers of the message that deletes a value. Source: NATS ADR-8."""


class Entry(NamedTuple):
    """A value and the revision that a change must name. value: None where it was deleted."""

    value: bytes | None
    revision: int


class _Error(msgspec.Struct, frozen=True):
    code: int
    err_code: int = 0
    description: str = ""


class _Message(msgspec.Struct, frozen=True):
    seq: int
    data: bytes = b""
    hdrs: bytes = b""


class _Found(msgspec.Struct, frozen=True):
    message: _Message | None = None
    error: _Error | None = None


class _Ack(msgspec.Struct, frozen=True):
    seq: int = 0
    error: _Error | None = None


_found, _ack = msgspec.json.Decoder(_Found), msgspec.json.Decoder(_Ack)


class Bucket:
    """Raises (any call) nats.errors.Error. Every call may be made many times at once.

    direct: whether the stream answers direct gets. Only where it has one replica: any replica answers those, and one
    that lags does not know what was just written. Where nobody answers one any more, the leader is asked from then on.
    """

    def __init__(self, client: Client, name: str, *, direct: bool) -> None:
        self.name, self._client, self._direct = name, client, direct
        self._subjects = f"$KV.{name}."
        self._jetstream = client.jetstream()

    @classmethod
    async def attach(
        cls,
        client: Client,
        name: str,
        about: str,
        replicas: int,
        *,
        life: float | None = None,
        **settings: object,
    ) -> Bucket:
        """Bind to it; make it on disk if it is not there.

        about: in words, for whoever lists streams. replicas: at least so many. life: seconds after which a value that is
        not written again is gone, by the server's clock; None: it stays. settings: of its stream, kept right.
        Raises UsageError if these servers are no cluster.
        """
        jetstream, stream = client.jetstream(), f"KV_{name}"
        try:
            made = (await jetstream.stream_info(stream)).config
        except NotFoundError:
            config = KeyValueConfig(
                bucket=name,
                description=about,
                history=1,
                ttl=life,
                storage=StorageType.FILE,
                replicas=replicas,
            )
            try:
                with needs_cluster(replicas):
                    await jetstream.create_key_value(config)
            except BadRequestError as error:  # by another broker at the same time
                if error.err_code != NAME_IN_USE:
                    raise
            made = (await jetstream.stream_info(stream)).config
        if life is not None:
            settings["max_age"] = life
        alone = max(made.num_replicas or 1, replicas) == 1
        await keep_right(jetstream, stream, allow_direct=alone, **settings)
        await raise_replicas(jetstream, stream, replicas)
        return cls(client, name, direct=alone)

    async def get(self, key: str) -> Entry | None:
        """None: it never was. What was deleted is an entry without a value while its marker is there."""
        if self._direct:
            try:
                return await self._get_directly(key)
            except NoRespondersError:
                self._direct = False
        message = await self._find({"last_by_subj": self._subjects + key})
        if message is None:
            return None
        return Entry(None if KV_OP.encode() in message.hdrs else message.data, message.seq)

    async def create(self, key: str, value: bytes, life: float | None = None) -> int | None:
        """The revision; None if there is a value. life: as in `update`."""
        made = await self.update(key, value, 0, life)
        if made is None:
            there = await self.get(key)
            if there is not None and there.value is None:
                return await self.update(key, value, there.revision, life)
        return made

    async def update(self, key: str, value: bytes, revision: int, life: float | None = None) -> int | None:
        """The new revision; None if `revision` is not the latest. life: seconds, rounded up, after which it goes."""
        headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        if life is not None:
            headers[Header.MSG_TTL.value] = str(max(1, math.ceil(life)))
        return await self.put(key, value, headers)

    async def delete(self, key: str, revision: int | None = None) -> bool:
        """Leave a mark of MARKER_LIFE in its place. False if `revision` is not the latest: then it stays."""
        expected = {} if revision is None else {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        return await self.put(key, b"", _PURGE | expected) is not None

    async def erase(self, keys: str) -> None:
        """Delete all of them without a mark. keys: a pattern, here and below."""
        await self._jetstream.purge_stream(f"KV_{self.name}", subject=self._subjects + keys)

    async def newest(self, keys: str, start: int | None = None) -> AsyncGenerator[Msg, None]:
        """The newest word on each key, marks of deletions included; from a revision on, in that order."""
        listing = await self._listing(keys, start)
        try:
            left = (await listing.consumer_info()).num_pending or 0
            while left:
                try:
                    messages = await listing.fetch(min(left, LISTED_AT_ONCE), timeout=LISTING_WITHIN)
                except TimeoutError:
                    if (await listing.consumer_info()).num_pending:
                        raise
                    return  # what was left is gone since
                for message in messages:
                    left = message.metadata.num_pending
                    yield message
        finally:
            await listing.unsubscribe()

    async def count(self, keys: str, start: int = 1) -> int:
        """How many of them were written at that revision or later."""
        listing = await self._listing(keys, start)
        try:
            return (await listing.consumer_info()).num_pending or 0
        finally:
            await listing.unsubscribe()

    async def first(self, keys: str, start: int) -> int | None:
        """The revision of the first of them that was written at `start` or later."""
        found = await self._find({"seq": max(1, start), "next_by_subj": self._subjects + keys})
        return None if found is None else found.seq

    @contextlib.asynccontextmanager
    async def heard(self, keys: str) -> AsyncIterator[asyncio.Event]:
        """Set as soon as one of them is written."""
        written = asyncio.Event()

        async def hear(_message: Msg) -> None:
            written.set()

        listening = await self._client.subscribe(self._subjects + keys, cb=hear)
        try:
            yield written
        finally:
            with contextlib.suppress(NatsError):  # a connection that is closed has no subscriptions
                await listening.unsubscribe()

    async def _listing(self, keys: str, start: int | None) -> JetStreamContext.PullSubscription:
        """A consumer that the server forgets once it is not used any more."""
        return await self._jetstream.pull_subscribe(
            self._subjects + keys,
            stream=f"KV_{self.name}",
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT
                if start is None
                else DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=start,
                ack_policy=AckPolicy.NONE,
                inactive_threshold=LISTING_WITHIN,
                mem_storage=True,
            ),
        )

    async def put(self, key: str, value: bytes, headers: dict[str, str]) -> int | None:
        """As `update`, with whatever headers."""
        if (
            not self._client.is_connected
        ):  # nats-py would keep it, and write it whenever it is connected again
            async with asyncio.timeout(WITHIN):
                while not self._client.is_connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        try:
            answer = await self._client.request(self._subjects + key, value, timeout=WITHIN, headers=headers)
        except NoRespondersError:
            raise APIError(code=503, description=f"there is no bucket {self.name}") from None
        ack = _ack.decode(answer.data)
        if ack.error is None:
            return ack.seq
        if ack.error.err_code in WRONG_REVISION:
            return None
        raise _api_error(ack.error)

    async def _find(self, which: dict[str, int | str]) -> _Message | None:
        """Asks the leader."""
        subject = f"$JS.API.STREAM.MSG.GET.KV_{self.name}"
        answer = await self._client.request(subject, msgspec.json.encode(which), timeout=WITHIN)
        found = _found.decode(answer.data)
        if found.error is not None and found.error.err_code == NO_MESSAGE:
            return None
        if found.error is not None or found.message is None:
            raise _api_error(found.error)
        return found.message

    async def _get_directly(self, key: str) -> Entry | None:
        subject = f"$JS.API.DIRECT.GET.KV_{self.name}.{self._subjects}{key}"
        answer = await self._client.request(subject, timeout=WITHIN)
        headers = answer.headers or {}
        status = headers.get(Header.STATUS)
        if status == NO_SUCH_MESSAGE:
            return None
        if status is not None:
            raise APIError(code=int(status), description=headers.get(Header.DESCRIPTION))
        return Entry(None if KV_OP in headers else answer.data, int(headers["Nats-Sequence"]))


@contextlib.contextmanager
def reaching(what: str) -> Iterator[None]:
    """Raises BusUnreachable for whatever NATS says within. what: is kept in the bucket, in the plural."""
    try:
        yield
    except (NatsError, OSError) as error:
        if isinstance(error, APIError) and error.err_code == NO_STREAM:
            raise BusUnreachable(f"there are no {what} at all") from None
        raise BusUnreachable(f"the broker cannot reach its {what} ({type(error).__name__})") from None


async def pause(attempt: int) -> None:
    """Full jitter, so that two brokers do not meet again: up to 4 ms, doubling to a quarter of a second."""
    await asyncio.sleep(random.uniform(0, min(0.25, 0.004 * 2**attempt)))


def _api_error(error: _Error | None) -> APIError:
    if error is None:
        return APIError(description="JetStream answers in a way that is not understood")
    return APIError(code=error.code, err_code=error.err_code, description=error.description)
