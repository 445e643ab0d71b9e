"""The short way to a KV bucket does what nats-py's does."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
from brokers import Place, connect
from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from transfer.broker.kv import Bucket, Entry


@pytest.fixture
async def bus(place: Place) -> AsyncIterator[Client]:
    client = await connect(place)
    yield client
    await client.close()


async def made(jetstream: JetStreamContext, *, direct: bool) -> KeyValue:
    return await jetstream.create_key_value(bucket=f"t{secrets.token_hex(6)}", direct=direct)


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "leader"])
async def test_values_are_those_that_nats_py_sees(bus: Client, direct: bool) -> None:
    theirs = await made(bus.jetstream(), direct=direct)
    ours = Bucket(bus, theirs._name, direct=direct)
    assert await ours.get("k") is None
    revision = await ours.create("k", b"one")
    assert revision is not None
    assert await ours.create("k", b"other") is None
    assert await ours.get("k") == Entry(b"one", revision)
    newer = await ours.update("k", b"two", revision)
    assert newer is not None
    assert newer > revision
    assert await ours.update("k", b"three", revision) is None
    entry = await theirs.get("k")
    assert (entry.value, entry.revision) == (b"two", newer)
    assert await ours.get("k") == Entry(b"two", newer)
    await ours.create("empty", b"")
    empty = await ours.get("empty")
    assert empty is not None
    assert empty.value == b""


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "leader"])
async def test_what_was_deleted_has_no_value_and_may_be_made_again(bus: Client, direct: bool) -> None:
    theirs = await made(bus.jetstream(), direct=direct)
    ours = Bucket(bus, theirs._name, direct=direct)
    for delete in (theirs.delete, theirs.purge):
        assert await ours.create("k", b"one") is not None
        await delete("k")
        gone = await ours.get("k")
        assert gone is not None
        assert gone.value is None
    assert await ours.create("k", b"again") is not None
    assert (await theirs.get("k")).value == b"again"


async def test_when_direct_gets_end_the_leader_is_asked(bus: Client) -> None:
    jetstream = bus.jetstream()
    theirs = await made(jetstream, direct=True)
    ours = Bucket(bus, theirs._name, direct=True)
    await ours.create("k", b"one")
    config = (await jetstream.stream_info(f"KV_{theirs._name}")).config
    await jetstream.update_stream(config.evolve(allow_direct=False))
    found = await ours.get("k")
    assert found is not None
    assert found.value == b"one"


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "leader"])
async def test_without_the_bucket_every_call_fails(bus: Client, direct: bool) -> None:
    ours = Bucket(bus, "nowhere", direct=direct)
    with pytest.raises(Error):
        await ours.get("k")
    with pytest.raises(Error):
        await ours.create("k", b"one")
