"""What a batch would do (--dry-run) is what the run then does."""

from __future__ import annotations

import os
from contextlib import closing, suppress

from spools import Killed, Spool, killed, outcomes

from transfer.batch.examine import examine
from transfer.batch.plan import planned, whole
from transfer.batch.selection import Rules, from_folder
from transfer.source import Facts

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
