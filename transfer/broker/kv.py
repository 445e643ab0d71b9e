"""Values in a JetStream KV bucket, by the shortest way: a request each, and nothing parsed that is not used.

nats-py's KeyValue takes three times our time and twice the server's for it: it asks a stream's leader by JSON even where
there is only one replica, and reads what is not looked at. Source: NATS ADR-8 (KV), ADR-31 (direct get).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgspec
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.api import Header, KeyValueConfig, StorageType
from nats.js.errors import APIError, BadRequestError, NotFoundError
from nats.js.kv import KV_OP

from transfer.broker.streams import NAME_IN_USE, keep_right, needs_cluster, raise_replicas

WITHIN = 5.0
"""Seconds for an answer."""
WRONG_REVISION = frozenset({10071, 10164})
"""Source: nats-server errors.json, JSStreamWrongLastSequenceErrF and …ConstantErr."""
NO_MESSAGE, NO_STREAM = 10037, 10059
"""Source: the same, JSNoMessageFoundErr and JSStreamNotFoundErr."""
NO_SUCH_MESSAGE = "404"


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
        body = msgspec.json.encode({"last_by_subj": self._subjects + key})
        subject = f"$JS.API.STREAM.MSG.GET.KV_{self.name}"
        answer = await self._client.request(subject, body, timeout=WITHIN)
        found = _found.decode(answer.data)
        if found.error is not None and found.error.err_code == NO_MESSAGE:
            return None
        if found.error is not None or found.message is None:
            raise _api_error(found.error)
        deleted = KV_OP.encode() in found.message.hdrs
        return Entry(None if deleted else found.message.data, found.message.seq)

    async def create(self, key: str, value: bytes) -> int | None:
        """The revision; None if there is a value."""
        made = await self.update(key, value, 0)
        if made is None:
            there = await self.get(key)
            if there is not None and there.value is None:
                return await self.update(key, value, there.revision)
        return made

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """The new revision; None if `revision` is not the latest."""
        headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        return await self.put(key, value, headers)

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


def _api_error(error: _Error | None) -> APIError:
    if error is None:
        return APIError(description="JetStream answers in a way that is not understood")
    return APIError(code=error.code, err_code=error.err_code, description=error.description)
