"""A few cycles of `scripts/bench cron`: batch and fetch as cron runs them, while both, the broker and NATS are killed."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest

from scripts.benchmarks.rig.cron import Cron
from scripts.benchmarks.rig.mortal import Mortal
from scripts.benchmarks.rig.spool import Inbox, Spool

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform == "win32", reason="local servers need Linux or macOS"),
]
SEED, CYCLES = 580, 12
"""Of its draws: every deed there is, and a sender killed under its lock, early."""


def test_whatever_dies_each_version_comes_once_and_nothing_is_left(tmp_path: Path) -> None:
    servers = Mortal(tmp_path / "servers")
    try:
        cron = Cron(tmp_path, servers, SEED, print)
        cron.run(CYCLES)
    finally:
        servers.close()
    print(cron.figures())
    assert not cron.wrong, cron.told()
    assert cron.done.total() >= CYCLES


def test_what_is_twice_torn_replaced_or_missing_is_seen(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    dice = random.Random(1)
    while len(spool.current) < 5:
        spool.stir(dice, 20)
    spool.due = spool.versions()
    inbox = Inbox(tmp_path, spool)
    for name in spool.current:
        target = inbox.root / "1" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(spool.root / name, target)
    assert inbox.look() == []
    assert inbox.look_again() == []
    first, second, third = sorted(spool.current)[:3]
    twice = inbox.root / "2" / first.replace(".dat", " (1).dat")
    twice.parent.mkdir(parents=True)
    shutil.copy(spool.root / first, twice)
    (inbox.root / "1" / second).unlink()
    (inbox.root / "1" / third).write_bytes(b"torn")
    assert any("was replaced" in each for each in inbox.look())
    wrong = "\n".join(inbox.look_again())
    for words in ("2 times", f"{second} is gone", f"{second} (", f"{third} is no version that there was"):
        assert words in wrong
