"""The private folder beside the targets in which a transfer is put together, and what finds it again.

`.xfer-<job>-<random>/` holds `tree/` (the entries) and, from the moment that publishing begins,
`journal`: which move takes what where. It is made for us alone (0700, exclusive) and reached by
descriptor; after a kill it is taken up again only if it is the same folder, owner and mode.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from transfer.folder import Folder
from transfer.paths import STAGING_PREFIX, Flavour

JOURNAL, TREE, PROBE = "journal", "tree", "probe"


class Mark(msgspec.Struct, frozen=True):
    """Enough to find a staging folder again, and to tell it from another. staging_id: device, inode."""

    version: int
    job: str
    output: str
    file: str | None
    base: str
    name: str
    staging_id: tuple[int, int]
    made: list[str]


class Move(NamedTuple):
    """One rename that publishes: parts below `tree/`, parts below the destination, inode of what moves."""

    staged: tuple[str, ...]
    final: tuple[str, ...]
    inode: int


class Journal(msgspec.Struct, frozen=True):
    """moves: all that were ever planned. finals: the names that are not their own, by places below `tree/` ("sub/name")."""

    moves: list[Move]
    finals: dict[str, str]


class Staging:
    """base: the destination. tree: where entries are written."""

    def __init__(self, base: Folder, name: str, folder: Folder) -> None:
        self.base = base
        self.name = name
        self._folder = folder
        self.tree = folder.folder(TREE)
        folder.hold()

    @classmethod
    def create(cls, base: Path, name: str) -> Staging:
        """name: from `new_name`. Raises OSError."""
        here = Folder.at(base)
        try:
            here.make(name)
            folder = here.folder(name)
            folder.make(TREE)
            return cls(here, name, folder)
        except OSError:
            here.close()
            raise

    @classmethod
    def reopen(cls, mark: Mark) -> Staging | None:
        """None if it is gone, half removed (what is left of it goes), or not the folder we made: another inode, owner or mode."""
        try:
            base = Folder.at(Path(mark.base))
        except OSError:
            return None
        found = base.look(mark.name)
        if found is None or not _is_ours(found) or _id(found) != mark.staging_id:
            base.close()
            return None
        folder = base.folder(mark.name)
        if folder.look(TREE) is None:  # whoever removed it was killed in the middle of that
            folder.close()
            with suppress(OSError):
                base.remove_tree(mark.name)
            base.close()
            return None
        return cls(base, mark.name, folder)

    @staticmethod
    def is_idle(base: Folder, name: str) -> bool:
        """Whether it is a staging folder of this user's that no run on this system holds. Raises OSError."""
        found = base.look(name)
        if found is None or not _is_ours(found):
            return False
        with base.folder(name) as folder:
            return not folder.is_held()

    def mark(self, job: str, output: str, file: str | None, made: list[str]) -> Mark:
        return Mark(1, job, output, file, self.base.path, self.name, _id(self._folder.facts()), made)

    def flavour(self) -> Flavour:
        """Try out what names this very folder can store and tell apart: mounts differ, not only systems."""
        if self._folder.look(PROBE) is not None:
            self._folder.remove_tree(PROBE)
        self._folder.make(PROBE)
        try:
            with self._folder.folder(PROBE) as probe:
                _try(probe, b"a")
                folds_case = probe.look("A") is not None
                _try(probe, "\N{LATIN SMALL LETTER E WITH ACUTE}".encode())
                folds_unicode = probe.look(os.fsdecode(b"e\xcc\x81")) is not None
                windows = os.name == "nt" or not _try(probe, b"a:b?")
                utf8 = os.name == "nt" or not _try(probe, b"\xff")
        finally:
            self._folder.remove_tree(PROBE)
        return Flavour(windows, utf8, folds_case, folds_unicode)

    def journal(self) -> Journal | None:
        """What an earlier publishing wrote; None if there was none."""
        if self._folder.look(JOURNAL) is None:
            return None
        with open(self._folder.open(JOURNAL, os.O_RDONLY), "rb") as file:
            return msgspec.convert(json.load(file), Journal)

    def write_journal(self, journal: Journal) -> None:
        """Durable when this returns: no move happens without its line."""
        raw = json.dumps(msgspec.to_builtins(journal)).encode()  # stdlib: names may hold lone surrogates
        fresh = f"{JOURNAL}.new"
        with open(self._folder.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        self._folder.replace(fresh, self._folder, JOURNAL)
        self._folder.sync()

    def remove(self) -> None:
        """Close and remove, unless something else stands under that name by now. Raises OSError."""
        ours = _id(self._folder.facts())
        self.tree.close()
        self._folder.close()
        found = self.base.look(self.name)
        try:
            if found is not None and _id(found) == ours:
                self.base.remove_tree(self.name)
        finally:
            self.base.close()

    def close(self) -> None:
        """Let go, and keep everything for another run."""
        self.tree.close()
        self._folder.close()
        self.base.close()


def new_name(job: str) -> str:
    """For the staging folder of a job; no other has it."""
    return stem(job) + secrets.token_hex(8)


def stem(job: str) -> str:
    """How the names of a job's staging folders begin."""
    label = re.sub(r"[^0-9A-Za-z]", "", job)[:32]
    return f"{STAGING_PREFIX}{label}-"


def remove_forgotten(base: Path, name: str) -> None:
    """What a run made under this name and died before it could write down more of it. Raises OSError."""
    if not name.startswith(STAGING_PREFIX):
        return
    with Folder.at(base) as here:
        found = here.look(name)
        if found is not None and _is_ours(found):
            here.remove_tree(name)


def read_mark(raw: bytes) -> Mark | None:
    """None for what is no mark of this version."""
    try:
        mark = msgspec.convert(json.loads(raw), Mark)
    except (ValueError, msgspec.ValidationError):
        return None
    return mark if mark.version == 1 and mark.name.startswith(STAGING_PREFIX) else None


def write_mark(mark: Mark) -> bytes:
    return json.dumps(msgspec.to_builtins(mark)).encode()


def _id(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_ours(found: os.stat_result) -> bool:
    if not stat.S_ISDIR(found.st_mode):
        return False
    return sys.platform == "win32" or (
        found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o777 == 0o700
    )


def _try(folder: Folder, name: bytes) -> bool:
    """Whether a file of this name can be made."""
    try:
        os.close(folder.open(os.fsdecode(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EILSEQ):
            return False
        raise
    return True
