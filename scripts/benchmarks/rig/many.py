"""One batch of very many files: how long each side takes, how much memory, and whether the report is true line by line."""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blake3 import blake3

from .link import Namespace
from .measure import Ran, run
from .mortal import Mortal
from .servers import XFER
from .spool import files_below, read_report

FEW = 200
"""Files of the run beside which the memory of the whole one is seen."""
LONGEST = 7200.0
A_FOLDER = 500
LARGEST = 8000


def many(folder: Path, files: int, tell: Callable[[str], None]) -> list[str]:
    """What is wrong; figures are told."""
    wrong: list[str] = []
    servers = Mortal(folder / "servers")
    try:
        for count in sorted({min(FEW, files), files}):
            here = folder / f"of-{count}"
            here.mkdir()
            wrong += _Batch(here, servers, count, tell).run()
        return wrong
    finally:
        servers.close()


class _Batch:
    def __init__(self, folder: Path, servers: Mortal, files: int, tell: Callable[[str], None]) -> None:
        self._folder, self._files, self._tell = folder, files, tell
        self._spool, self._inbox = folder / "spool", folder / "inbox"
        self._servers = servers
        self._env = {side: servers.client_environment(folder / side) for side in ("sender", "receiver")}
        words = [XFER, "room", "new", "many"]
        room = subprocess.run(words, env=self._env["sender"], capture_output=True, text=True, check=True)
        for env in self._env.values():
            env["XFER_ROOM"] = room.stdout.strip()
        self._made = self._make()

    def run(self) -> list[str]:
        report = self._folder / "report.json"
        words = ["batch", str(self._spool), "--fetches", "1", "--report", str(report)]
        wrong = self._step("batch", "sender", words)
        wrong += self._report(report, "sent")
        wrong += self._step("fetch", "receiver", ["fetch", "--as", "night", "-o", f"{self._inbox}/"])
        wrong += self._fetched()
        wrong += self._step("batch --delete", "sender", [*words, "--delete"])
        wrong += self._report(report, "deleted")
        wrong += [f"{path} is still there" for path in files_below(self._spool)]
        return wrong + [f"left in the store: {each}" for each in self._servers.left()[:10]]

    def _make(self) -> dict[str, tuple[int, str]]:
        """Name to size and digest."""
        dice, made = random.Random(self._files), {}
        for number in range(self._files):
            name = f"d{number // A_FOLDER}/f{number}.dat"
            content = f"{number}\n".encode() + dice.randbytes(dice.randrange(LARGEST))
            path = self._spool / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            made[name] = len(content), blake3(content).hexdigest()
        os.sync()
        return made

    def _step(self, what: str, side: str, words: list[str]) -> list[str]:
        ran: Ran = run([XFER, *words], self._env[side], Namespace(), LONGEST)
        self._tell(
            f"{self._files} files, {what}: {ran.seconds:.1f} s, {self._files / ran.seconds:.1f} files/s,"
            f" CPU {ran.cpu:.1f} s, peak {ran.peak / 1e6:.0f} MB"
        )
        return [f"{what}: {ran.failure}"] if ran.failure else []

    def _report(self, path: Path, outcome: str) -> list[str]:
        report = read_report(path)
        if report is None:
            return ["there is no report"]
        wrong, lines = [], {line["path"]: line for line in report["files"]}
        if len(lines) != len(report["files"]) or set(lines) != set(self._made):
            wrong.append(f"{len(report['files'])} lines of {len(lines)} files")
        if (report["outcome"], report["counts"]) != ("complete", {outcome: self._files}):
            wrong.append(f"{report['outcome']}: {report['counts']}")
        jobs = Counter(line["job"] for line in lines.values())
        if None in jobs or len(jobs) != self._files:
            wrong.append(f"{len(jobs)} jobs")
        for name, (size, digest) in self._made.items():
            line: dict[str, Any] = lines.get(name, {})
            if (line.get("outcome"), line.get("size"), line.get("digest")) != (outcome, size, digest):
                wrong.append(f"{name} is {size} bytes, {digest}, and the report says {line}")
        return wrong

    def _fetched(self) -> list[str]:
        found = {}
        for path in files_below(self._inbox):
            content = path.read_bytes()
            found[path.relative_to(self._inbox).as_posix()] = len(content), blake3(content).hexdigest()
        if found == self._made:
            return []
        return [f"{len(found)} files came of {len(self._made)}, or they differ"]
