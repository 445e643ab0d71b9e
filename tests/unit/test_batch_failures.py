"""A batch in which files fail, time ends or the run is interrupted."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from spools import FakeSender, Spool, outcomes

from transfer.batch.run import Asked, Pause
from transfer.batch.selection import Item, Rules, from_folder
from transfer.batch.state import Order
from transfer.errors import BusUnreachable, OutOfTime, OverQuota, PartialSource, PeerLost, RoomGone, XferError

# what fails


def test_a_file_that_fails_costs_only_itself_and_is_tried_again(spool: Spool) -> None:
    for name in ("a", "bad", "c"):
        spool.write(name, name)

    def trouble(order: Order) -> XferError | None:
        return PeerLost("lost") if order.files[0].name == b"bad" else None

    with pytest.raises(PartialSource) as caught:
        spool.run(FakeSender(spool.room, trouble=trouble))
    assert caught.value.exit_code == 3
    assert "1 of 3 files failed: bad (lost)" in caught.value.what
    assert outcomes(spool.told()) == {"a": "sent", "bad": "failed", "c": "sent"}
    assert spool.told()["bad"]["reason"] == "lost"
    with closing(spool.state()) as state:
        failure = state.failure(b"bad")
        assert failure is not None
        assert (failure.times, failure.reason) == (1, "lost")
    sender = FakeSender(spool.room)
    assert outcomes(spool.run(sender)) == {"a": "unchanged", "bad": "sent", "c": "unchanged"}
    assert ("again", sender.asked[0][1]) == sender.asked[0]
    with closing(spool.state()) as state:
        assert state.failure(b"bad") is None


def test_a_file_that_failed_and_is_gone_leaves_nothing_behind(spool: Spool) -> None:
    """Else the record would grow with every name that ever failed."""
    spool.write("bad", "1")
    spool.write("other", "1")
    with pytest.raises(PartialSource):
        spool.run(FakeSender(spool.room, trouble=lambda _order: PeerLost("lost")))
    (spool.root / "bad").unlink()
    with pytest.raises(PartialSource):
        spool.run(FakeSender(spool.room, trouble=lambda _order: PeerLost("lost")))
    with closing(spool.state()) as state:
        assert state.failing() == [b"other"]


def test_retry_failed_leaves_what_is_new_for_another_run(spool: Spool) -> None:
    spool.write("bad", "1")
    with pytest.raises(PartialSource):
        spool.run(FakeSender(spool.room, trouble=lambda _order: PeerLost("lost")))
    spool.write("bad", "2")  # so that it is not attached to, but sent anew
    spool.write("new", "new")
    assert outcomes(spool.run(only_failed=True)) == {"bad": "sent"}
    assert spool.room.arrived == [("bad", b"2")]


def test_what_cannot_be_read_is_in_the_list_and_the_rest_goes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.write("a", "a")
    spool.write("secret", "s")
    real = os.open

    def forbidden(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("/secret"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **more)

    monkeypatch.setattr("transfer.batch.examine.os.open", forbidden)
    with pytest.raises(PartialSource):
        spool.run()
    assert "permission denied" in spool.told()["secret"]["reason"]
    assert spool.room.arrived == [("a", b"a")]


@pytest.mark.parametrize("error", [BusUnreachable("no bus"), OverQuota("too much"), RoomGone("gone")])
def test_a_trouble_that_all_have_ends_the_run_and_loses_nothing(spool: Spool, error: XferError) -> None:
    for number in range(9):
        spool.write(str(number), "x")
    with pytest.raises(type(error)):
        spool.run(
            FakeSender(spool.room, trouble=lambda order: error if order.files[0].name == b"3" else None)
        )
    assert json.loads(spool.report.read_bytes())["outcome"] == "failed"
    assert "8" not in spool.told()
    spool.run()
    assert sorted(spool.room.arrived) == [(str(number), b"x") for number in range(9)]


def test_the_end_of_the_time_is_a_checkpoint_with_a_report(spool: Spool) -> None:
    for name in ("fast", "slow", "third"):
        spool.write(name, name)

    class Slow(FakeSender):
        async def send(self, order: Order) -> None:
            if order.files[0].name == b"slow":
                await asyncio.Event().wait()
            await super().send(order)

    with pytest.raises(OutOfTime, match=r"files: the store is away$") as caught:
        spool.run(Slow(spool.room), waits=lambda: "the store is away", concurrency=1, max_duration=0.5)
    assert caught.value.exit_code == 10
    assert json.loads(spool.report.read_bytes())["outcome"] == "late"
    assert "third" not in spool.told()
    sender = FakeSender(spool.room)
    spool.run(sender)
    assert sender.asked[0][0] == "again"
    assert sorted(spool.room.arrived) == [(name, name.encode()) for name in ("fast", "slow", "third")]


def test_an_interrupted_run_leaves_its_report(spool: Spool) -> None:
    spool.write("a", "a")
    spool.write("b", "b")

    class Stuck(FakeSender):
        async def send(self, order: Order) -> None:
            if order.files[0].name == b"b":
                stuck.set()
                await asyncio.Event().wait()
            await super().send(order)

    async def interrupted() -> None:
        task = asyncio.ensure_future(
            spool._run(Stuck(spool.room), lambda _pause: from_folder(spool.root, Rules()), Asked())
        )
        await stuck.wait()
        task.cancel()
        await task

    stuck = asyncio.Event()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    assert json.loads(spool.report.read_bytes())["outcome"] == "interrupted"
    assert outcomes(spool.told()) == {"a": "sent"}


def test_one_file_of_a_pack_that_changes_at_the_last_moment_stays_back(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "log", "z"):
        spool.write(name, name)

    def items(_pause: Pause) -> Iterator[Item]:
        yield from from_folder(spool.root, Rules())
        spool.write("log", "more")

    assert outcomes(spool.run(items=items, pack=True)) == {"a": "sent", "log": "left", "z": "sent"}
    assert spool.run(pack=True)["log"]["outcome"] == "sent"
