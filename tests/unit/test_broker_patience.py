"""How a broker waits for what is not there yet."""

from __future__ import annotations

import logging

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from transfer import api, bus
from transfer.broker import __main__ as process
from transfer.broker_client import BrokerClient, Conflict, Patience
from transfer.errors import BrokerAbsent, BusUnreachable, NotAllowed, StoreUnreachable


class Attempts:
    """Fails with each of these in turn, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    async def __call__(self) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return "there"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_RETRY", 0.0)


async def test_each_reason_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    down, refusing = BusUnreachable("cannot reach nats://u:hush@h:1"), StoreUnreachable("refused")
    assert await process._patiently("it", Attempts(down, down, down, refusing)) == "there"
    assert [r.getMessage() for r in caplog.records] == [
        "waiting for it: cannot reach nats://h:1",
        "waiting for it: refused",
    ]


async def test_what_waiting_cannot_mend_ends_it() -> None:
    with pytest.raises(NotAllowed):
        await process._patiently("it", Attempts(NotAllowed("no")))


def answered(error: api.ApiError) -> Msg:
    message = Msg(Client(), data=msgspec.json.encode(error))
    message.headers = {"Nats-Service-Error-Code": error.code.value}
    return message


async def test_a_call_that_begins_a_transfer_rides_out_an_election_but_not_a_missing_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = answered(api.ApiError(api.ErrorCode.BUSY, "the records are being elected"))
    created = Msg(Client(), data=msgspec.json.encode(api.Created("j", 1.0)))
    monkeypatch.setattr("transfer.broker_client.asking.FIRST_CONTACT", 0.1)
    answers: list[Msg | Exception] = [*[busy] * 5, created]

    async def request(*_args: object) -> Msg:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(bus, "request", request)
    broker = BrokerClient(Client(), "ann", Patience(60))
    asked = api.Create(job="j", token_hash="0" * 64, size=1, expire=1.0)
    assert await broker.create(asked) == api.Created("j", 1.0)
    answers += [BrokerAbsent("nobody")] * 100
    with pytest.raises(BrokerAbsent, match="nobody"):
        await broker.create(asked)
    assert len(answers) > 90


def test_a_job_that_another_run_changed_is_locked() -> None:
    assert Conflict("that job is void already").exit_code == 11
