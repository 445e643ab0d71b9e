"""What there is below the paths that somebody named, as entries in a fixed order."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transfer.errors import MissingPath, SourceChanged, SourceTrouble, UsageError
from transfer.model import MAX_ENTRIES, MAX_PATH, Entry, EntryKind
from transfer.paths import MAX_DEPTH, STAGING_PREFIX, printable
from transfer.source import OPEN_FLAGS, Links, SourceFile, Tree, facts_of, kind_of, patterns, reason_of

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


def scan(paths: Sequence[Path], *, exclude: Sequence[str] = (), links: Links = "preserve") -> Tree:
    """Everything below these paths, as entries.

    `a/b/c.txt` becomes `c.txt`, `dir` and `dir/` become `dir/…`, `.` takes the folder's real name. A path
    that is itself a link is followed: whoever names it means what it leads to.

    Args:
        exclude: gitignore patterns, as if they stood in a `.gitignore` inside each folder named. Files
            named are matched by their name; so are folders, if several paths are named (`send *`).
        links: `preserve` sends links as links, `follow` what they lead to, `skip` leaves them out.
    Raises:
        MissingPath: a path is not there.
        UsageError: two paths have the same name, a path is neither file nor folder, a pattern is none.
    """
    spec = patterns(exclude, "--exclude")
    roots: dict[str, Path] = {}
    for path in paths:
        name = _root_name(path)
        if name in roots:
            raise UsageError(
                f"two of the paths are called {printable(name)}",
                hint="send them one by one, or send the folder above them",
            )
        roots[name] = path
    scanner = _Scanner(spec, links)
    for name in sorted(roots, key=os.fsencode):
        scanner.root(name, roots[name], by_name=len(roots) > 1)
    return scanner.finish()


def named(files: Sequence[SourceFile]) -> Tree:
    """These files, and no folders; in the order of their names.

    Raises SourceChanged, SourceTrouble for the first that is not as it should be, UsageError for two of the same name.
    """
    tree = Tree()
    for file in sorted(files, key=lambda file: file.name):
        shown = printable(file.name)
        try:
            fd = os.open(file.path, OPEN_FLAGS)
        except FileNotFoundError:
            raise SourceChanged(f"{shown} is not there any more") from None
        except OSError as error:
            raise SourceTrouble(
                f"{shown} cannot be read: {reason_of(error)}", hint="mend that and run the same command again"
            ) from None
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if not stat.S_ISREG(found.st_mode) or (file.facts is not None and facts_of(found) != file.facts):
            raise SourceChanged(f"{shown} has changed since it was looked at")
        if tree.entries and tree.entries[-1].path == file.name:
            raise UsageError(f"two files are to be sent as {shown}", hint="name each once")
        entry = Entry(file.name, EntryKind.FILE, found.st_size, found.st_mode & 0o777, found.st_mtime_ns, b"")
        tree.add(entry, file.path, facts_of(found))
    return tree


def _root_name(path: Path) -> str:
    name = path.name if path.name != ".." else ""
    name = name or os.path.basename(os.path.realpath(path))
    if not name:
        raise UsageError(
            f"{printable(str(path))} has no name to send it under", hint="name what is inside it"
        )
    if name.startswith(STAGING_PREFIX):
        raise UsageError(
            f"{printable(name)} looks like a temporary folder of xfer, and no receiver takes that name",
            hint="rename it",
        )
    return name


class _Level(NamedTuple):
    """One folder being listed.

    rest: what is left of it. relative: its path in the transfer. inside: its path for patterns, empty or
    with a final slash. seen: device and inode of it and of the folders above, when links are followed.
    """

    rest: Iterator[os.DirEntry[str]]
    relative: bytes
    inside: str
    seen: frozenset[tuple[int, int]]


class _Scanner:
    def __init__(self, spec: GitIgnoreSpec | None, links: Links) -> None:
        self._spec = spec
        self._links = links
        self._tree = Tree()
        self._inodes: set[tuple[int, int]] = set()
        self._skipped = 0
        self._copies = 0
        self._first_copy = ""
        self._stack: list[_Level] = []

    def root(self, name: str, path: Path, *, by_name: bool) -> None:
        """by_name: whether the patterns may leave out a folder that the caller named."""
        real = os.path.realpath(path)
        shown = printable(str(path))
        try:
            found = os.stat(real)
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                raise MissingPath(
                    f"{shown} is a link to nowhere", hint="mend the link, or leave it out"
                ) from None
            raise MissingPath(f"{shown} is not there") from None
        except OSError as error:
            self._tree.unreadable.append((shown, reason_of(error)))
            return
        raw = os.fsencode(name)
        if stat.S_ISDIR(found.st_mode):
            if not (by_name and self._excluded(f"{name}/")):
                self._folder(real, raw, "", found, frozenset())
                self._walk()
        elif stat.S_ISREG(found.st_mode):
            if not self._excluded(name):
                self._file(real, raw)
        else:
            given = printable(f"{shlex.quote(name)} < {shlex.quote(str(path))}")
            raise UsageError(
                f"{shown} is {kind_of(found.st_mode)}, not a file or folder",
                hint=f"pipe what it gives: `xfer send - --name {given}`",
            )

    def finish(self) -> Tree:
        notices = self._tree.notices
        if self._skipped:
            notices.append(_many(self._skipped, "link is left out", "links are left out"))
        if self._copies:
            text = _many(self._copies, "hard link is sent as a copy", "hard links are sent as copies")
            notices.append(f"{text}: {self._first_copy}" + (", …" if self._copies > 1 else ""))
        return self._tree

    def _walk(self) -> None:
        """Depth first, every folder before what it holds, names in the order of their bytes."""
        while self._stack:
            level = self._stack[-1]
            found = next(level.rest, None)
            if found is None:
                self._stack.pop()
            else:
                self._visit(found, level)

    def _visit(self, found: os.DirEntry[str], level: _Level) -> None:
        relative = level.relative + b"/" + os.fsencode(found.name)
        inside = f"{level.inside}{found.name}"
        try:
            if found.is_symlink():
                if not self._excluded(inside):
                    self._link(found.path, relative, inside, level.seen)
            elif found.is_dir(follow_symlinks=False):
                if sys.version_info >= (3, 12) and found.is_junction():
                    self._tree.notices.append(f"{printable(relative)} is a junction and is left out")
                elif not self._excluded(f"{inside}/"):
                    self._folder(found.path, relative, f"{inside}/", os.lstat(found.path), level.seen)
            elif not self._excluded(inside):
                if found.is_file(follow_symlinks=False):
                    self._file(found.path, relative)
                else:
                    self._special(relative, found.stat(follow_symlinks=False).st_mode)
        except OSError as error:
            self._unreadable(relative, error)

    def _link(self, path: str, relative: bytes, inside: str, seen: frozenset[tuple[int, int]]) -> None:
        if self._links == "skip":
            self._skipped += 1
        elif self._links == "preserve":
            found = os.lstat(path)
            target = os.readlink(path)
            if os.name == "nt":
                target = target.removeprefix("\\\\?\\").replace("\\", "/")
            self._add(relative, EntryKind.LINK, 0o777, path, found, os.fsencode(target))
        else:
            real = os.path.realpath(path)
            found = os.stat(real)
            if stat.S_ISREG(found.st_mode):
                self._file(real, relative)
            elif not stat.S_ISDIR(found.st_mode):
                self._special(relative, found.st_mode)
            elif (found.st_dev, found.st_ino) in seen:
                self._tree.notices.append(
                    f"{printable(relative)} leads back to a folder above it and is left out"
                )
            elif not self._excluded(f"{inside}/"):
                self._folder(real, relative, f"{inside}/", found, seen)

    def _folder(
        self,
        path: str,
        relative: bytes,
        inside: str,
        found: os.stat_result,
        seen: frozenset[tuple[int, int]],
    ) -> None:
        if relative.count(b"/") >= MAX_DEPTH - 1:
            self._tree.unreadable.append((printable(relative), "it is nested too deeply"))
            return
        try:
            with os.scandir(path) as listing:
                content = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            self._unreadable(relative, error)
            return
        if self._add(relative, EntryKind.DIRECTORY, found.st_mode, path, found):
            seen = seen | {(found.st_dev, found.st_ino)} if self._links == "follow" else seen
            self._stack.append(_Level(iter(content), relative, inside, seen))

    def _file(self, path: str, relative: bytes) -> None:
        """Opened for real: ACLs and network file systems have the last word on what is readable."""
        try:
            fd = os.open(path, OPEN_FLAGS)
        except OSError as error:
            self._unreadable(relative, error)
            return
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if not stat.S_ISREG(found.st_mode):
            self._special(relative, found.st_mode)
        elif self._add(relative, EntryKind.FILE, found.st_mode, path, found) and found.st_nlink > 1:
            inode = (found.st_dev, found.st_ino)
            if inode in self._inodes:
                self._copies += 1
                self._first_copy = self._first_copy or printable(relative)
            self._inodes.add(inode)

    def _add(
        self,
        relative: bytes,
        kind: EntryKind,
        mode: int,
        path: str,
        found: os.stat_result,
        target: bytes = b"",
    ) -> bool:
        if len(relative) > MAX_PATH:
            self._tree.unreadable.append((printable(relative), "its name is too long"))
            return False
        if len(self._tree.entries) >= MAX_ENTRIES:
            raise UsageError(
                f"more than {MAX_ENTRIES} entries do not fit one transfer", hint="send fewer at once"
            )
        size = found.st_size if kind is EntryKind.FILE else 0
        entry = Entry(relative, kind, size, mode & 0o777, found.st_mtime_ns, target)
        self._tree.add(entry, path, facts_of(found))
        return True

    def _special(self, relative: bytes, mode: int) -> None:
        self._tree.notices.append(f"{printable(relative)} is {kind_of(mode)} and is left out")

    def _unreadable(self, relative: bytes, error: OSError) -> None:
        self._tree.unreadable.append((printable(relative), reason_of(error)))

    def _excluded(self, name: str) -> bool:
        return self._spec is not None and self._spec.match_file(name)


def _many(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"
