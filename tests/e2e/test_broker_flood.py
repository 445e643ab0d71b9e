"""One user floods the broker, or its records are stuck, over a real bus: the others get their answers, and each an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from brokers import Place, ask, code, connected, free_port, nats_server
from nats.aio.client import Client

from transfer import api
from transfer.api import ErrorCode
from transfer.broker.service import OF_ONE, WAITING, Service

FLOOD = OF_ONE + WAITING + 200


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    with nats_server(tmp_path, free_port()) as url:
        made = await connected(Place(url, "", {}, tmp_path))
        yield made
        await made.close()


async def test_a_user_who_floods_the_broker_keeps_no_other_waiting(client: Client) -> None:
    """Nothing of the flood is answered before all of the others are: they would wait for ever else."""
    calm = asyncio.Event()
    under_way = most = 0

    async def slow(user: str, _body: bytes) -> msgspec.Struct:
        nonlocal under_way, most
        if user == "flood":
            under_way += 1
            most = max(most, under_way)
            await calm.wait()
            under_way -= 1
        return api.Done(api.JobState.OPEN)

    async def asks(user: str) -> object:
        return await ask(client, "slow", api.Info(), api.Done, user)

    service = Service(client, {"slow": slow}, version="1.0.0")
    await service.start()
    flood = [asyncio.create_task(asks("flood")) for _ in range(FLOOD)]
    refused = [task async for task in ended(flood, FLOOD - OF_ONE - WAITING)]
    assert {code(task.result()) for task in refused} == {ErrorCode.BUSY}
    for _ in range(3):
        answers = await asyncio.gather(*(asks(f"calm{n}") for n in range(30)))
        assert all(isinstance(answer, api.Done) for answer in answers)
    calm.set()
    answers = await asyncio.gather(
        *flood, return_exceptions=True
    )  # on a slow machine some waited for too long
    assert any(isinstance(answer, api.Done) for answer in answers)
    assert most == OF_ONE
    await service.drain()


async def test_records_that_are_stuck_are_busy_and_no_fault_of_the_store(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a cluster elects: whoever asks again in a while is answered."""
    monkeypatch.setattr("transfer.broker.service.ANSWER_WITHIN", 0.2)

    async def stuck(_user: str, _body: bytes) -> msgspec.Struct:
        await asyncio.Event().wait()
        raise AssertionError("it never ends")

    service = Service(client, {"stuck": stuck}, version="1.0.0")
    await service.start()
    refused = await ask(client, "stuck", api.Info(), api.Done, "ann")
    assert isinstance(refused, api.ApiError)
    assert (refused.code, refused.retry_after) == (ErrorCode.BUSY, 2.0)
    await service.drain()


async def ended(tasks: list[asyncio.Task[object]], count: int) -> AsyncIterator[asyncio.Task[object]]:
    """The first so many that end."""
    left = set(tasks)
    while count > 0:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            yield task
        count -= len(done)
