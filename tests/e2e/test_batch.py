"""`xfer batch` as cron runs it: what is new or changed, each version once, and what becomes of files that somebody has."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import MIB, SOON, Background, Two, write

from transfer.events import ItemBegun


@pytest.fixture
def room(two: Two) -> str:
    """Its ticket, as scripts have it; nothing needs to be joined with it."""
    made = two.start("room", "new", "spool")
    assert made.code == 0, made.stderr
    ticket = made.stdout.decode().strip()
    for env in (two.here, two.there):
        env["XFER_ROOM"] = ticket
    return ticket


@pytest.fixture
def spool(two: Two) -> Path:
    folder = two.tmp / "spool"
    for name in ("a.csv", "deep/b.csv", "c.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, 2000)
    return folder


def start(two: Two, *args: object, env: Mapping[str, str] | None = None) -> Background:
    return two.start("batch", "--json", *args, env=env or two.here)


def outcomes(batch: Background, code: int = 0) -> dict[str, str]:
    """By path; waits for its end."""
    assert batch.code == code, batch.stderr
    lines = [json.loads(line) for line in batch.stdout.splitlines()]
    files = {line["path"]: line["outcome"] for line in lines if line["event"] == "file"}
    (last,) = [line for line in lines if line["event"] == "batch"]
    assert last["counts"] == Counter(files.values())
    return files


def fetched(two: Two, *args: object) -> list[str]:
    fetch = two.start("fetch", "--json", "-o", two.out, *args, env=two.there)
    assert fetch.code == 0, fetch.stderr
    return [event.label for event in fetch.events if isinstance(event, ItemBegun)]


def items(two: Two) -> list[str]:
    shown = two.start("room", "show", "spool", "--json")
    assert shown.code == 0, shown.stderr
    return [item["job"] for item in json.loads(shown.stdout)["items"]]


def moving(two: Two, run: Background) -> None:
    """Waits until some of it is under way: the ledger knows a part."""
    deadline = time.monotonic() + SOON
    path = Path(two.here["XFER_HOME"]) / "state" / "ledger.db"
    while time.monotonic() < deadline:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as ledger:
            if ledger.execute("SELECT count(*) FROM parts").fetchone()[0]:
                return
        assert run.running, run.stderr
        time.sleep(0.02)
    raise AssertionError("nothing moves")


def report_of(path: Path) -> dict[str, Any]:
    report = json.loads(path.read_text())
    assert report["v"] == 1
    return {line["path"]: line for line in report["files"]}


def test_a_spool_from_its_first_night_to_the_last(two: Two, room: str, spool: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert outcomes(start(two, spool, "--report", report)) == {
        "a.csv": "sent",
        "deep/b.csv": "sent",
        "c.csv": "sent",
    }
    assert {line["receipt"] for line in report_of(report).values()} == {None}
    first_b = (spool / "deep/b.csv").read_bytes()
    for changed in ("a.csv", "deep/b.csv"):
        (spool / changed).write_bytes(b"changed")
    (spool / "c.csv").touch()
    assert outcomes(start(two, spool)) == {"a.csv": "sent", "deep/b.csv": "sent", "c.csv": "unchanged"}
    assert len(items(two)) == 5

    assert sorted(fetched(two, "--rename")) == ["a.csv", "a.csv", "c.csv", "deep/b.csv", "deep/b.csv"]
    assert (two.out / "deep/b.csv").read_bytes() == first_b
    assert (two.out / "deep/b (1).csv").read_bytes() == b"changed"
    assert sorted(path.name for path in two.out.iterdir()) == ["a (1).csv", "a.csv", "c.csv", "deep"]
    assert (two.out / "a (1).csv").read_bytes() == b"changed"

    (spool / "c.csv").write_bytes(b"newer than what was sent")
    kept = tmp_path / "kept"
    assert outcomes(start(two, spool, "--move-to", kept, "--report", report)) == {
        "a.csv": "moved",
        "deep/b.csv": "moved",
        "c.csv": "sent",
    }
    assert report_of(report)["a.csv"]["receipt"] is not None
    assert (kept / "deep/b.csv").exists()
    assert [path.name for path in spool.rglob("*") if path.is_file()] == ["c.csv"]
    assert outcomes(start(two, spool, "--delete", "--error-on-nothing"), 9) == {"c.csv": "unchanged"}
    assert fetched(two, "--overwrite") == ["c.csv"]
    assert outcomes(start(two, spool, "--delete")) == {"c.csv": "deleted"}
    assert [path for path in spool.rglob("*") if path.is_file()] == []


def test_in_a_log_it_is_silent_and_a_failure_is_one_line(two: Two, room: str, spool: Path) -> None:
    del two.here["XFER_ROOM"]
    (two.tmp / "room.txt").write_text(f"{room}\n")
    quiet = two.start("batch", spool, "--room-file", two.tmp / "room.txt")
    assert (quiet.code, quiet.stdout, quiet.stderr) == (0, b"", "")
    names = two.tmp / "names"
    names.write_text(f"{spool}/a.csv\n{spool}/nowhere\n")
    two.here["XFER_ROOM_FILE"] = str(two.tmp / "room.txt")
    failed = two.start("batch", "--files-from", names)
    assert two.start("send", spool / "a.csv", "--json").code == 0
    assert len(items(two)) == 5
    assert two.start("batch", spool, "--room", room, "--room-file", two.tmp / "room.txt").code == 2
    assert failed.code == 3
    assert failed.stderr.count("\n") == 1
    assert "nowhere (it is not there)" in failed.stderr


@pytest.mark.parametrize("pack", [False, True], ids=["each", "pack"])
def test_a_run_that_was_killed_is_gone_on_with_and_nothing_is_doubled(
    two: Two, room: str, pack: bool
) -> None:
    spool = two.tmp / "spool"
    spool.mkdir()
    for number in range(4):
        write(spool / f"f{number}", 9 * MIB)
    how = ["--pack"] * pack
    for killed_by in (signal.SIGKILL, signal.SIGTERM):
        run = two.start("batch", spool, *how, "--bwlimit", "12M", "--json")
        moving(two, run)
        run.signal(killed_by)
        assert run.code != 0
    done = start(two, spool, *how)
    assert set(outcomes(done).values()) <= {"sent", "unchanged"}
    assert len(items(two)) == (1 if pack else 4)
    fetched(two)
    for number in range(4):
        assert (two.out / f"f{number}").read_bytes() == (spool / f"f{number}").read_bytes()
    assert set(outcomes(start(two, spool, *how)).values()) == {"unchanged"}


def test_one_run_at_a_time(two: Two, room: str, spool: Path) -> None:
    """On a host for a folder and a room; with --lock also on others."""
    elsewhere = {**two.here, "XFER_HOME": str(two.tmp / "home-elsewhere")}
    write(spool / "large", 6 * MIB)
    slow = start(two, spool, "--bwlimit", "1500k", "--lock", "night")
    slow.until(lambda: b'"sent"' in slow.stdout)
    slow.signal(signal.SIGSTOP)  # for less than its lock lives
    assert start(two, spool).code == 11
    beside = start(two, spool, "--lock", "night", env=elsewhere)
    assert beside.code == 11
    assert "another host does night" in beside.stderr
    waiting = start(two, spool, "--lock", "night", "--wait-lock")
    slow.signal(signal.SIGCONT)
    assert outcomes(slow)["large"] == "sent"
    assert set(outcomes(waiting).values()) == {"unchanged"}


def test_what_there_is_no_time_for_is_for_the_next_run(two: Two, room: str) -> None:
    spool = two.tmp / "spool"
    spool.mkdir()
    for number in range(6):
        write(spool / f"f{number}", 2 * MIB)
    late = start(two, spool, "--max-duration", "4s", "--bwlimit", "1M", "--concurrency", "1")
    assert late.code == 10
    assert "the next run goes on from there" in late.stderr
    assert len(items(two)) < 6
    outcomes(start(two, spool))
    assert len(items(two)) == len(set(items(two))) == 6


def test_a_room_that_is_gone_ends_a_batch_before_it_sends(two: Two, room: str, spool: Path) -> None:
    def jobs() -> list[str]:
        return [job["job"] for job in json.loads(two.start("ls", "--all", "--json").end().stdout)]

    assert two.start("room", "rm", "spool").code == 0
    before = jobs()
    gone = start(two, spool)
    assert (gone.code, "no more, or never was" in gone.stderr) == (4, True), gone.stderr
    assert jobs() == before, "nothing was sent"
