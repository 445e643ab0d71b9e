"""Runs of a batch against a room that only remembers: each version of a file arrives once, whatever happens in between."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from transfer.batch.alone import alone
from transfer.batch.examine import examine
from transfer.batch.plan import planned, whole
from transfer.batch.report import Report, cells
from transfer.batch.run import Asked, Pause, run
from transfer.batch.selection import Item, Rules, from_folder, from_list
from transfer.batch.state import Order, OrderFile, State
from transfer.errors import (
    BusUnreachable,
    DiskFull,
    JobGone,
    Locked,
    OutOfTime,
    OverQuota,
    PartialSource,
    PeerLost,
    RoomGone,
    SourceChanged,
    UsageError,
    XferError,
)
from transfer.folder import Folder
from transfer.lock import FileLock
from transfer.source import Facts, facts_of
from transfer.ticket import Ticket


class Killed(BaseException):
    """The process dies here."""


class Room:
    """The servers: they outlive every run. posted: (name, content) in the order of arrival."""

    def __init__(self) -> None:
        self.stored: dict[str, list[tuple[str, bytes]]] = {}
        self.posted: dict[str, list[tuple[str, bytes]]] = {}
        self.void: set[str] = set()
        self.receipts: dict[str, float] = {}
        self.gone: set[str] = set()

    @property
    def arrived(self) -> list[tuple[str, bytes]]:
        return [each for files in self.posted.values() for each in files]

    def of(self, name: str) -> list[bytes]:
        return [content for each, content in self.arrived if each == name]

    def receive(self) -> None:
        self.receipts |= {job: 1000.0 + number for number, job in enumerate(self.posted)}


class FakeSender:
    """step: called at every point between two effects; it may kill. trouble: of an order, before anything is done."""

    def __init__(
        self,
        room: Room,
        step: Callable[[], None] = lambda: None,
        trouble: Callable[[Order], XferError | None] = lambda _order: None,
    ) -> None:
        self.room, self.step, self.trouble = room, step, trouble
        self.asked: list[tuple[str, str]] = []

    async def send(self, order: Order) -> None:
        job = order.ticket.job
        self.asked.append(("again" if order.again else "send", job))
        await asyncio.sleep(0)
        if error := self.trouble(order):
            raise error
        self.step()
        if job in self.room.void:
            raise JobGone("it is void")
        if job not in self.room.stored:
            self.room.stored[job] = [content_of(file) for file in order.files]
        self.step()
        self.room.posted[job] = self.room.stored[job]
        self.step()

    async def recover(self, order: Order) -> bool:
        job = order.ticket.job
        self.asked.append(("recover", job))
        self.step()
        if job in self.room.stored:
            self.room.posted[job] = self.room.stored[job]
            self.step()
            return True
        self.room.void.add(job)
        self.step()
        return False

    async def receipt(self, ticket: Ticket) -> float | None:
        self.asked.append(("receipt", ticket.job))
        if ticket.job in self.room.gone:
            raise JobGone("gone")
        return self.room.receipts.get(ticket.job)


def content_of(file: OrderFile) -> tuple[str, bytes]:
    """Raises SourceChanged if it is not the one that was ordered."""
    try:
        found = facts_of(os.lstat(file.path))
    except FileNotFoundError:
        found = None
    if found != file.facts:
        raise SourceChanged(f"{file.name!r} changed")
    return os.fsdecode(file.name), Path(file.path).read_bytes()


class Spool:
    """A folder, its state and its room."""

    def __init__(self, top: Path) -> None:
        self.root, self.db, self.report = top / "spool", top / "batch.db", top / "report.json"
        self.root.mkdir()
        self.room = Room()

    def write(self, name: str, content: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content)

    def state(self) -> State:
        return State(self.db, "room", os.path.realpath(self.root))

    def run(self, sender: FakeSender | None = None, **asked: Any) -> dict[str, dict[str, Any]]:
        """The report's lines by path. asked: also `rules` or `items`."""
        given = asked.pop("rules", Rules())
        items = asked.pop("items", lambda _pause: from_folder(self.root, given))
        asyncio.run(self._run(sender or FakeSender(self.room), items, Asked(**asked)))
        return self.told()

    def told(self) -> dict[str, dict[str, Any]]:
        return {line["path"]: line for line in json.loads(self.report.read_bytes())["files"]}

    async def _run(self, sender: FakeSender, items: Callable[[Pause], Iterator[Item]], asked: Asked) -> None:
        with closing(self.state()) as state, Report(self.report, "room", state.root) as report:
            await run(asked, state, items, sender, report)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def outcomes(lines: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {path: line["outcome"] for path, line in lines.items()}


# what is sent


def test_a_second_run_sends_only_what_is_new_or_changed_by_its_content(spool: Spool) -> None:
    for name in ("same", "touched", "changed", "sub/same"):
        spool.write(name, name)
    assert set(outcomes(spool.run()).values()) == {"sent"}
    os.utime(spool.root / "touched", (1, 1))
    spool.write("changed", "anew")
    spool.write("new", "new")
    lines = spool.run()
    assert outcomes(lines) == {
        "same": "unchanged",
        "touched": "unchanged",
        "sub/same": "unchanged",
        "changed": "sent",
        "new": "sent",
    }
    assert lines["touched"]["reason"] == "only touched"
    assert spool.room.of("changed") == [b"changed", b"anew"]
    assert len(spool.room.arrived) == 6
    assert spool.run()["touched"]["reason"] == ""  # it was noted


def test_a_report_names_size_digest_job_and_receipt(spool: Spool) -> None:
    spool.write("file", "12345")
    sent = spool.run()["file"]
    assert (sent["size"], len(sent["digest"]), sent["receipt"]) == (5, 64, None)
    spool.room.receive()
    later = spool.run()["file"]
    assert later == {**sent, "outcome": "unchanged", "receipt": 1000.0}


def test_each_file_is_a_job_and_only_so_many_run_at_once(spool: Spool) -> None:
    for number in range(20):
        spool.write(f"{number:02}", "x")
    third = asyncio.Event()

    class Held(FakeSender):
        under_way = most = 0

        async def send(self, order: Order) -> None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            if self.under_way == 3:
                third.set()
            await third.wait()
            await super().send(order)
            self.under_way -= 1

    sender = Held(spool.room)
    spool.run(sender, concurrency=3)
    assert len(spool.room.posted) == 20
    assert sender.most == 3


def test_a_pack_is_one_job_and_what_is_unchanged_is_not_in_it(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run(pack=True)
    spool.write("b", "b")
    spool.write("c", "c")
    lines = spool.run(pack=True)
    assert [sorted(files) for files in spool.room.posted.values()] == [
        [("a", b"a")],
        [("b", b"b"), ("c", b"c")],
    ]
    assert lines["b"]["job"] == lines["c"]["job"] != lines["a"]["job"]


def test_a_file_that_is_twice_in_a_list_is_sent_once(spool: Spool) -> None:
    spool.write("a", "a")
    (spool.root.parent / "list").write_bytes(b"a\na\n./a\n")
    for pack in (False, True):
        with (spool.root.parent / "list").open("rb") as names:
            spool.run(
                items=lambda _pause, names=names: from_list(names, b"\n", Rules(), str(spool.root)), pack=pack
            )
    assert spool.room.of("a") == [b"a"]


def test_rooms_and_roots_do_not_know_of_each_other(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run()
    key = b"a"
    for room, root in (("other", os.path.realpath(spool.root)), ("room", "/elsewhere")):
        with closing(State(spool.db, room, root)) as state:
            assert state.known(key) is None
    with closing(spool.state()) as state:
        assert state.known(key) is not None


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

    with pytest.raises(OutOfTime) as caught:
        spool.run(Slow(spool.room), concurrency=1, max_duration=0.5)
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


# crashes that are worth naming; the model below finds the others


def killed(room: Room, at: int) -> FakeSender:
    left = iter(range(at, -1, -1))

    def step() -> None:
        if next(left) == 0:
            raise Killed

    return FakeSender(room, step)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_rerun_attaches_to_the_order_of_a_killed_run(spool: Spool, at: int) -> None:
    spool.write("a", "a")
    with pytest.raises(Killed):
        spool.run(killed(spool.room, at))
    os.utime(spool.root / "a", (1, 1))
    sender = FakeSender(spool.room)
    assert outcomes(spool.run(sender)) == {"a": "sent"}
    assert [what for what, _ in sender.asked] == ["again", "receipt"]
    assert spool.room.arrived == [("a", b"a")]


@pytest.mark.parametrize(("at", "arrived"), [(0, [b"2"]), (1, [b"1", b"2"]), (2, [b"1", b"2"])])
def test_an_order_whose_file_changed_is_ended_as_far_as_it_came(
    spool: Spool, at: int, arrived: list[bytes]
) -> None:
    spool.write("a", "1")
    with pytest.raises(Killed):
        spool.run(killed(spool.room, at))
    spool.write("a", "2")
    spool.run()
    assert spool.room.of("a") == arrived
    assert outcomes(spool.run()) == {"a": "unchanged"}


def test_an_order_that_can_never_be_complete_is_made_anew(spool: Spool) -> None:
    spool.write("a", "a")
    with pytest.raises(Killed):
        spool.run(killed(spool.room, 0))
    with closing(spool.state()) as state:
        spool.room.void.update(order.ticket.job for order in state.unfinished())
    assert outcomes(spool.run()) == {"a": "sent"}
    assert spool.room.of("a") == [b"a"]


# receipts, and what follows them


@pytest.mark.parametrize("removal", ["delete", "move"])
def test_a_file_goes_after_its_receipt_and_not_before(spool: Spool, removal: Any) -> None:
    spool.write("sub/a", "a")
    to = str(spool.root.parent / "done")
    spool.run(removal=removal, to=to)
    assert outcomes(spool.run(removal=removal, to=to)) == {"sub/a": "unchanged"}
    spool.room.receive()
    line = spool.run(removal=removal, to=to)["sub/a"]
    assert (line["outcome"], line["receipt"]) == ({"delete": "deleted", "move": "moved"}[removal], 1000.0)
    assert not (spool.root / "sub" / "a").exists()
    assert Path(to, "sub", "a").exists() == (removal == "move")
    assert spool.run(removal=removal, to=to) == {}
    spool.write("sub/a", "a")  # the same content, put there anew
    assert outcomes(spool.run(removal=removal, to=to)) == {"sub/a": "sent"}


def test_a_file_that_changed_since_it_was_sent_stays_and_is_sent(spool: Spool) -> None:
    spool.write("a", "1")
    spool.run()
    spool.room.receive()
    spool.write("a", "2")
    assert outcomes(spool.run(removal="delete")) == {"a": "sent"}
    assert (spool.root / "a").read_text() == "2"


def test_a_touched_file_goes_as_well(spool: Spool) -> None:
    spool.write("a", "1")
    spool.run()
    os.utime(spool.root / "a", (1, 1))
    spool.room.receive()
    assert outcomes(spool.run(removal="delete")) == {"a": "deleted"}


def test_what_the_rules_exclude_now_is_not_removed(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    spool.run(removal="delete", wanted=lambda name: name != b"a")
    assert (spool.root / "a").exists()


def test_a_receipt_of_an_older_version_removes_nothing(spool: Spool) -> None:
    spool.write("a", "1")
    spool.run()
    spool.write("a", "2")
    spool.run()
    first, second = spool.room.posted
    spool.room.receipts[first] = 1.0
    sender = FakeSender(spool.room)
    assert outcomes(spool.run(sender, removal="delete")) == {"a": "unchanged"}
    assert ("receipt", first) not in sender.asked  # nobody needs it any more
    assert ("receipt", second) in sender.asked


def test_a_job_that_is_gone_without_a_receipt_is_told_once_and_sent_only_on_request(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run()
    spool.room.gone.update(spool.room.posted)
    with pytest.raises(PartialSource):
        spool.run(removal="delete")
    assert "before a receipt was seen" in spool.told()["a"]["reason"]
    assert outcomes(spool.run(removal="delete")) == {"a": "unchanged"}
    assert (spool.root / "a").exists()
    assert outcomes(spool.run(only_failed=True)) == {"a": "sent"}


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    with monkeypatch.context() as patched:
        patched.setattr(
            "transfer.folder.Folder.remove", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Denied"))
        )
        with pytest.raises(PartialSource, match="cannot be deleted: denied"):
            spool.run(removal="delete")
    spool.write("../other", "a")
    (spool.root.parent / "other").replace(spool.root / "a")  # it is as good as the one that was sent
    assert outcomes(spool.run(removal="delete")) == {"a": "deleted"}
    assert spool.room.of("a") == [b"a"]


def removing(spool: Spool) -> None:
    """A run died between noting that it removes `a` and doing it."""
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    with closing(spool.state()) as state:
        spool.run()
        state.removing(b"a")


def test_a_removal_that_was_begun_waits_for_a_run_that_removes(spool: Spool) -> None:
    removing(spool)
    assert outcomes(spool.run()) == {"a": "unchanged"}
    assert outcomes(spool.run(removal="delete")) == {"a": "deleted"}


@pytest.mark.parametrize("removal", ["", "delete"])
def test_a_file_that_came_in_the_place_of_one_being_removed_is_new(spool: Spool, removal: Any) -> None:
    removing(spool)
    spool.write("other", "a")
    (spool.root / "other").replace(spool.root / "a")
    assert outcomes(spool.run(removal=removal)) == {"a": "sent"}
    assert spool.room.of("a") == [b"a", b"a"]


def test_a_file_that_was_rewritten_while_it_was_being_removed_is_sent(spool: Spool) -> None:
    removing(spool)
    spool.write("a", "b")
    assert outcomes(spool.run()) == {"a": "sent"}


def dies_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Once."""
    real = getattr(owner, name)

    def die(*_args: object) -> None:
        monkeypatch.setattr(owner, name, real)
        raise Killed

    monkeypatch.setattr(owner, name, die)


@pytest.mark.parametrize("removal", ["delete", "move"])
def test_a_removal_that_nobody_noted_is_told_by_the_next_run(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, removal: Any
) -> None:
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    dies_at(monkeypatch, State, "removed")
    to = str(spool.root.parent / "done")
    with pytest.raises(Killed):
        spool.run(removal=removal, to=to)
    assert list(spool.root.iterdir()) == []
    line = spool.run(removal=removal, to=to)["a"]
    assert line["outcome"] == ("deleted" if removal == "delete" else "moved")
    assert line["to"] == (None if removal == "delete" else os.path.join(os.path.realpath(to), "a"))


def test_the_same_content_put_there_after_a_removal_that_nobody_noted_is_sent(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spool.root.parent / "next").write_text("a")  # now, so that it is another inode
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    dies_at(monkeypatch, State, "removed")
    with pytest.raises(Killed):
        spool.run(removal="delete")
    (spool.root.parent / "next").replace(spool.root / "a")
    assert outcomes(spool.run(removal="delete")) == {"a": "sent"}


def test_a_move_across_file_systems_that_was_cut_off_leaves_one_copy(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = Folder.move

    def move(self: Folder, name: str, to: Folder, new: str) -> None:
        if self.path != to.path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        near(self, name, to, new)

    monkeypatch.setattr(Folder, "move", move)
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    to = spool.root.parent / "done"
    dies_at(monkeypatch, Folder, "remove")
    with pytest.raises(Killed):
        spool.run(removal="move", to=str(to))
    assert (spool.root / "a").exists()
    assert outcomes(spool.run(removal="move", to=str(to))) == {"a": "moved"}
    assert [path.name for path in to.iterdir()] == ["a"]
    assert list(spool.root.iterdir()) == []


# what is only planned


def test_a_plan_says_what_the_run_then_does(spool: Spool) -> None:
    for name in ("gone", "same", "stays", "touched"):
        spool.write(name, name)
    spool.run()
    spool.room.receive()
    spool.run()
    for name in ("owed", "under way"):
        spool.write(name, name)
        with suppress(Killed):
            spool.run(killed(spool.room, 0) if name == "under way" else None)
    spool.write("stays", "changed since")
    os.utime(spool.root / "touched", (1, 1))
    spool.write("new", "new")
    (spool.root / "link").symlink_to("new")
    rules = Rules()

    def wanted(name: bytes) -> bool:
        return name not in (b"same", b"touched")

    with closing(spool.state()) as state:
        steps = list(whole(from_folder(spool.root, rules), state, examine, removal="delete", wanted=wanted))
        again = list(whole(from_folder(spool.root, rules), state, examine, removal="delete", wanted=wanted))
    assert [planned(step) for step in steps] == [planned(step) for step in again]
    said = {(step.what.value, step.name.decode()) for step in steps}
    assert said == {
        ("attach", "under way"),
        ("collect", "owed"),
        ("delete", "gone"),
        ("unchanged", "same"),
        ("unchanged", "touched"),
        ("unchanged", "owed"),
        ("send", "stays"),
        ("send", "new"),
        ("left", "link"),
    }
    done = outcomes(spool.run(removal="delete", wanted=wanted))
    becomes = {"attach": "sent", "send": "sent", "delete": "deleted"}
    assert done == {name: becomes.get(what, what) for what, name in said if what != "collect"}
    assert (spool.root / "gone").exists() is False


def test_a_plan_only_looks_as_it_is_asked_for_more(spool: Spool) -> None:
    spool.write("a", "a")
    spool.write("b", "b")
    looked: list[str] = []

    def look(path: str) -> tuple[Facts, bytes]:
        looked.append(os.path.basename(path))
        return examine(path)

    with closing(spool.state()) as state:
        steps = whole(from_folder(spool.root, Rules()), state, look)
        assert next(steps).name == b"a"
        assert looked == ["a"]


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

    async def wait() -> None:
        async with alone(path, "sends this folder", wait=True):
            entered.set()

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    assert not entered.is_set()
    held.close()
    await waiting
    assert entered.is_set()


# the report


def test_a_name_that_is_no_text_is_told_exactly(spool: Spool) -> None:
    try:
        (spool.root / os.fsdecode(b"a\xff")).write_text("x")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    (line,) = spool.run().values()
    assert (line["path"], line["path_base64"]) == ("a\\xff", "Yf8=")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("full", ["begun", "midway", "at the end"])
def test_a_report_that_finds_no_room_is_said_so_and_leaves_nothing(
    spool: Spool, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.write("a", "a")
    opening: Any = os.open
    if full == "begun":

        def no_room(path: Any, *rest: Any, **more: Any) -> int:
            if "report-" in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(opening(path, *rest, **more))

        monkeypatch.setattr("transfer.batch.report.os.open", no_room)
    else:  # as a file that may not grow any more; a buffer's worth is midway
        report = Report(spool.report, "room", "")
        assert report._file is not None
        report._file.close()
        report._file = open("/dev/full", "wb")  # noqa: SIM115
        monkeypatch.setattr("test_batch_run.Report", lambda *_args: report)
        if full == "midway":
            for number in range(200):
                spool.write(f"{number:0>100}", "a")
    with pytest.raises(DiskFull, match=r"no room left for the report .*report\.json"):
        spool.run()
    assert not [path for path in spool.report.parent.iterdir() if "report" in path.name]
    monkeypatch.undo()
    spool.run()
    assert len(spool.room.arrived) == len(spool.told())


def test_a_report_is_not_put_where_a_folder_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: is a directory"):
        Report(tmp_path, "room", "")


def test_people_see_what_became_of_it(spool: Spool) -> None:
    spool.write("a", "abc")
    with closing(spool.state()) as state, Report(None, "room", state.root) as report:
        lines = []
        report.add = lambda line: (lines.append(line), Report.add(report, line))  # type: ignore[method-assign]
        asyncio.run(
            run(
                Asked(),
                state,
                lambda _pause: from_folder(spool.root, Rules()),
                FakeSender(spool.room),
                report,
            )
        )
        assert cells(lines[0]) == ("sent", "3 B", "owed", "a")
        assert str(report.sums) == "1 sent (3 B)"


# the model: files change between runs, and runs are killed anywhere

NAMES = ("a", "b", "d/c")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where syncing costs nothing: every commit does."""
changes = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.sampled_from("12")),
    st.tuples(st.just("touch"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("receive"), st.just(""), st.just("")),
)
runs = st.tuples(st.lists(changes, max_size=4), st.integers(0, 30), st.booleans(), st.integers(1, 3))


def deadly(state: State, step: Callable[[], None]) -> None:
    """The process may die before and after every commit."""
    for name in ("intend", "sent", "dropped", "received", "removing", "removed", "kept", "touched", "failed"):
        real = getattr(state, name)

        def commit(*args: Any, real: Callable[..., Any] = real) -> Any:
            step()
            found = real(*args)
            step()
            return found

        setattr(state, name, commit)


class World:
    """now: what a file holds, and how often one of that name was put there anew after it went by our hand."""

    def __init__(self, top: Path, removal: str) -> None:
        self.spool, self.removal, self.top = Spool(top), removal, top
        self.serial = 0

    def change(self, what: str, name: str, content: str) -> None:
        path = self.spool.root / name
        if what == "write":
            self.serial += 1
            self.spool.write(name, content)
            os.utime(path, (self.serial, self.serial))
        elif what == "touch" and path.exists():
            self.serial += 1
            os.utime(path, (self.serial, self.serial))
        elif what == "remove":
            path.unlink(missing_ok=True)
        elif what == "receive":
            self.spool.room.receive()

    def run(self, kill_at: int | None, *, pack: bool, concurrency: int) -> dict[str, dict[str, Any]]:
        left = iter(range(kill_at, -1, -1)) if kill_at is not None else None

        def step() -> None:
            if left is not None and next(left, 0) == 0:
                raise Killed

        sender = FakeSender(self.spool.room, step)
        asked = Asked(removal=self.removal, to=str(self.top / "done"), pack=pack, concurrency=concurrency)  # type: ignore[arg-type]

        async def go() -> None:
            state = self.spool.state()
            deadly(state, step)
            with closing(state), Report(self.spool.report, "room", state.root) as report:
                items = partial(lambda root, _pause: from_folder(root, Rules()), self.spool.root)
                await run(asked, state, items, sender, report)

        asyncio.run(go())
        return self.spool.told()


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(runs, min_size=1, max_size=5), st.sampled_from(["", "delete", "move"]))
@example(  # an order that was voided, and a kill before that was noted; then its content is there again
    [([("write", "a", text)], kill_at, False, 1) for text, kill_at in (("1", 1), ("2", 1), ("1", 0))], ""
)
def test_each_version_arrives_exactly_once_whatever_dies_and_changes(
    story: list[tuple[list[tuple[str, str, str]], int, bool, int]], removal: str
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as top:
        world = World(Path(top), removal)
        room = world.spool.room
        gone: dict[str, int] = dict.fromkeys(
            NAMES, 0
        )  # how often a file went: one that comes then is a new one
        for edits, kill_at, pack, concurrency in story:
            for edit in edits:
                world.change(*edit)
                if edit[0] == "remove" and removal:
                    gone[edit[1]] += 1
            there = {name for name in NAMES if (world.spool.root / name).exists()}
            with suppress(Killed):
                world.run(kill_at, pack=pack, concurrency=concurrency)
            for name in there:
                gone[name] += not (world.spool.root / name).exists()
        world.run(None, pack=False, concurrency=2)
        for name in NAMES:
            path, arrived = world.spool.root / name, room.of(name)
            twice = sum(one == other for one, other in itertools.pairwise(arrived))
            assert twice <= gone[name], (name, arrived)  # again only where it had gone, and came anew
            if path.exists():
                assert arrived[-1:] == [path.read_bytes()]
        # Nothing is owed to an earlier run, and nothing is left to do.
        lines = world.run(None, pack=False, concurrency=1)
        assert {line["outcome"] for line in lines.values()} <= {"unchanged", "deleted", "moved"}
        if removal != "move":
            assert not (Path(top) / "done").exists()
        kept = [path.read_bytes() for path in (Path(top) / "done").rglob("*") if path.is_file()]
        assert len(kept) <= sum(len(room.of(name)) for name in NAMES)
