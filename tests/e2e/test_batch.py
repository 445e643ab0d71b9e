"""`xfer batch` with real servers: each version of a file is in the room once, whatever was killed, and goes after its receipt."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import MIB, Two, write


@pytest.fixture
def room(two: Two) -> str:
    """Made by the sender, joined by the receiver; its ticket."""
    made = two.start("room", "new", "backups")
    assert made.code == 0, made.stderr
    ticket = made.stdout.decode().strip()
    assert two.start("room", "join", ticket, env=two.there).code == 0
    return ticket


@pytest.fixture
def spool(two: Two) -> Path:
    """Small files in two folders, and a large one that comes last."""
    top = two.tmp / "spool"
    (top / "sub").mkdir(parents=True)
    for number in range(6):
        write(top / ("sub" if number % 2 else ".") / f"f{number}", 1000)
    write(top / "z-large", 12 * MIB)
    return top


def batch(two: Two, spool: Path, *args: object, code: int = 0) -> Counter[str]:
    """How many files had which outcome."""
    report = two.tmp / "report.json"
    ran = two.start("batch", spool, "--room", "backups", "--report", report, *args)
    assert ran.code == code, ran.stderr
    told = json.loads(report.read_bytes())
    assert told["counts"] == Counter(file["outcome"] for file in told["files"])
    assert ran.stdout == b"", "no ticket is printed"
    return Counter(told["counts"])


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def lying(two: Two, env: Mapping[str, str] | None = None) -> Counter[str]:
    """The names in the room, and how often each is there."""
    shown = two.start("room", "show", "backups", "--json", env=env or two.here)
    assert shown.code == 0, shown.stderr
    items: list[dict[str, Any]] = json.loads(shown.stdout)["items"]
    return Counter(name for item in items for name in item["names"])


def names(top: Path) -> list[str]:
    return sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())


def test_each_version_is_posted_once_and_goes_after_its_receipt(two: Two, room: str, spool: Path) -> None:
    every = names(spool)
    killed = two.start("batch", spool, "--room", "backups", "--bwlimit", "1M", "--concurrency", "1")
    until(lambda: len(lying(two)) >= 6, "the small ones are posted, and the large one is under way")
    killed.signal(signal.SIGKILL)
    killed.end()

    assert batch(two, spool) == Counter(sent=1, unchanged=6)
    assert lying(two) == Counter(every)
    (spool / "f0").write_text("anew")
    os.utime(spool / "f2", (1, 1))
    assert batch(two, spool, "--delete") == Counter(sent=1, unchanged=6), "nobody has had any of it"

    fetched = two.start("fetch", "--room", "backups", "-o", two.out, "--overwrite", env=two.there)
    assert fetched.code == 0, fetched.stderr
    assert names(two.out) == every
    assert (two.out / "f0").read_text() == "anew", "the oldest comes first"
    assert (two.out / "z-large").read_bytes() == (spool / "z-large").read_bytes()
    (spool / "f4").write_text("not yet sent")
    away = two.tmp / "away"
    assert batch(two, spool, "--move-to", away) == Counter(moved=6, sent=1)
    assert (names(spool), names(away)) == (["f4"], [name for name in every if name != "f4"])
    assert lying(two) == Counter(every) + Counter(["f0", "f4"])


def test_a_batch_is_alone_on_its_host_and_with_a_lock_on_all(two: Two, room: str, spool: Path) -> None:
    slow = ("--bwlimit", "1M", "--lock", "nightly")
    first = two.start("batch", spool, "--room", "backups", *slow)
    until(lambda: len(lying(two)) >= 1, "it runs")
    beside = two.start("batch", spool, "--room", "backups")
    assert (beside.code, "another run sends this batch" in beside.stderr) == (11, True), beside.stderr
    apart = two.start("batch", spool, "--room", "backups", "--lock", "nightly", env=two.there)
    assert (apart.code, "another host does nightly" in apart.stderr) == (11, True), apart.stderr
    first.signal(signal.SIGTERM)
    assert first.code == 128 + signal.SIGTERM
    after = two.start("batch", spool, "--room", "backups", "--lock", "nightly")
    assert after.code == 0, "a lock is given back"
    assert lying(two) == Counter(names(spool))


def test_a_room_that_is_gone_ends_a_batch_before_it_sends(two: Two, room: str, spool: Path) -> None:
    assert two.start("room", "rm", "backups").code == 0
    gone = two.start("batch", spool, "--room", room)
    assert (gone.code, "no more, or never was" in gone.stderr) == (4, True), gone.stderr
    assert two.start("ls", "--all", "--json").stdout == b"", "nothing was sent"
