"""A batch's state: durable, private, read in pages, one run's at a time."""

from __future__ import annotations

import asyncio
import stat
from contextlib import closing
from pathlib import Path

import pytest
from spools import Spool, outcomes

from transfer.batch.alone import alone
from transfer.batch.state import State
from transfer.errors import Locked, XferError
from transfer.lock import FileLock

# the state's file


def test_the_state_survives_the_end_of_the_machine_and_is_ours_alone(spool: Spool) -> None:
    with closing(spool.state()) as state:
        assert state._query("PRAGMA synchronous", ()) == [(2,)]  # FULL
        assert state._query("PRAGMA journal_mode", ()) == [("wal",)]
        assert stat.S_IMODE(spool.db.stat().st_mode) == 0o600


def test_a_state_of_a_newer_xfer_is_refused(spool: Spool) -> None:
    with closing(spool.state()) as state:
        state._db.execute("PRAGMA user_version = 99")
    with pytest.raises(XferError, match=r"record of batches .* was written by a newer xfer"):
        spool.state()


def test_a_secret_is_kept_no_longer_than_it_is_needed(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run()
    with closing(spool.state()) as state:
        (ticket,) = state.owed()
    spool.room.receive()
    spool.run()
    with closing(spool.state()) as state:
        assert list(state.owed()) == []
        assert ticket.secret not in b"".join(
            value
            for row in state._query("SELECT * FROM files", ())
            for value in row
            if isinstance(value, bytes)
        )
        assert state._query("SELECT count(*) FROM orders", ()) == [(0,)]


def test_questions_are_answered_a_page_at_a_time_however_the_state_changes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer.batch.state._PAGE", 2)
    for number in range(5):
        spool.write(str(number), "x")
    spool.run()
    spool.room.receive()
    assert set(outcomes(spool.run(removal="delete")).values()) == {"deleted"}
    assert list(spool.root.iterdir()) == []


def test_a_run_that_finds_nothing_to_do_commits_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        spool.write(str(number), "x")
    spool.run()
    spool.room.receive()
    spool.run()
    commits: list[object] = []
    real = State._transaction
    monkeypatch.setattr(State, "_transaction", lambda self: (commits.append(self), real(self))[1])
    assert set(outcomes(spool.run()).values()) == {"unchanged"}
    assert len(commits) == 1  # which finds or makes the scope


# the lock


async def test_an_overlapping_run_is_locked_out_or_waits(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "batch"
    with FileLock(path, "x"):
        with pytest.raises(Locked, match="another run sends this folder") as caught:
            async with alone(path, "sends this folder", wait=False):
                raise AssertionError
        assert caught.value.exit_code == 11
    held = FileLock(path, "x")
    entered = asyncio.Event()

    told: list[str] = []

    async def wait() -> None:
        async with alone(path, "sends this folder", wait=True, on_wait=told.append):
            entered.set()

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    assert (entered.is_set(), told) == (False, ["another run sends this folder; waiting for its end"])
    held.close()
    await waiting
    assert entered.is_set()
