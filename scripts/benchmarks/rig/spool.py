"""A spool and what came of it: every version that ever lay there, and which of them were delivered.

A version's content is its own, so that its digest tells which one a delivered file is. Files come and change by a rename
from beside the spool, as careful programs do it: whoever reads them sees one version or another.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from transfer.paths import STAGING_PREFIX

NUMBERED = re.compile(r" \(\d+\)(?=\.dat$|$)")
"""What `--rename` adds to a name."""
MIB = 1 << 20
_FOLDERS = ("", "", "", "day/", "day/hour/")


class Version(NamedTuple):
    """name: relative to the spool. digest: of its content, in hex."""

    name: str
    digest: str


class Spool:
    """current: what lies there as far as we know: the batch removes some of it. past: every version there ever was.

    due: what must be delivered once all is over. touched: names that the last stir changed, made or took away.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self._beside = folder / "spool", folder / "beside"
        self.root.mkdir()
        self._beside.mkdir()
        self.current: dict[str, str] = {}
        self.past: set[Version] = set()
        self.due: set[Version] = set()
        self.touched: set[str] = set()
        self._made = 0

    def stir(self, dice: random.Random, most: int) -> list[str]:
        """Write, change and rename some files. Says what was done."""
        done: list[str] = []
        self.touched = set()
        for _ in range(dice.randint(1, most)):
            what, names = dice.random(), sorted(self.current)
            if what < 0.5 or not names:
                name = f"{dice.choice(_FOLDERS)}f{self._made}.dat"
                done.append(f"+{name}")
            elif what < 0.85:
                name = dice.choice(names)
                done.append(f"~{name}")
            else:
                old = dice.choice(names)
                name = f"{dice.choice(_FOLDERS)}r{self._made}.dat"
                self._made += 1
                self.touched |= {old, name}
                if self._rename(old, name):
                    done.append(f"{old}>{name}")
                continue
            self.touched.add(name)
            self._write(name, dice)
        return done

    def gone(self) -> set[Version]:
        """What the batch has removed since this was asked last; its versions are due."""
        names = [name for name in self.current if not os.path.lexists(self.root / name)]
        found = {Version(name, self.current.pop(name)) for name in names}
        self.due |= found
        return found

    def versions(self) -> set[Version]:
        return {Version(name, digest) for name, digest in self.current.items()}

    def _write(self, name: str, dice: random.Random) -> None:
        size = dice.choices((0, 300, 40_000, 2 * MIB, 12 * MIB), (5, 40, 40, 12, 3))[0]
        content = f"{name} {self._made}\n".encode() + dice.randbytes(dice.randint(size // 2, size))
        self._made += 1
        beside = self._beside / "new"
        beside.write_bytes(content)
        digest = blake3(content).hexdigest()
        self.past.add(Version(name, digest))
        self.current[name] = digest
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        beside.replace(self.root / name)

    def _rename(self, old: str, new: str) -> bool:
        digest = self.current[old]
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        self.past.add(Version(new, digest))
        try:
            os.rename(self.root / old, self.root / new)
        except FileNotFoundError:  # removed a moment ago: `gone` tells
            return False
        del self.current[old]
        self.current[new] = digest
        return True


class Inbox:
    """What was delivered below it, and what is wrong with that."""

    def __init__(self, folder: Path, spool: Spool) -> None:
        self.root = folder / "inbox"
        self.root.mkdir()
        self._spool = spool
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self.delivered: Counter[Version] = Counter()

    def look(self) -> list[str]:
        """At what came since; every file is whole, once it has its name, and never changes."""
        wrong = []
        for path in files_below(self.root):
            found = path.stat()
            facts = found.st_ino, found.st_size, found.st_mtime_ns
            if path in self._seen:
                if self._seen[path] != facts:
                    wrong.append(f"{path} was replaced")
                continue
            self._seen[path] = facts
            inside = path.relative_to(self.root)
            version = version_of(
                path, inside.relative_to(inside.parts[0])
            )  # the first is the run's own folder
            if version not in self._spool.past:
                wrong.append(f"{path} is no version that there was ({found.st_size} bytes)")
            self.delivered[version] += 1
            if self.delivered[version] > 1:
                wrong.append(f"{path} was delivered {self.delivered[version]} times")
        return wrong

    def look_again(self) -> list[str]:
        """Everything anew, from what is on the disk; and what is missing of what is due."""
        before = set(self._seen)
        self._seen, self.delivered = {}, Counter()
        wrong = self.look()
        wrong += [f"{path} is gone" for path in before - set(self._seen)]
        wrong += [f"{name} ({digest[:8]}) was not delivered"
                  for name, digest in sorted(self._spool.due - set(self.delivered))]  # fmt: skip
        return wrong


def version_of(path: Path, relative: Path) -> Version:
    """relative: what it is called; numbers that were added to it do not count."""
    name = "/".join(NUMBERED.sub("", part) for part in relative.parts)
    return Version(name, blake3(path.read_bytes()).hexdigest())


def files_below(root: Path) -> list[Path]:
    """Without what a fetch of ours is writing."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(STAGING_PREFIX)]
        found += [Path(folder, name) for name in names if not name.startswith(STAGING_PREFIX)]
    return found


def hidden_below(root: Path) -> list[Path]:
    """What a fetch or a move has not ended."""
    return list(root.rglob(f"{STAGING_PREFIX}*"))


def read_report(path: Path) -> dict[str, Any] | None:
    """None: there is none."""
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    return None


def wrong_in(report: dict[str, Any], spool: Spool, inbox: Inbox, steady: set[Version]) -> list[str]:
    """Of what a report says, what is not so. steady: versions that lay there all the while, and the run ended well."""
    wrong = []
    lines = report["files"]
    counted = Counter(line["outcome"] for line in lines)
    if dict(counted) != {what: n for what, n in report["counts"].items() if n}:
        wrong.append(f"counts {report['counts']}, lines {dict(counted)}")
    if sum(line["size"] for line in lines if line["outcome"] == "sent") != report["bytes"]:
        wrong.append("bytes are not the sum of what was sent")
    said: set[Version] = set()
    for line in lines:
        if line["outcome"] in ("left", "failed"):
            continue
        version = Version(line["path"], line["digest"])
        said.add(version)
        if version not in spool.past:
            wrong.append(f"{line['path']} is {line['outcome']} with a digest that it never had")
        if line["outcome"] in ("deleted", "moved") and not inbox.delivered[version]:
            wrong.append(f"{line['path']} was {line['outcome']}, and nobody has it")
        if line["outcome"] == "sent":
            spool.due.add(version)
    wrong += [f"{name} lay there and is not in the report" for name, digest in steady - said]
    return wrong
