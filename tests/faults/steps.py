"""What the tests of single moments and outages do and ask again and again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from helpers import SOON, Background, Two, same_tree
from material import rows_in
from proofs import SWEPT_WITHIN
from stage import SIDES, Stage

from tests.orphans import live_jobs, objects_of, orphans_within

PACE = 12_000_000.0
"""Bytes a second: slow enough that what is said to happen midway does."""


def slowed(stage: Stage, pace: float = PACE) -> None:
    for side in SIDES:
        stage.wires[side, "store"].rate = pace


def killed(*processes: Background) -> None:
    for process in processes:
        process.signal(signal.SIGKILL)
    for process in processes:
        assert process.code == -signal.SIGKILL, process._told()


def ended_well(apart: Two, stage: Stage, source: Path) -> None:
    """Everything arrived, and nobody keeps anything any more."""
    assert (apart.arrived, apart.left_over) == ([source.name], [])
    if source.is_dir():
        same_tree(source, apart.out / source.name)
    else:
        assert subprocess.run(["cmp", source, apart.out / source.name], check=False).returncode == 0
    for env in (apart.here, apart.there):
        assert rows_in(Path(env["XFER_HOME"])) == {}
    assert orphans_within(stage.servers, SWEPT_WITHIN) == []


def gone(stage: Stage, job: str) -> bool:
    """Neither a live record nor an object, after the time that a sweep may take."""
    deadline = time.monotonic() + SWEPT_WITHIN
    while time.monotonic() < deadline:
        if job not in live_jobs(stage.servers) and not objects_of(stage.servers, job):
            return True
        time.sleep(0.3)
    return False


def until(true: Callable[[], bool], what: str, every: float = 0.001) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline, f"not within {SOON} s: {what}"
        time.sleep(every)


# --- outages
