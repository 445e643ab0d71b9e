"""A batch that dies anywhere: its orders are gone on with, and each version arrives exactly once."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from spools import FakeSender, Killed, Spool, killed, outcomes

from transfer.batch.report import Report
from transfer.batch.run import Asked, run
from transfer.batch.selection import Rules, from_folder
from transfer.batch.state import State


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
