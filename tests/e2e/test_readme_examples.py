"""The README's commands of rooms and batches run as they stand."""

from __future__ import annotations

import json
import signal
import subprocess
import time

from helpers import SOON
from stand import PG_DUMP, README, Stand


def readme(heading: str) -> list[str]:
    """The lines of the first block of commands below a heading."""
    below = README[README.index(f"\n## {heading}") :]
    return below.split("```sh\n", 1)[1].split("```", 1)[0].splitlines()


def test_the_rooms_of_the_readme(stand: Stand) -> None:
    """Each fetch in a folder of its own, as if on a host of its own."""
    stand.program("pg_dump", PG_DUMP)
    stand.program("psql", f"#!/bin/sh\ncat >{stand.tmp}/restored\n")
    env = {**stand.env("host"), "XFER_QUIET": "1"}
    new, send, fetch, follow, latest, work, show = readme("Rooms")
    for room in (new, new.replace("backups", "jobs")):
        assert stand.run(room, env).returncode == 0
    for line, folder in ((fetch, "a"), (follow, "b"), (work, "c"), (latest, "d")):
        stand.well(send.replace("backups", "jobs") if line == work else send, env)
        where = stand.tmp / folder
        where.mkdir()
        if line != follow:
            stand.well(line, env, where)
            continue
        # It goes on until it is told to end; `exec`, so that the signal reaches it.
        running = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {line}"], env={**env, "XFER_RENAME": "1"}, cwd=where
        )
        try:
            deadline = time.monotonic() + SOON
            while not (where / "in" / "shop.sql").exists():
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            running.terminate()
            assert running.wait(SOON) == 128 + signal.SIGTERM
        finally:
            running.kill()
            running.wait()
    for folder in ("a", "b", "c"):
        assert (stand.tmp / folder / "in" / "shop.sql").read_text() == "dump of shop\n"
    assert (stand.tmp / "restored").read_text() == "dump of shop\n"
    assert "shop.sql" in stand.well(show, env)


def test_the_batches_of_the_readme(stand: Stand) -> None:
    """Below a folder of ours, in place of the root."""
    env = {**stand.env("host"), "XFER_QUIET": "1"}
    assert stand.run("xfer room new backups", env).returncode == 0
    stand.file(stand.tmp / "var" / "spool" / "reports" / "a.csv", "1")
    (stand.tmp / "var" / "log").mkdir()
    batch, listed, dry = (line.replace("/var/", f"{stand.tmp}/var/") for line in readme("Batches"))
    assert "a.csv" in stand.well(dry, env)
    stand.well(listed, env)
    stand.well(batch, env)
    report = json.loads((stand.tmp / "var" / "log" / "reports.json").read_text())
    assert report["counts"] == {"left": 1}, "it is too young"
    items = json.loads(stand.well("xfer room show backups --json", env))["items"]
    assert len(items) == 1
