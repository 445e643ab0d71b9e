"""What is sent: entries, where they lie on this machine, and thread-safe reads of them that notice any change.

A file is the same as long as its size, mtime, ctime, inode and device are; they are compared before and
after every read, so bytes of two versions never meet in one transfer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from blake3 import blake3

from transfer.chunks import Extent
from transfer.errors import SourceChanged, SourceTrouble, UsageError
from transfer.handles import Handles, OpenFile
from transfer.model import Entry
from transfer.paths import printable

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

Links = Literal["skip", "follow", "preserve"]

OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO put in a file's place must not make the open wait
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)
"""To read a file that somebody else may replace at any time."""


class Facts(NamedTuple):
    """What tells one version of a file from another. size: bytes; times: nanoseconds since 1970."""

    size: int
    mtime: int
    ctime: int
    inode: int
    device: int


def facts_of(found: os.stat_result) -> Facts:
    return Facts(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


class SourceFile(NamedTuple):
    """A file to be sent under a name of its own: with slashes, it lies in folders there. facts: it must still be as they
    say; None: as it is."""

    path: str
    name: bytes
    facts: Facts | None = None


class Tree:
    """What a scan found. Entries are in a fixed order: the same files give the same entries. facts: of each of them.

    notices: lines for people about what is not sent as it is. unreadable: (printable name, reason) of
    what should have been sent and cannot be; it has no entry.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.notices: list[str] = []
        self.unreadable: list[tuple[str, str]] = []
        self._paths: list[str] = []
        self.facts: list[Facts] = []
        self._open: Handles[int, OpenFile] = Handles()

    def identity(self) -> bytes:
        """32 bytes of BLAKE3 over names and facts of all entries: equal as long as the source is the same."""
        hasher = blake3(b"xfer source 1")
        for entry, facts in zip(self.entries, self.facts, strict=True):
            head = (len(entry.path), entry.kind, entry.mode, *facts)
            hasher.update(b" ".join(b"%d" % number for number in head) + b" " + entry.path)
        return hasher.digest()

    def read_into(self, extents: Sequence[Extent], view: memoryview) -> None:
        """The bytes of these extents, end to end; the view is as long as they are. Thread-safe.

        Raises:
            SourceChanged: a file is not what the scan saw, or is gone.
            SourceTrouble: it cannot be read.
        """
        at = 0
        for extent in extents:
            with view[at : at + extent.length] as part:
                self._read(extent, part)
            at += extent.length

    def close(self) -> None:
        self._open.close()

    def add(self, entry: Entry, path: str, facts: Facts) -> None:
        """path: where the entry's bytes lie on this machine."""
        self.entries.append(entry)
        self._paths.append(path)
        self.facts.append(facts)

    def _read(self, extent: Extent, view: memoryview) -> None:
        number = extent.entry
        if extent.start == 0 and extent.length == self.entries[number].size:
            file = self._open_file(number)  # read once, in one piece: nothing to keep open
            try:
                self._read_checked(file, extent, view)
            finally:
                file.close()
        else:
            with self._open.use(number, lambda: self._open_file(number)) as file:
                self._read_checked(file, extent, view)

    def _read_checked(self, file: OpenFile, extent: Extent, view: memoryview) -> None:
        self._check(file, extent.entry)
        try:
            got = file.read_into(view, extent.start)
        except OSError as error:
            raise self._trouble(extent.entry, error) from error
        self._check(file, extent.entry)
        if got != len(view):
            raise SourceChanged(f"{self._name(extent.entry)} became shorter while it was sent")

    def _check(self, file: OpenFile, number: int) -> None:
        if facts_of(os.fstat(file.fd)) != self.facts[number]:
            raise SourceChanged(f"{self._name(number)} changed since it was first read")

    def _open_file(self, number: int) -> OpenFile:
        try:
            return OpenFile(os.open(self._paths[number], OPEN_FLAGS))
        except PermissionError as error:
            raise self._trouble(number, error) from error
        except OSError as error:
            if os.path.lexists(self._paths[number]) and not os.path.islink(self._paths[number]):
                raise self._trouble(number, error) from error
            raise SourceChanged(f"{self._name(number)} is gone or was replaced while it was sent") from error

    def _trouble(self, number: int, error: OSError) -> SourceTrouble:
        return SourceTrouble(
            f"{self._name(number)} cannot be read any more: {reason_of(error)}",
            hint="mend that and run the same command again",
        )

    def _name(self, number: int) -> str:
        return printable(self.entries[number].path)


def patterns(lines: Sequence[str], option: str) -> GitIgnoreSpec | None:
    """What a `.gitignore` of these lines matches; None of no lines. Raises UsageError, naming the option."""
    if not lines:
        return None
    from pathspec import GitIgnoreSpec  # 5 ms that most transfers have no use for

    try:
        # To git `a/**` is what lies inside a; pathspec would take it for a itself, too.
        return GitIgnoreSpec.from_lines([line + "/*" if line.endswith("/**") else line for line in lines])
    except ValueError as error:
        raise UsageError(f"{option} does not take that pattern: {error}") from None


def kind_of(mode: int) -> str:
    """In words, of what is neither file, folder nor link."""
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def reason_of(error: OSError) -> str:
    """In lower-case words, for a sentence or a bracket."""
    return (error.strerror or type(error).__name__).lower()
