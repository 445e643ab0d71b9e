"""Whatever anybody says to the broker, it answers with a typed error, changes nothing of others, and goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from brokers import Job, Place, answers, ask, broker_process, code, connected, free_port, nats_server, raw
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client

from transfer import api, bus, rooms_api
from transfer.api import ErrorCode
from transfer.broker.records import Records
from transfer.broker.room_records import RoomRecords
from transfer.seal import hash_token

BATCHES, BATCH = 200, 50
"""Together 10,000 requests."""
ANSWER_WITHIN = 60.0


def verbs() -> Iterator[tuple[str, type[api.Request]]]:
    """Every request there is, by the verb that its docstring names."""
    for kind in [*api.Request.__subclasses__(), *rooms_api.RoomRequest.__subclasses__()]:
        if kind is not rooms_api.RoomRequest:
            named = re.search(r"verb `(\w+)`", kind.__doc__ or "")
            assert named, f"{kind.__name__} does not say its verb"
            yield named[1], kind


VERBS = dict(verbs())
ROOM, TOKEN = "q" * 16, "t" * 64
"""Of a room of somebody else's, whose ticket everybody has."""
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["", "*", ">", "a.b", "q" * 16, "\x00", "../..", "-1", "1e999", "stored", "open"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def shaped(draw: st.DrawFn, job: str) -> tuple[str, bytes]:
    """A request with the right fields, most of them wrong."""
    verb, kind = draw(st.sampled_from(sorted(VERBS.items())))
    fields: dict[str, Any] = {}
    known = {"job": job, "room": ROOM, "token": TOKEN}
    for name in kind.__struct_fields__:
        if name == "v":
            if draw(st.integers(0, 9)) == 0:
                fields[name] = draw(JUNK)
        elif name in known and draw(st.integers(0, 2)):
            fields[name] = known[name]
        elif draw(st.integers(0, 9)):
            fields[name] = draw(JUNK)
    try:
        return verb, msgspec.json.encode(fields)
    except (OverflowError, UnicodeEncodeError):  # an integer that JSON has here no room for, half a surrogate
        return verb, b'{"job": 1e9999}'


def requests(job: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """job: of somebody else."""
    unknown = st.tuples(
        st.text("abcdefghijklmnopqrstuvwxyz_-0123456789", min_size=1, max_size=20), st.binary(max_size=60)
    )
    garbage = st.tuples(st.sampled_from(sorted(VERBS)), st.binary(max_size=200))
    oversized = st.tuples(
        st.sampled_from(sorted(VERBS)), st.integers(10_000, 200_000).map(lambda n: b'{"job":"' + b"x" * n)
    )
    return st.one_of(shaped(job), shaped(job), shaped(job), unknown, garbage, oversized)


@pytest.fixture
async def guarded(place: Place, tmp_path: Path) -> Any:
    """A bus and its only broker, both of the test's own; gives a client, the broker's log and its process."""
    log = tmp_path / "broker.log"
    with nats_server(tmp_path, free_port()) as url:
        own = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)
        with broker_process(own, log) as process:
            client = await connected(own)
            try:
                await answers(client)
                yield client, log, process
            finally:
                await client.close()


async def flood(client: Client, user: str, said: list[tuple[str, bytes]]) -> list[tuple[bytes, str | None]]:
    """Each answer, and its error code. The last request is said twice: a replay."""
    said = [*said, said[-1]]
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def hear(message: Any) -> None:
        queue.put_nowait(message)

    inbox = f"{bus.inbox_prefix(user)}.f"
    heard = await client.subscribe(f"{inbox}.*", cb=hear)
    for number, (verb, body) in enumerate(said):
        await client.publish(bus.api_subject(user, verb), body, reply=f"{inbox}.{number}")
    found: dict[str, tuple[bytes, Any]] = {}
    async with asyncio.timeout(ANSWER_WITHIN):
        while len(found) < len(said):
            message = await queue.get()
            found[message.subject] = (message.data, (message.headers or {}).get("Nats-Service-Error-Code"))
    await heard.unsubscribe()
    return list(found.values())


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_ten_thousand_requests_of_any_kind_get_typed_answers_and_change_nothing_of_others(
    guarded: tuple[Client, Path, Any],
) -> None:
    client, log, process = guarded
    bystander = Job(client, "bob")
    await bystander.create()
    records = await Records.attach(client)
    before = await records.find(bystander.id)
    new = rooms_api.RoomNew(room=ROOM, token_hash=hash_token(TOKEN), name="name")
    assert isinstance(await ask(client, "room_new", new, rooms_api.RoomInfo, "bob"), rooms_api.RoomInfo)
    rooms = await RoomRecords.attach(client)
    made = await rooms.room(ROOM)
    known, count, loop = {c.value for c in ErrorCode}, 0, asyncio.get_running_loop()
    batches: list[list[tuple[str, bytes]]] = []

    @settings(
        max_examples=BATCHES,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(requests(bystander.id), min_size=BATCH, max_size=BATCH))
    def collect(batch: list[tuple[str, bytes]]) -> None:
        batches.append(batch)

    await loop.run_in_executor(None, collect)
    for number, batch in enumerate(batches):
        for body, error in await flood(client, f"fuzz{number}", batch):
            count += 1
            if error is None:
                assert isinstance(msgspec.json.decode(body), dict)
            else:
                assert error in known
                assert error != ErrorCode.INTERNAL.value, body
                assert msgspec.json.decode(body, type=api.ApiError).code.value == error
    assert count >= BATCHES * BATCH
    assert await records.find(bystander.id) == before
    assert await rooms.room(ROOM) == made
    assert await rooms.count(ROOM) == 0
    assert process.poll() is None
    assert "a bug in" not in log.read_text()
    assert isinstance(await answers(client), api.BrokerInfo)


async def test_more_than_a_broker_can_do_is_turned_away_at_once_and_it_is_as_quick_as_before(
    guarded: tuple[Client, Path, Any],
) -> None:
    client, _, _ = guarded
    job = Job(client, "alice")
    await job.create()
    body = msgspec.json.encode(api.Status(job=job.id))
    found = await flood(client, "alice", [("status", body)] * 5000)
    errors = [msgspec.json.decode(body, type=api.ApiError) for body, error in found if error]
    assert len(found) == 5001
    assert 0 < len(errors) < 5001
    assert {error.code for error in errors} == {ErrorCode.BUSY}
    assert all(error.retry_after and 0 < error.retry_after < 10 for error in errors)
    assert len({error.retry_after for error in errors}) > 1
    assert isinstance(await job.status(), api.JobStatus)


async def test_an_unknown_verb_and_another_version_are_told_so(guarded: tuple[Client, Path, Any]) -> None:
    client, _, _ = guarded
    answer = await ask(client, "levitate", api.Info(), api.BrokerInfo)
    assert code(answer) is ErrorCode.VERSION
    body, failed = await raw(client, "info", b'{"v": 99}')
    assert failed
    assert msgspec.json.decode(body, type=api.ApiError).code is ErrorCode.VERSION
