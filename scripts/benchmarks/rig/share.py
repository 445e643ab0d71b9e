"""Give a process a fixed share of a core: what it does with that does not depend on who else shares the machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
PERIOD = 10_000
"""Microseconds. Source: Linux, sched-bwc.rst: short ones leave no long gaps."""


def available() -> bool:
    """Whether this user may make control groups with a CPU limit here."""
    try:
        with share(os.getpid(), 1.0):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def share(pid: int, cores: float) -> Iterator[None]:
    """The process and its threads get at most that many cores while the block runs. Raises: OSError: not allowed."""
    v1 = (V1 / "cpu.cfs_quota_us").exists() or (V1 / "cgroup.procs").exists()
    root = V1 if v1 else V2
    before = _group_of(pid, v1)
    group = root / f"xfer-bench-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        if v1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(round(cores * PERIOD)))
        else:
            (group / "cpu.max").write_text(f"{round(cores * PERIOD)} {PERIOD}")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(OSError):  # it may have ended
            (root / before / "cgroup.procs").write_text(str(pid))
        _remove(group)


def _group_of(pid: int, v1: bool) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("cpu" in controllers.split(",")) if v1 else not controllers:
            return path.lstrip("/")
    return ""


def _remove(group: Path) -> None:
    for _ in range(50):
        with contextlib.suppress(OSError):  # the last of its tasks is just leaving
            group.rmdir()
            break
        time.sleep(0.1)
