"""Staging folders that other runs left where this one writes: of runs that died on another host, or whose ledger is lost.

Nothing here can take one up without its ledger, and none is removed: a run on another host that shares the file system
may go on with it. So they are named.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from transfer.errors import UnsafeName
from transfer.folder import Folder
from transfer.paths import printable
from transfer.staging import Staging, stem
from transfer.units import show_size

_NAMED = 3
"""Of those that there are, in a sentence."""


def left_over(base: Path, job: str, own: str) -> str:
    """The others of this job that no run holds, for a sentence: `«path» (400 MB)`; empty if there is none. own: ours."""
    found = []
    with suppress(OSError, UnsafeName), Folder.at(base) as here:  # the latter: replaced in this moment
        names = sorted(name for name in os.listdir(here.path) if name.startswith(stem(job)) and name != own)
        found = [name for name in names if Staging.is_idle(here, name)]
    told = [f"{printable(str(base / name))} ({show_size(_taken(base / name))})" for name in found[:_NAMED]]
    return ", ".join(told) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")


def _taken(folder: Path) -> int:
    """Bytes of the disk; what cannot be looked at counts as nothing."""
    taken = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                facts = os.lstat(os.path.join(path, name))
                taken += facts.st_blocks * 512 if hasattr(facts, "st_blocks") else facts.st_size
    return taken
