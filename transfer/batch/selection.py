"""Which files: those of a folder or of a list, as far as the rules let them through. Memory is that of the widest folder.

What cannot be read, and what is no file, comes out as well, with the reason; only a root that is not there is an error.
"""

from __future__ import annotations

import functools
import os
import signal
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pathspec import GitIgnoreSpec

from transfer.errors import MissingPath, UsageError
from transfer.model import MAX_PATH
from transfer.paths import MAX_DEPTH, STAGING_PREFIX, printable
from transfer.source import OPEN_FLAGS, Facts, facts_of, kind_of, reason_of

SETTLING = 2.0
"""Seconds between the two looks of `settled`."""
WINDOW = 1 << 14
"""Files that wait for their second look at once."""
MAX_LINE = 1 << 16
"""Bytes of a name in a list; a longer one is no path on any system."""
_BLOCK = 1 << 16


class Found(NamedTuple):
    """A file to consider. key: what the state knows it by. name: what it arrives as, relative. path: where it lies."""

    key: bytes
    name: bytes
    path: str
    facts: Facts


class Left(NamedTuple):
    """What is not sent, and why. failed: it should have been; else the rules say so, this time."""

    name: bytes
    reason: str
    failed: bool


Item = Found | Left


class Rules(NamedTuple):
    """include: only what matches, if it is given. exclude: and not what matches this.

    since: seconds since 1970 that a file must have been modified at or after. min_age: seconds for which it must not have
    been touched, counted from `now`. Times that files have from copying count for `since` alone. apart: our own file, or a
    folder with all below it, that is not sent: absolute and without links.
    """

    include: GitIgnoreSpec | None = None
    exclude: GitIgnoreSpec | None = None
    since: float | None = None
    min_age: float = 0.0
    now: float = 0.0
    apart: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        if self.exclude is not None and self.exclude.match_file(name):
            return False
        return self.include is None or self.include.match_file(name)

    def takes_tree(self, name: str) -> bool:
        """Also every folder above it, which a walk from the top would have left out."""
        parts = name.split("/")
        above = ("/".join(parts[:n]) + "/" for n in range(1, len(parts)))
        return self.takes(name) and not (self.exclude and any(map(self.exclude.match_file, above)))

    def is_apart(self, path: str) -> bool:
        return any(path == each or path.startswith(os.path.join(each, "")) for each in self.apart)

    def judge(self, key: bytes, name: bytes, path: str, found: os.stat_result) -> Item | None:
        """None: it is silently out."""
        if not stat.S_ISREG(found.st_mode):
            what = "a link" if stat.S_ISLNK(found.st_mode) else kind_of(found.st_mode)
            return Left(name, f"it is {what}", failed=False)
        if self.since is not None and found.st_mtime < self.since:
            return None
        if len(name) > MAX_PATH:
            return Left(name, "its name is too long", failed=True)
        if self.min_age and self.now - max(found.st_mtime, found.st_ctime) < self.min_age:
            return Left(name, "it is too young", failed=False)
        return Found(key, name, path, facts_of(found))


def from_folder(root: Path, rules: Rules) -> Iterator[Item]:
    """Every file below it, in the order of the bytes of their names; links are not followed, but the root itself is.

    Raises MissingPath, UsageError if the root is no folder that can be read.
    """
    top = os.path.realpath(root)
    try:
        first = _listing(top)
    except (FileNotFoundError, NotADirectoryError) as error:
        if isinstance(error, NotADirectoryError):
            raise UsageError(
                f"{printable(str(root))} is not a folder",
                hint="name a folder, or give names with --files-from",
            ) from None
        raise MissingPath(f"{printable(str(root))} is not there") from None
    except OSError as error:
        raise UsageError(
            f"{printable(str(root))} cannot be read: {reason_of(error)}", hint="mend its permissions"
        ) from None
    stack: list[tuple[Iterator[tuple[str, bool]], str, str]] = [(iter(first), top, "")]
    while stack:
        rest, folder, inside = stack[-1]
        entry = next(rest, None)
        if entry is None:
            stack.pop()
            continue
        name, is_folder = entry
        path, relative = os.path.join(folder, name), inside + name
        raw = os.fsencode(relative)
        if not is_folder:
            if (
                path not in rules.apart
                and rules.takes(relative)
                and (item := _looked_at(raw, raw, path, rules)) is not None
            ):
                yield item
        elif path not in rules.apart and not (rules.exclude and rules.exclude.match_file(f"{relative}/")):
            try:
                if len(stack) >= MAX_DEPTH:
                    yield Left(raw, "it is nested too deeply", failed=True)
                else:
                    stack.append((iter(_listing(path)), path, f"{relative}/"))
            except FileNotFoundError:
                continue
            except OSError as error:
                yield Left(raw, f"it cannot be read: {reason_of(error)}", failed=True)


def from_list(stream: BinaryIO, separator: bytes, rules: Rules, base: str | None = None) -> Iterator[Item]:
    """The files named there, each between separators, where nothing else has a meaning: no comments, no quotes.

    A name counts from `base` (the current folder) and arrives as it lies below it; what lies elsewhere arrives as its
    absolute path without the first slash. Names that are no file's are reported.
    """
    base = os.path.realpath(base or os.curdir)
    parents = functools.lru_cache(maxsize=1024)(os.path.realpath)
    for line in _records(stream, separator):
        if line is None:
            yield Left(b"", f"a name in the list is longer than {MAX_LINE} bytes", failed=True)
            continue
        if not line:
            continue
        if b"\0" in line:
            yield Left(line, "a name cannot hold a NUL: is it a list for --files-from0?", failed=True)
            continue
        text = os.fsdecode(line)
        folder, last = os.path.split(os.path.join(base, text))
        if last in ("", os.curdir, os.pardir):
            yield Left(line, "it is a folder: name its files", failed=True)
            continue
        path = os.path.join(parents(folder), last)
        if rules.is_apart(path):
            yield Left(line, "it is the report, or lies where files are moved to", failed=False)
            continue
        try:
            found = os.lstat(path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            yield Left(line, "it is not there" if missing else reason_of(error), failed=True)
            continue
        if not stat.S_ISREG(found.st_mode):
            what = "a folder: name its files" if stat.S_ISDIR(found.st_mode) else kind_of(found.st_mode)
            what = "a link: name what it leads to" if stat.S_ISLNK(found.st_mode) else what
            yield Left(line, f"it is {what}", failed=True)
            continue
        name = _name_below(base, path)
        if not last.startswith(STAGING_PREFIX) and rules.takes_tree(name):
            item = rules.judge(os.fsencode(path), os.fsencode(name), path, found)
            if item is not None:
                yield item


def settled(
    items: Iterable[Item],
    seconds: float = SETTLING,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
    window: int = WINDOW,
) -> Iterator[Item]:
    """Those whose size and times stay the same for so long, and that nobody has open for writing where that can be told.

    The order stays, and what comes behind waits along: a second look at many files costs one wait for each window.
    """
    waiting: deque[tuple[float, Item]] = deque()
    for item in items:
        waiting.append((clock() + (seconds if isinstance(item, Found) else 0.0), item))
        while waiting and (len(waiting) > window or waiting[0][0] <= clock()):
            yield _again(*waiting.popleft(), clock, pause)
    while waiting:
        yield _again(*waiting.popleft(), clock, pause)


def _again(due: float, item: Item, clock: Callable[[], float], pause: Callable[[float], object]) -> Item:
    if isinstance(item, Left):
        return item
    while (left := due - clock()) > 0:
        pause(left)
    try:
        now = facts_of(os.lstat(item.path))
    except OSError as error:
        return Left(item.name, f"it went away: {reason_of(error)}", failed=False)
    if now != item.facts or open_for_writing(item.path):
        return Left(item.name, "it is being written", failed=False)
    return item


def open_for_writing(path: str) -> bool:
    """Whether some process has it open so. False also where the system does not tell: it tells of one's own files on Linux.

    Source: fcntl(2), a read lease is refused (EAGAIN) while the file is open for writing.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        handle = os.open(path, OPEN_FLAGS)
    except OSError:
        return False
    try:
        fcntl.fcntl(
            handle, fcntl.F_SETSIG, signal.SIGURG
        )  # who opens it meanwhile has us told; SIGIO would kill
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _listing(folder: str) -> list[tuple[str, bool]]:
    """Names in the order of their bytes, and whether each is a folder; without what a fetch of ours is writing."""
    with os.scandir(folder) as entries:
        found = [
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not entry.name.startswith(STAGING_PREFIX)
        ]
    return sorted(found, key=lambda entry: os.fsencode(entry[0]))


def _looked_at(key: bytes, name: bytes, path: str, rules: Rules) -> Item | None:
    try:
        return rules.judge(key, name, path, os.lstat(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        return Left(name, f"it cannot be read: {reason_of(error)}", failed=True)


def _name_below(base: str, path: str) -> str:
    whole = Path(path)
    if whole.is_relative_to(base):
        return whole.relative_to(base).as_posix()
    return whole.relative_to(whole.anchor).as_posix()


def _records(stream: BinaryIO, separator: bytes) -> Iterator[bytes | None]:
    """What stands between separators; None for what is longer than a name can be. Reads no more than it needs."""
    pending, skipping = b"", False
    read = getattr(stream, "read1", stream.read)
    while block := read(_BLOCK):
        *whole, pending = (pending + block).split(separator)
        for record in whole:
            yield None if skipping or len(record) > MAX_LINE else record
            skipping = False
        if len(pending) > MAX_LINE:
            pending, skipping = b"", True
    if pending or skipping:
        yield None if skipping else pending
