"""How a broker waits for what is not there yet."""

from __future__ import annotations

import logging

import pytest

from transfer.broker import __main__ as process
from transfer.broker_client import Conflict
from transfer.errors import BusUnreachable, NotAllowed, StoreUnreachable


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


def test_a_job_that_another_run_changed_is_locked() -> None:
    assert Conflict("that job is void already").exit_code == 11
