"""What there is to send: files and folders that can be read again, or a stream that cannot."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from transfer import chunks
from transfer.codec import Codec, digest_of
from transfer.errors import MissingPath, PartialSource, UnsafeName, UsageError
from transfer.model import MAX_MANIFEST, Entry, EntryKind
from transfer.outgoing import Outgoing, OutgoingStream, digest_of_pieces
from transfer.paths import POSIX, admit
from transfer.producer import Command
from transfer.scan import named, scan
from transfer.source import Links, SourceFile, Tree
from transfer.stream import no_verdict, stream_reader

ENTRY = 32
"""Bytes of an entry in the manifest besides its names, at most."""


class Content:
    """Open until `close`.

    tree: None for a stream, which cannot be read again. manifest: replaced, before `outgoing`, where an earlier
    run sent one with other times and modes. names: at the top, or that of the only entry. label: for people.
    unreadable: (name, reason) of what will be missing.
    """

    def __init__(self, entries: Sequence[Entry], source: Tree | Command | BinaryIO) -> None:
        self.manifest = chunks.make_manifest(entries)
        self._source = source
        self.tree = source if isinstance(source, Tree) else None
        self.notices: list[str] = [] if self.tree is None else self.tree.notices
        self.unreadable: list[tuple[str, str]] = [] if self.tree is None else self.tree.unreadable
        if not self.manifest.files:
            self.notices.append("there is no file in this transfer, only folders or links")
        alone = len(entries) == 1
        self.names = sorted({e.path if alone else e.path.split(b"/")[0] for e in entries})
        shown = [name.decode(errors="replace") for name in self.names[:3]]
        self.label = ", ".join(shown) + (", …" if len(self.names) > 3 else "")

    def outgoing(self, codec: Codec) -> Outgoing | OutgoingStream:
        if isinstance(self._source, Tree):
            return Outgoing(self._source, self.manifest, codec)
        if isinstance(self._source, Command):
            return OutgoingStream(self._source.read, self.manifest, codec, self._source.verdict)
        return OutgoingStream(stream_reader(self._source), self.manifest, codec, no_verdict)

    async def stream_again(self) -> bytes | None:
        """Read a pipe to its end, so that its writer ends well, and say what it held (`outgoing.digest_of_pieces`).

        None for all else: files are compared by their identity, and a command is not run again. Raises SourceTrouble.
        """
        if isinstance(self._source, Tree | Command):
            return None
        return await digest_of_pieces(stream_reader(self._source), self.manifest)

    def identity(self) -> bytes:
        """Equal as long as the source is the same. Of a stream only its name tells, of a command its text as well."""
        if self.tree is not None:
            return self.tree.identity()
        command = self._source.text if isinstance(self._source, Command) else ""
        return digest_of(msgspec.msgpack.encode((command, [entry.path for entry in self.manifest.entries])))

    def raise_if_partial(self) -> None:
        """Raises PartialSource, once the rest was sent."""
        if self.unreadable:
            listed = ", ".join(f"{name} ({why})" for name, why in self.unreadable[:5])
            more = f" and {len(self.unreadable) - 5} more" if len(self.unreadable) > 5 else ""
            raise PartialSource(f"not sent, because not readable: {listed}{more}")

    def close(self) -> None:
        if isinstance(self._source, Tree | Command):
            self._source.close()


def of(
    paths: Sequence[str | os.PathLike[str]],
    files: Sequence[SourceFile],
    stream: BinaryIO | None,
    command: str | None,
    name: str | None,
    exclude: Sequence[str],
    links: Links,
) -> Content:
    """Whichever of the four is given. Raises UsageError for none or several."""
    if (bool(paths), bool(files), stream is not None, command is not None).count(True) != 1:
        raise UsageError("give paths, a stream or a command: one of them", hint="see `xfer send --help`")
    if stream is not None or command is not None:
        if name is None:
            raise UsageError("a stream needs a name to arrive under", hint="give one with --name")
        return of_stream(stream, name) if stream is not None else of_command(command or "", name)
    if name is not None:
        raise UsageError("--name is for stdin and --from-command; files keep their names")
    if files:
        return of_tree(named(files))
    if not all(os.fspath(path) for path in paths):  # and not the current folder, which a Path makes of it
        raise UsageError("a path to send is empty", hint="say what to send; is a variable not set?")
    return of_paths([Path(path) for path in paths], exclude, links)


def of_paths(paths: Sequence[Path], exclude: Sequence[str], links: Links) -> Content:
    """Raises MissingPath, UsageError, PartialSource if nothing at all could be read."""
    tree = scan(paths, exclude=exclude, links=links)
    if not tree.entries:
        if tree.unreadable:
            name, reason = tree.unreadable[0]
            raise PartialSource(f"{name} cannot be read ({reason}), so there is nothing to send")
        raise MissingPath("there is nothing to send: everything was left out")
    return of_tree(tree)


def of_tree(tree: Tree) -> Content:
    """Raises UsageError if its names are too many for one transfer."""
    if sum(len(e.path) + len(e.target) + ENTRY for e in tree.entries) > MAX_MANIFEST:
        raise UsageError(
            f"{len(tree.entries)} names are more than one transfer can list",
            hint="send them in several transfers",
        )
    try:
        admit(tree.entries, POSIX)
    except UnsafeName as refusal:
        tree.notices.append(f"a receiver will refuse this: {refusal.what}; {refusal.next_step}")
    return Content(tree.entries, tree)


def of_stream(stream: BinaryIO, name: str) -> Content:
    """A stream of unknown length, read once; it arrives as a file called `name`."""
    return Content([_stream_entry(name)], stream)


def of_command(command: str, name: str) -> Content:
    """A shell command's standard output, void if the command fails."""
    return Content([_stream_entry(name)], Command(command))


def _stream_entry(name: str) -> Entry:
    if not name or "/" in name or name in (".", ".."):
        raise UsageError(f"{name!r} cannot name a file", hint="give a plain name with --name")
    mode = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH
    return Entry(os.fsencode(name), EntryKind.FILE, None, mode, time.time_ns())
