"""Quotas on real brokers: never over-committed, given back to the byte, changed while brokers run."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

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
    nats_server,
)
from nats.aio.client import Client

from transfer import api
from transfer.api import ErrorCode, JobState
from transfer.broker.job import AGAIN
from transfer.broker.rules import LOOK_EVERY

MB, GB = 10**6, 10**9
MIB5 = 5 << 20


@dataclass(frozen=True)
class Field:
    """Two brokers on a bus of their own. rules: their file."""

    place: Place
    rules: Path

    async def rule(self, text: str) -> None:
        """Wait until both have read it: each answers the limit of this moment's own user."""
        mark = secrets.token_hex(4)
        self.rules.write_text(
            f'admins = ["ann"]\n{text}\n[quota.users.{mark}]\nbytes_per_day = 5\n'.replace(
                "\n\n[quota.users", "\n[quota.users"
            )
        )
        client = await connected(self.place)
        try:
            async with asyncio.timeout(60):
                seen = 0
                while seen < 12:  # a queue group draws the broker by lot
                    seen = seen + 1 if (await usage(client, mark)).day.limit == 5 else 0
                    await asyncio.sleep(0.02)
        finally:
            await client.close()
        await asyncio.sleep(LOOK_EVERY + 0.2)  # whoever was not drawn has looked by then


async def usage(client: Client, user: str) -> api.UserUsage:
    report = await ask(client, "usage", api.Usage(), api.UsageReport, user)
    assert isinstance(report, api.UsageReport), report
    return report.users[0]


async def settles(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await look():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def stores(client: Client, user: str, count: int) -> None:
    """Wait until so many bytes of that user are counted as stored: what is not used is given back by the work queue."""

    async def look() -> bool:
        return (await usage(client, user)).stored.used == count

    await settles(look)


@contextmanager
def two_brokers(place: Place, folder: Path, **more: str) -> Iterator[Field]:
    with ExitStack() as stack:
        url = stack.enter_context(nats_server(folder, free_port()))
        rules = folder / "rules.toml"
        rules.write_text("")
        own = replace(place, nats_url=url, env={**place.env, "NATS_URL": url, "XFER_RULES": str(rules)})
        for number in range(2):
            stack.enter_context(
                broker_process(own, folder / f"broker{number}.log", XFER_SWEEP_EVERY="1", **more)
            )
        yield Field(own, rules)


@pytest.fixture(scope="module")
def field(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with two_brokers(place, tmp_path_factory.mktemp("quotas")) as field:
        yield field


@pytest.fixture
async def client(field: Field) -> AsyncIterator[Client]:
    client = await connected(field.place)
    await answers(client)
    yield client
    await client.close()


def a_user() -> str:
    return f"u{secrets.token_hex(4)}"


# --- never over-committed


async def test_fifty_clients_racing_for_a_users_last_gigabyte_get_exactly_one(
    field: Field, client: Client
) -> None:
    user = a_user()
    await field.rule(f'[quota.users.{user}]\nbytes_per_day = "3GB"')
    assert isinstance(await Job(client, user).create(size=2 * GB), api.Created)
    clients = [await connected(field.place) for _ in range(50)]
    try:
        got = await asyncio.gather(*(Job(c, user).create(size=70 * MB) for c in clients))
        got += await asyncio.gather(*(Job(c, user).create(size=1 * MB) for c in clients))
    finally:
        await asyncio.gather(*(c.close() for c in clients))
    sizes = [70 * MB] * 50 + [1 * MB] * 50
    granted = sum(size for size, answer in zip(sizes, got, strict=True) if isinstance(answer, api.Created))
    assert granted == GB
    assert {code(answer) for answer in got if code(answer)} == {ErrorCode.OVER_QUOTA}
    assert (await usage(client, user)).day.used == 3 * GB


async def test_fifty_users_racing_for_the_last_gigabyte_of_all_get_exactly_one(
    field: Field, client: Client
) -> None:
    users = [a_user() for _ in range(50)]
    report = await ask(client, "usage", api.Usage(all=True), api.UsageReport, "ann")
    used = report.total.day.used if isinstance(report, api.UsageReport) and report.total else 0
    await field.rule(f"[quota.total]\nbytes_per_day = {used + 2 * GB}")
    assert isinstance(await Job(client, a_user()).create(size=GB), api.Created)
    granted = await granted_to(client, users, 70 * MB)
    granted += await granted_to(client, users, MB)
    assert granted == GB
    refused = await Job(client, users[0]).create(size=1)
    assert code(refused) is ErrorCode.OVER_QUOTA
    assert isinstance(refused, api.ApiError)
    assert "over quota of all users together" in refused.message
    await field.rule("")


async def granted_to(client: Client, users: list[str], size: int) -> int:
    """Bytes that they get, each asking again while it is told to."""

    async def one(user: str) -> int:
        async with asyncio.timeout(90):
            while True:
                answer = await Job(client, user).create(size=size)
                if isinstance(answer, api.Created):
                    return size
                assert code(answer) in (ErrorCode.OVER_QUOTA, ErrorCode.BUSY), answer
                if code(answer) is ErrorCode.OVER_QUOTA:
                    return 0
                await asyncio.sleep(answer.retry_after or 1.0)

    return sum(await asyncio.gather(*map(one, users)))


# --- counted and given back


async def test_a_void_job_gives_back_all_it_reserved(client: Client) -> None:
    user = a_user()
    job = Job(client, user)
    assert isinstance(await job.create(size=GB), api.Created)
    before = await usage(client, user)
    assert (before.day.used, before.stored.used, before.jobs.used) == (GB, GB, 1)
    finished = api.Finish(job=job.id, outcome=JobState.VOID)
    assert isinstance(await ask(client, "finish", finished, api.Finished, user), api.Finished)
    await stores(client, user, 0)
    after = await usage(client, user)
    assert (after.day.used, after.month.used, after.stored.used, after.jobs.used) == (0, 0, 0, 0)


async def test_a_stored_job_counts_what_is_stored_until_its_objects_go(field: Field) -> None:
    alice = await connected(field.place)
    try:
        await answers(alice)
        before = await usage(alice, "alice")
        job = Job(alice)
        assert isinstance(await job.create(size=GB, expire=15.0), api.Created)
        await job.store(0, data=b"x" * 1000)
        assert (await usage(alice, "alice")).stored.used == before.stored.used + GB
        assert isinstance(await job.finish(JobState.STORED, 1), api.Finished)
        await stores(alice, "alice", before.stored.used + 1000)
        stored = await usage(alice, "alice")
        assert stored.day.used == before.day.used + 1000
        assert stored.jobs.used == before.jobs.used

        async def gone() -> bool:
            return (await usage(alice, "alice")).stored.used == before.stored.used

        await settles(gone)
        assert (await usage(alice, "alice")).day.used == before.day.used + 1000
    finally:
        await alice.close()


async def test_a_delivered_job_that_never_stored_anything_counts_nothing(client: Client) -> None:
    before = await usage(client, "alice")
    job = Job(client)
    await job.create(size=GB)
    assert isinstance(await job.finish(JobState.DELIVERED), api.Finished)
    await stores(client, "alice", before.stored.used)
    after = await usage(client, "alice")
    assert (after.day.used, after.stored.used, after.jobs.used) == (
        before.day.used,
        before.stored.used,
        before.jobs.used,
    )


async def test_an_unknown_length_is_reserved_as_its_parts_are_signed(field: Field, client: Client) -> None:
    used = (await usage(client, "alice")).stored.used
    await field.rule(f"[quota.users.alice]\nstored_bytes = {used + 2 * MIB5 + 1000}")
    job = Job(client)
    assert isinstance(await job.create(size=None), api.Created)
    upload = await job.begin()
    assert isinstance(await job.sign(upload, b"a" * MIB5), list)
    assert (await usage(client, "alice")).stored.used >= used + MIB5
    assert isinstance(await job.sign(upload, b"a" * MIB5, b"b" * MIB5), list)
    assert isinstance(await job.sign(upload, b"a" * MIB5, b"b" * MIB5, b"c" * 1000), list)
    assert (await usage(client, "alice")).stored.used == used + 2 * MIB5 + 1000
    assert isinstance(await job.sign(upload, b"a" * MIB5), list)  # signed again, counted once
    refused = await job.sign(upload, b"a" * MIB5, b"b" * MIB5, b"c" * 1001)
    assert code(refused) is ErrorCode.OVER_QUOTA
    parts = await job.put(upload, b"a" * MIB5)
    assert isinstance(await job.complete(upload, parts), api.Completed)
    assert isinstance(await job.finish(JobState.STORED, 1), api.Finished)
    await stores(client, "alice", used + MIB5)
    await field.rule("")


async def test_parts_that_are_signed_again_for_ever_are_refused_at_last(field: Field, client: Client) -> None:
    used = (await usage(client, "alice")).stored.used
    job = Job(client)
    assert isinstance(await job.create(size=MIB5), api.Created)
    upload, rounds = await job.begin(), 0
    while isinstance(answer := await job.sign(upload, b"a" * MIB5), list):
        rounds += 1
        assert rounds <= AGAIN
    assert code(answer) is ErrorCode.OVER_QUOTA
    assert rounds == AGAIN
    assert isinstance(await job.finish(JobState.VOID), api.Finished)
    await stores(client, "alice", used)


async def test_parts_signed_at_once_by_two_brokers_are_all_reserved(field: Field, client: Client) -> None:
    used = (await usage(client, "alice")).stored.used
    await field.rule(f"[quota.users.alice]\nstored_bytes = {used + 5 * MIB5}")
    job = Job(client)
    await job.create(size=None)
    upload = await job.begin()

    async def sign(number: int) -> object:
        part = api.PartToSign(number, MIB5, "AAAAAA==")
        request = api.SignParts(job=job.id, segment=0, upload=upload, parts=[part])
        while code(answer := await ask(client, "sign_parts", request, api.SignedUrls)) is ErrorCode.BUSY:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        return answer

    answers_ = await asyncio.gather(*(sign(number) for number in range(1, 13)))
    assert sum(isinstance(answer, api.SignedUrls) for answer in answers_) == 5
    assert (await usage(client, "alice")).stored.used == used + 5 * MIB5
    assert isinstance(await job.finish(JobState.VOID), api.Finished)
    await stores(client, "alice", used)
    await field.rule("")


async def test_more_than_was_declared_is_reserved_before_it_is_signed(field: Field, client: Client) -> None:
    used = (await usage(client, "alice")).stored.used
    await field.rule(f"[quota.users.alice]\nstored_bytes = {used + MIB5}")
    job = Job(client)
    assert isinstance(await job.create(size=1000), api.Created)
    upload = await job.begin()
    assert code(await job.sign(upload, b"a" * MIB5, b"b" * MIB5)) is ErrorCode.OVER_QUOTA
    assert isinstance(await job.sign(upload, b"a" * MIB5), list)
    assert isinstance(await job.finish(JobState.VOID), api.Finished)
    await stores(client, "alice", used)
    await field.rule("")


async def test_creating_a_job_again_reserves_it_once_and_works_where_the_quota_is_used_up(
    field: Field, client: Client
) -> None:
    user = a_user()
    await field.rule(f'[quota.users.{user}]\nbytes_per_day = "1GB"')
    job = Job(client, user)
    first, *again = [await job.create(size=GB) for _ in range(3)]
    assert [first] * 2 == again
    both = await asyncio.gather(*(job.create(size=GB) for _ in range(8)))
    assert set(both) == {first}
    assert (await usage(client, user)).day.used == GB


# --- what is said


async def test_over_quota_says_what_is_used_what_is_left_and_when_it_resets(
    field: Field, client: Client
) -> None:
    user = a_user()
    await field.rule(f'[quota.users.{user}]\nbytes_per_day = "10GB"\nopen_jobs = 2')
    await Job(client, user).create(size=9_200 * MB)
    refused = await Job(client, user).create(size=2 * GB)
    assert isinstance(refused, api.ApiError)
    said = "over quota: 9.20 GB of 10.00 GB used today, 800.0 MB left, this needs 2.00 GB; it resets at 00:00 UTC (in "
    assert (refused.code, refused.message[: len(said)]) == (ErrorCode.OVER_QUOTA, said)
    await Job(client, user).create(size=1)
    refused = await Job(client, user).create(size=1)
    assert isinstance(refused, api.ApiError)
    assert refused.message == "over quota: 2 of 2 jobs are open; another can begin when one ends"


async def test_limits_change_while_brokers_run(field: Field, client: Client) -> None:
    user = a_user()
    await field.rule("[quota]\nbytes_per_day = 10")
    assert code(await Job(client, user).create(size=11)) is ErrorCode.OVER_QUOTA
    await field.rule(f'[quota]\nbytes_per_day = 10\n[quota.users.{user}]\nbytes_per_day = "unlimited"')
    assert isinstance(await Job(client, user).create(size=11), api.Created)
    await field.rule("")


async def test_who_asks_too_often_is_told_when_to_ask_again(field: Field, client: Client) -> None:
    user = a_user()
    await field.rule(f"[quota.users.{user}]\nrequests_per_minute = 30")
    got = [await ask(client, "usage", api.Usage(), api.UsageReport, user) for _ in range(90)]
    refused = [answer for answer in got if isinstance(answer, api.ApiError)]
    assert {answer.code for answer in refused} == {ErrorCode.BUSY}
    assert all(0 < (answer.retry_after or 0) <= 2 for answer in refused)
    assert 30 <= len(got) - len(refused) < 90  # each of the two brokers counts for itself


async def test_only_admins_see_what_others_use(field: Field, client: Client) -> None:
    user = a_user()
    await field.rule("")
    await Job(client, user).create(size=7)
    assert code(await ask(client, "usage", api.Usage(user=user), api.UsageReport)) is ErrorCode.NOT_ALLOWED
    assert code(await ask(client, "usage", api.Usage(all=True), api.UsageReport)) is ErrorCode.NOT_ALLOWED
    one = await answered(client, "usage", api.Usage(user=user), api.UsageReport, "ann")
    assert (one.users[0].user, one.users[0].day.used) == (user, 7)
    everybody = await answered(client, "usage", api.Usage(all=True), api.UsageReport, "ann")
    assert user in [each.user for each in everybody.users]
    assert everybody.total is not None
    assert everybody.total.day.used >= 7
