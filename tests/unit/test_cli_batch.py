"""`xfer batch` as it is typed: what it refuses, and what it says it would do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transfer.ticket import RoomTicket


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("spool/a.csv", "spool/sub/b.csv", "spool/c.tmp", "spool/done/old.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def batch(top: Path, *args: str, given: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "batch", *args],
        input=given,
        capture_output=True,
        env={**os.environ, "XFER_HOME": str(top / "home"), "PYTHONPATH": os.getcwd(), **variables},
        cwd=top,
        timeout=60,
    )


ROOM = str(RoomTicket("q" * 16, bytes(16)))
PLAN = ("--room", ROOM, "--dry-run")


def steps(run: subprocess.CompletedProcess[bytes]) -> list[tuple[str, str]]:
    told = [json.loads(line) for line in run.stdout.splitlines()]
    return [(step["what"], step["path"]) for step in told if step["event"] == "planned"]


def test_a_dry_run_says_what_it_would_send_and_sends_nothing(top: Path) -> None:
    args = (*PLAN, "--exclude", "*.tmp", "--move-to", "spool/done", "--settled")
    for _ in range(2):
        run = batch(top, "spool", *args)
        assert (run.returncode, run.stderr) == (0, b"")
        assert run.stdout.decode().splitlines() == [
            "send           11 B  a.csv (new)",
            "send           15 B  sub/b.csv (new)",
        ]
    first = json.loads(batch(top, "spool", *args, "--json").stdout.splitlines()[0])
    assert (first["v"], first["event"], first["what"], first["size"]) == (1, "planned", "send", 11)
    assert len(first["digest"]) == 64


def test_names_come_from_a_list_or_from_stdin(top: Path) -> None:
    (top / "list").write_bytes(b"spool/a.csv\nspool/nowhere\n")
    run = batch(top, "--files-from", "list", *PLAN, "--json")
    assert steps(run) == [("send", "spool/a.csv"), ("failed", "spool/nowhere")]
    assert run.returncode == 3
    assert b"1 file would fail" in run.stderr
    for args in (("-",), ("--files-from", "-")):
        assert steps(batch(top, *args, *PLAN, "--json", given=b"spool/a.csv\n")) == [("send", "spool/a.csv")]
    run = batch(top, "--files-from0", "-", *PLAN, "--json", given=b"spool/a.csv\0spool/c.tmp\0")
    assert steps(run) == [("send", "spool/a.csv"), ("send", "spool/c.tmp")]


def test_times_and_patterns_may_come_from_variables(top: Path) -> None:
    os.utime(top / "spool" / "a.csv", (1, 1))
    run = batch(top, "spool", *PLAN, "--json", XFER_NEWER_THAN="1d", XFER_INCLUDE="*.csv")
    assert steps(run) == [("send", "done/old.csv"), ("send", "sub/b.csv")]
    run = batch(top, "spool", *PLAN, "--json", "--min-age", "1h", "--include", "a.csv")
    assert steps(run) == [("left", "a.csv")]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (PLAN, "nothing to send"),
        (("spool", "--files-from", "l", *PLAN), "too much at once"),
        (("-", "--files-from0", "-", *PLAN), "too much at once"),
        (("", *PLAN), "the name of what to send is empty"),
        (("spool", "--dry-run"), "no room is named"),
        (("spool", "--delete", "--move-to", "x", *PLAN), "either deleted or moved"),
        (("spool", "--move-to", "spool", *PLAN), "--move-to names the folder that is sent"),
        (("--files-from", "l", "--move-to", ".", *PLAN), "--move-to names the folder that is sent"),
        (("spool", "--lock", "", *PLAN), "--lock is empty"),
        (("spool", "--expire", "0", *PLAN), "expires at once"),
        (("spool", "--newer-than", "soon", *PLAN), "--newer-than 'soon' is neither"),
        (("spool", "--min-age", "old", *PLAN), "--min-age 'old' is not a duration"),
        (("nowhere", *PLAN), "nowhere is not there"),
        (("spool/a.csv", *PLAN), "spool/a.csv is not a folder"),
        (("--files-from", "nowhere", *PLAN), "the list nowhere cannot be read"),
        (("spool", "--room", "r"), "has joined no room 'r'"),
        (("spool", "--room", ROOM), "nothing says where the servers are"),
    ],
)
def test_what_makes_no_sense_is_refused(top: Path, args: tuple[str, ...], told: str) -> None:
    run = batch(top, *args)
    assert run.returncode == 2, run.stderr
    assert told in run.stderr.decode()
    assert run.stdout == b""
