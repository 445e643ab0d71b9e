"""What brokers owe is worked off whatever happens to brokers, to NATS and to the queue itself, or ends as a dead letter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from brokers import (
    Job,
    Place,
    answered,
    answers,
    ask,
    broker_process,
    code,
    connected,
    free_port,
    gone,
    nats_server,
)
from helpers import at_a_terminal
from nats.aio.client import Client
from nats.js import JetStreamContext

from transfer import api, bus
from transfer.api import ErrorCode, JobState
from transfer.broker import work as work_module
from transfer.broker.debts import DELETE, Debts
from transfer.broker.job import Refusal, conflict
from transfer.broker.metering import Unmetered
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.broker.work import Item, Kind, Queue
from transfer.broker.workers import Workers
from transfer.errors import StoreUnreachable
from transfer.ticket import Ticket

if TYPE_CHECKING:
    from tests.conftest import Servers

Run = Callable[..., subprocess.CompletedProcess[str]]
SOON = 40.0


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Client]:
    """A NATS server without a broker."""
    with nats_server(tmp_path, free_port()) as url:
        client = await connected(Place(url, "", {}, tmp_path))
        yield client
        await client.close()


class Doing:
    """A kind of work that does what it is told: fails with each of these in turn, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.done, self.begun = list(failures), list[str](), list[float]()
        self.given_up: list[str] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, job: str) -> None:
        self.begun.append(time.monotonic())
        await self.go.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.done.append(job)

    async def give_up(self, job: str) -> None:
        self.given_up.append(job)


def workers(client: Client, doing: Doing, tries: int = 3, delays: tuple[float, ...] = (0.1, 0.4)) -> Workers:
    kinds = {"test": Kind(doing, doing.give_up)}
    return Workers(client, Queue(client), kinds, tries=tries, delays=delays)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def empty(queue: Queue) -> None:
    async with asyncio.timeout(SOON):
        while await queue.queued():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def queued(client: Client, queue: Queue) -> set[Item]:
    """All that was queued so far: it is stored in order, and nobody waits for it but the test."""
    await jetstream(client).publish("xfer.work.mark.mark")
    return await queue.queued() - {Item("mark", "mark")}


def jetstream(client: Client) -> JetStreamContext:
    return client.jetstream()


# --- the queue


async def test_what_fails_for_now_is_tried_again_ever_later_until_it_is_done(alone: Client) -> None:
    away = StoreUnreachable("away")
    doing, queue = Doing(away, Refusal(ErrorCode.BUSY, "later")), Queue(alone)
    working = workers(alone, doing)
    working.start()
    await queue.keep()
    await queue.enqueue(Item("test", "j"))
    await until(lambda: bool(doing.done))
    first, second, third = doing.begun
    assert second - first >= 0.08
    assert third - second >= 0.3
    await empty(queue)
    assert await queue.dead() == set()
    await working.stop()


async def test_after_so_many_tries_it_is_a_dead_letter_that_says_why_and_when(alone: Client) -> None:
    doing, queue = Doing(*[StoreUnreachable("the store is away")] * 3), Queue(alone)
    working = workers(alone, doing)
    working.start()
    await queue.keep()
    await queue.enqueue(Item("test", "j"))
    await until(lambda: len(doing.begun) == 3)
    await empty(queue)
    letter = await queue.letter(Item("test", "j"))
    assert letter is not None
    assert (letter.reason, letter.tries) == ("the store is away", 3)
    assert letter.time == pytest.approx(time.time(), abs=60)
    assert await queue.dead() == {Item("test", "j")}
    await working.stop()


async def test_what_can_never_be_done_is_a_dead_letter_at_once_and_what_is_gone_is_none(
    alone: Client,
) -> None:
    doing, queue = Doing(conflict("that makes no sense")), Queue(alone)
    working = workers(alone, doing)
    working.start()
    await queue.keep()
    await queue.enqueue(Item("test", "never"))
    await until(lambda: len(doing.begun) == 1)
    doing.failures.append(Refusal(ErrorCode.NOT_FOUND, "no such job"))
    await queue.enqueue(Item("test", "gone"))
    await empty(queue)
    assert await queue.dead() == {Item("test", "never")}
    await working.stop()


async def test_work_that_this_broker_does_not_know_is_left_to_one_that_does(alone: Client) -> None:
    queue, knows = Queue(alone), Doing()
    await queue.keep()
    older = Workers(alone, queue, {}, tries=100, delays=(0.05,))
    older.start()
    await queue.enqueue(Item("test", "j"))
    await asyncio.sleep(0.5)
    assert await queue.queued() == {Item("test", "j")}
    newer = workers(alone, knows, tries=100, delays=(0.05,))
    newer.start()
    await until(lambda: bool(knows.done))
    await older.stop()
    await newer.stop()


async def test_the_same_debt_is_queued_once_whoever_says_it(alone: Client) -> None:
    queue = Queue(alone)
    await queue.keep()
    for broker in (queue, Queue(alone)):
        for debt in ("a", "b", "a", "b"):
            await broker.enqueue(Item("test", "j"), debt)
    await queued(alone, queue)
    assert (await jetstream(alone).stream_info(work_module.WORK)).state.messages == 2 + 1


async def test_a_broker_that_dies_leaves_its_item_to_others_and_one_that_kills_them_all_is_given_up(
    alone: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "_CONSUMER", work_module._CONSUMER.evolve(ack_wait=1.0))
    queue, doing = Queue(alone), Doing()
    await queue.keep()
    await queue.enqueue(Item("test", "j"))
    pulling = await jetstream(alone).pull_subscribe_bind(work_module.WORKERS, stream=work_module.WORK)
    await pulling.fetch(1, timeout=SOON)  # taken, never acknowledged
    working = workers(alone, doing, tries=3)
    working.start()
    await until(lambda: doing.done == ["j"])
    await working.stop()
    await queue.enqueue(Item("test", "deadly"))
    for _ in range(3):
        [taken] = await pulling.fetch(1, timeout=SOON)
    assert taken.metadata.num_delivered == 3
    working = workers(alone, doing, tries=3)
    working.start()
    await empty(queue)
    assert (letter := await queue.letter(Item("test", "deadly"))) is not None
    assert "ended during" in letter.reason
    assert doing.done == ["j"]
    await working.stop()


async def test_a_worker_that_leaves_finishes_its_item_or_gives_it_to_another_at_once(
    alone: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer.broker.workers.LEFT_WITHIN", 0.5)
    queue, quick, stuck, other = Queue(alone), Doing(), Doing(), Doing()
    await queue.keep()
    for doing in (quick, stuck):
        doing.go.clear()
        leaving = workers(alone, doing)
        leaving.start()
        await queue.enqueue(Item("test", "j"))
        await until(lambda doing=doing: bool(doing.begun))  # type: ignore[misc]
        if doing is quick:
            asyncio.get_running_loop().call_later(0.1, doing.go.set)
        await leaving.stop()
    assert quick.done == ["j"]
    assert stuck.done == []
    began = time.monotonic()
    staying = workers(alone, other)
    staying.start()
    await until(lambda: other.done == ["j"])
    assert time.monotonic() - began < work_module.ACK_WAIT
    await empty(queue)
    await staying.stop()


# --- debts


async def test_debts_whose_items_were_lost_are_queued_anew_and_those_that_are_known_are_not(
    alone: Client, store: Store
) -> None:
    records, queue = await Records.attach(alone), Queue(alone)
    await queue.keep()
    debts = Debts(records, store, queue, Unmetered())
    record = await void_job(alone, records)
    await debts.owe_again([record])
    await debts.owe_again([record])
    assert await queued(alone, queue) == {Item(DELETE, record.job)}
    await jetstream(alone).purge_stream(work_module.WORK)
    await queue.bury(Item(DELETE, record.job), "why", 1)
    await debts.owe_again([record])
    assert await queued(alone, queue) == set()


async def test_a_letter_about_a_debt_that_was_paid_since_is_removed(alone: Client, store: Store) -> None:
    records, queue = await Records.attach(alone), Queue(alone)
    await queue.keep()
    debts = Debts(records, store, queue, Unmetered())
    paid, owing = await void_job(alone, records), await void_job(alone, records)
    await records.change(paid.job, lambda r: r.paid(r))
    foreign = Item("another", paid.job)
    for item in (Item(DELETE, paid.job), Item(DELETE, owing.job), foreign):
        await queue.bury(item, "why", 1)
    await debts.owe_again([owing])
    assert await queue.dead() == {Item(DELETE, owing.job), foreign}


async def void_job(client: Client, records: Records):  # type: ignore[no-untyped-def]
    from transfer.broker.job import JobRecord
    from transfer.broker.keys import folder_of

    job, now = Ticket.new().job, time.time()
    record = JobRecord(
        job=job,
        owner="alice",
        token_hash="0" * 64,
        size=1,
        state=JobState.VOID,
        created=now,
        expires=now + 1000,
        expire=1000,
        folder=folder_of(job, records.realm, 1000),
    )
    assert await records.create(record)
    return record


# --- brokers


async def erased_soon(client: Client) -> None:
    job = Job(client)
    await job.create()
    await job.store(0)
    [signed] = await job.gets(0)
    await job.finish(JobState.VOID)
    assert await gone(signed.url)


async def test_work_goes_on_after_a_restart_of_nats_and_after_its_queue_was_deleted(
    place: Place, tmp_path: Path
) -> None:
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    here = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)
    with contextlib.ExitStack() as stop:
        with nats_server(tmp_path, port):
            broker = stop.enter_context(broker_process(here, tmp_path / "log", XFER_SWEEP_EVERY="1"))
            client = await connected(here)
            await answers(client)
            await erased_soon(client)
        stop.enter_context(nats_server(tmp_path, port))
        assert isinstance(await answers(client), api.BrokerInfo)
        await erased_soon(client)
        await jetstream(client).delete_stream(work_module.WORK)
        await erased_soon(client)
        await jetstream(client).delete_consumer(work_module.WORK, work_module.WORKERS)
        await erased_soon(client)
        assert broker.poll() is None
        await client.close()


async def test_what_the_store_refuses_for_good_is_seen_retried_and_dropped_by_admins_only(
    place: Place, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('admins = ["alice"]\n')
    with nats_server(tmp_path, free_port()) as url:
        here = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        away = f"http://127.0.0.1:{free_port()}"
        more = {"XFER_S3_ENDPOINT": away, "XFER_WORK_TRIES": "1", "XFER_RULES": str(rules)}
        with broker_process(here, tmp_path / "log", **more):
            client = await connected(here)
            await answers(client)
            job = Job(client)
            await job.create()
            await job.finish(JobState.VOID)
            [letter] = await letters(client, 1)
            assert (letter.kind, letter.job, letter.tries) == (DELETE, job.id, 1)
            assert "store" in letter.reason
            for request, verb in (
                (api.DeadList(), "dead_list"),
                (api.DeadRetry(), "dead_retry"),
                (api.DeadDrop(), "dead_drop"),
            ):
                refused = await ask(client, verb, request, api.Done, user="bob")
                assert code(refused) is ErrorCode.NOT_ALLOWED
            assert await ask(client, "dead_retry", api.DeadRetry(), api.DeadSettled) == api.DeadSettled(
                [job.id]
            )
            [again] = await letters(client, 1)
            assert again.time >= letter.time
            dropped = await ask(client, "dead_drop", api.DeadDrop(job=job.id), api.DeadSettled)
            assert dropped == api.DeadSettled([job.id])
            assert await ask(
                client, "dead_drop", api.DeadDrop(job=job.id), api.DeadSettled
            ) == api.DeadSettled([])
            assert await letters(client, 0) == []
            record = await (await Records.attach(client)).read(job.id)
            assert record is not None
            assert not record.in_debt
            await client.close()


async def letters(client: Client, count: int) -> list[api.DeadLetter]:
    async with asyncio.timeout(SOON):
        while True:
            found = await answered(client, "dead_list", api.DeadList(), api.DeadLetters)
            if len(found.letters) == count:
                return list(found.letters)
            await asyncio.sleep(0.1)


def test_dead_letters_on_the_command_line(servers: Servers, xfer: Run) -> None:
    one, other = sorted(Ticket.new().job for _ in range(2))
    jobs = [one, other, other[:-1] + ("q" if other[-1] != "q" else "p")]
    another = "another"  # a kind that no sweep takes for paid

    async def work(do: Callable[[Queue, JetStreamContext], Awaitable[None]]) -> None:
        client = await bus.connect(
            servers.nats_url, servers.dir / "credentials" / "broker.nk", "broker", "test"
        )
        await do(Queue(client), jetstream(client))
        await client.close()

    async def bury(queue: Queue, _jetstream: JetStreamContext) -> None:
        await queue.keep()
        for job in jobs:
            await queue.bury(Item(another, job), "the store refuses the broker (AccessDenied)", 16)

    async def clear(_queue: Queue, jetstream: JetStreamContext) -> None:
        await jetstream.purge_stream(work_module.WORK, subject=f"xfer.work.{another}.>")

    def dead(*args: str) -> tuple[int, str, str]:
        ended = xfer("dead", *args, env=servers.env)
        return ended.returncode, ended.stdout, ended.stderr

    assert dead("drop", "--all")[0] == 0
    assert dead("ls") == (0, "", "")
    asyncio.run(work(bury))
    listed = json.loads(dead("ls", "--json")[1])
    ours = [row for row in listed["letters"] if row["job"] in jobs]
    assert sorted(row["job"] for row in ours) == sorted(jobs)
    assert {row["tries"] for row in ours} == {16}
    shown = dead("ls")[1]
    assert shown.splitlines()[0].split() == ["JOB", "KIND", "GIVEN", "UP", "TRIES", "REASON"]
    assert f"{one}  another  " in shown
    assert "16  the store refuses the broker (AccessDenied)" in shown
    code, _, said = dead("drop", other[:-1])
    assert (code, other in said, jobs[2] in said) == (2, True, True)
    assert "write a longer part of the one you mean" in said
    begins = next(one[:length] for length in range(1, 16) if one[:length] != other[:length])
    assert at_a_terminal("dead", "retry", begins, env=servers.env) == (0, "retried 1\n")
    asyncio.run(work(clear))
    assert json.loads(dead("drop", other, "--json")[1]) == {"dropped": [other]}
    assert dead("drop", "--all")[0] == 0
    assert json.loads(dead("ls", "--json")[1]) == {"letters": [], "more": 0}
    for missing in (other, other[:5], ""):
        code, _, said = dead("retry", missing)
        assert (code, f"there is no dead letter of job {missing!r}" in said) == (4, True)
    assert dead("retry")[0] == 2


def test_whoever_is_no_admin_gets_7(place: Place, broker: Path, xfer: Run, tmp_path: Path) -> None:
    env = {**place.env, "XFER_HOME": str(tmp_path / "home"), "XFER_USER": "eve"}
    ended = xfer("dead", "ls", env=env)
    assert ended.returncode == 7
    assert "only admins" in ended.stderr
