"""The most memory of a sender and of a receiver, above an interpreter that imported the same modules.

Of real data, and of a file of terabytes that is one hole: every chunk of it goes the whole way, through source, zstd,
digest, seal and store to a pipe that nobody keeps, and takes next to no room on the disk.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from .datasets import Dataset, remove
from .link import Namespace
from .measure import Ran, run
from .peers import Command, Tool
from .rows import Failed
from .world import World

ROOM = 2.2
"""Of the size, free on the disk: the source and the store's copy, then that and what was fetched."""
_BASELINE = """
import contextlib, importlib, sys
for name in sys.stdin.read().split():
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
print(open("/proc/self/status").read())
"""


def check_room(folder: Path, size: int) -> None:
    """Raises Failed if so many bytes do not fit there twice."""
    if shutil.disk_usage(folder).free < size * ROOM:
        raise Failed(f"the disk has no room for {size / 1e9:.0f} GB twice")


def hole(size: int, folder: Path) -> Dataset:
    """A file of zeros that takes no room."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hole-{size}.bin"
    with open(path, "wb") as file:
        file.truncate(size)
    return Dataset("hole", path, size, 1, 1.0)


def peaks_of_hole(world: World, ours: Tool, data: Dataset, longest: float) -> dict[str, Any]:
    """What comes down is thrown away: no disk has room for it. That it is right, its receiver checks by its digests."""
    sent, sent_base = _measured(world, ours.up(data.path), longest)
    ours.ticket = sent.ticket
    program, env = ours.up(data.path).argv[0], ours.down(data.path, data.path.parent).env
    thrown = Command(["sh", "-c", 'exec "$1" fetch -o - >/dev/null', "sh", program], env)
    fetched, fetched_base = _measured(world, thrown, longest)
    world.servers.empty()
    return _figures(data, sent, sent_base, fetched, fetched_base)


def peaks(world: World, ours: Tool, data: Dataset, longest: float, *, scarce: bool) -> dict[str, Any]:
    """scarce: the source may go once it is stored, so that the disk holds two copies and not three."""
    digest = digest_of(data.path)
    sent, sent_base = _measured(world, ours.up(data.path), longest)
    ours.ticket = sent.ticket
    target = world.folder / "target"
    target.mkdir()
    try:
        if scarce:
            remove(data.path)
        fetched, fetched_base = _measured(world, ours.down(data.path, target), longest)
        if digest_of(target / data.path.name) != digest:
            raise Failed("what came down is not what went up")
    finally:
        remove(target)
        world.servers.empty()
    return _figures(data, sent, sent_base, fetched, fetched_base)


def _figures(data: Dataset, sent: Ran, sent_base: int, fetched: Ran, fetched_base: int) -> dict[str, Any]:
    return {
        "GB": round(data.size / 1e9, 2),
        "send above imports MB": round((sent.peak - sent_base) / 1e6, 1),
        "fetch above imports MB": round((fetched.peak - fetched_base) / 1e6, 1),
        "send s": round(sent.seconds, 1),
        "fetch s": round(fetched.seconds, 1),
    }


def _measured(world: World, command: Command, longest: float) -> tuple[Ran, int]:
    """How it ran, and what an interpreter with all that it had imported by its end takes, bytes."""
    told = dict(command.env) | {"PYTHONPROFILEIMPORTTIME": "1"}
    ran = run(command.argv, told, world.client, longest)
    if ran.failure:
        raise Failed(ran.failure)
    return ran, imported(ran.stderr, command.env, world.client, world.folder)


def imported(told: str, env: Mapping[str, str], where: Namespace, folder: Path) -> int:
    """Bytes of an interpreter that imported what a run under PYTHONPROFILEIMPORTTIME `told`. Raises Failed."""
    names = [line.rsplit("|", 1)[1].strip() for line in told.splitlines() if line.startswith("import time:")]
    modules = folder / "modules"
    modules.write_text("\n".join(names[1:]))  # the first is a heading
    with open(modules, "rb") as stdin:
        base = run([sys.executable, "-P", "-c", _BASELINE], env, where, 60.0, stdin=stdin.fileno())
    found = [line for line in base.stdout.splitlines() if line.startswith("VmHWM")]
    if base.failure or not found:
        raise Failed(base.failure or "there is no /proc")
    return int(found[0].split()[1]) * 1024


def digest_of(path: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
