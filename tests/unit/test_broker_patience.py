"""How a broker waits for what is not there yet."""

from __future__ import annotations

import contextlib
import logging

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from transfer import api, bus
from transfer.broker import __main__ as process
from transfer.broker_client import BrokerClient, Conflict, Link, Patience, connected
from transfer.config import Context
from transfer.errors import BrokerAbsent, BusUnreachable, NotAllowed, StoreUnreachable, XferError


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


class Bus:
    """Answers requests with each of these in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[Msg | Exception] = []
        monkeypatch.setattr(bus, "request", self)
        monkeypatch.setattr("transfer.broker_client.asking.FIRST_CONTACT", 0.1)

    async def __call__(self, *_args: object) -> Msg:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


ASKED = api.Create(job="j", token_hash="0" * 64, size=1, expire=1.0)
CREATED = Msg(Client(), data=msgspec.json.encode(api.Created("j", 1.0)))


async def test_a_call_that_begins_a_transfer_rides_out_an_election_but_not_a_missing_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = answered(api.ApiError(api.ErrorCode.BUSY, "the records are being elected"))
    replies = Bus(monkeypatch)
    replies.answers = [*[busy] * 5, CREATED]
    broker = BrokerClient(Client(), "ann", Patience(60))
    assert await broker.create(ASKED) == api.Created("j", 1.0)
    replies.answers = [BrokerAbsent("nobody")] * 100
    with pytest.raises(BrokerAbsent, match="nobody"):
        await broker.create(ASKED)
    assert len(replies.answers) > 90


@pytest.mark.parametrize("kind", [BrokerAbsent, BusUnreachable, StoreUnreachable])
async def test_it_rides_out_every_outage_where_the_caller_said_how_long_or_was_answered_before(
    kind: type[XferError], monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = Bus(monkeypatch)
    told: list[str] = []
    asked = BrokerClient(Client(), "ann", Patience.asked(60.0, lambda what, _left, _on: told.append(what)))
    where = Context(name="c", nats_url="nats://nowhere:1", user="ann")
    never = Patience.asked(None, lambda *_: None)
    async with connected(where, "test", never, over=Link(Client(), asked)) as on_from_there:
        for broker in (asked, on_from_there.broker):
            replies.answers = [*[kind("away")] * 4, CREATED]
            assert await broker.create(ASKED) == api.Created("j", 1.0)
    assert "away" in told


async def test_a_first_connection_is_tried_again_only_where_the_caller_said_how_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where, client = Context(name="c", nats_url="nats://nowhere:1", user="ann"), Client()
    tries: list[Exception] = []

    async def connect(*_: object, **__: object) -> Client:
        if not tries:
            return client
        raise tries.pop()

    monkeypatch.setattr(bus, "connect", connect)
    for seconds, left in ((None, 2), (0.0, 2), (60.0, 0)):
        tries = [BusUnreachable("refused") for _ in range(3)]
        with pytest.raises(BusUnreachable) if left else contextlib.nullcontext():
            async with connected(where, "test", Patience.asked(seconds, lambda *_: None)) as link:
                assert link.client is client
        assert len(tries) == left


def test_a_job_that_another_run_changed_is_locked() -> None:
    assert Conflict("that job is void already").exit_code == 11
