"""The sink that writes files and folders.

Everything is written in a private staging folder beside its final place and is published only when it is complete
(`publish`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from itertools import groupby
from pathlib import Path

from transfer.chunks import Extent, Manifest
from transfer.errors import DestinationExists, DiskFull, UsageError, XferError
from transfer.folder import Folder, explained, trouble
from transfer.handles import Handles, OpenFile, Turns
from transfer.left_over import left_over
from transfer.merge import Node, final_parts, lay_out
from transfer.model import EntryKind
from transfer.paths import Place, admit, printable
from transfer.publish import Publisher, is_private_file, replaced
from transfer.sink import Raw, absolute
from transfer.staging import Mark, Staging, new_name, read_mark, remove_forgotten, write_mark
from transfer.units import show_size

DIRECT_FROM = 64 << 20
"""Bytes from which on a file is written past the page cache: a smaller one is soon read again, from there."""
_LEFT = "{} was left by another run that fetched this to here"
_AGAIN = "then run the same command again; what has arrived is kept"
_NO_PLACE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.ENOSYS, errno.ENOTSUP}
)
"""What a system says where nothing can be made: below /proc, under a name that is too long."""


class FolderSink:
    """Writes to the file system.

    Args:
        output: a folder that exists, or anything with a final slash: into it. Else, if the transfer is
            one file, its path. Else a folder to make.
        job: part of the staging folder's name.
        overwrite: replace existing files and links, never folders.
        rename: choose a free name (`name (1).ext`) for what would stand where something is: see `final_names`.
        unsafe_links: make links that leave the folder, too.

    staging_name: of the temporary folder that `begin` makes; with it `forget` finds one that was made in vain.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        *,
        job: str,
        overwrite: bool = False,
        rename: bool = False,
        unsafe_links: bool = False,
    ) -> None:
        if overwrite and rename:
            raise UsageError("--overwrite and --rename exclude each other")
        self._output = os.fspath(output)
        self._job = job
        self._overwrite = overwrite
        self._rename = rename
        self._unsafe_links = unsafe_links
        self.notices: list[str] = []
        self.staging_name = new_name(job)
        self._staging: Staging | None = None
        self._resumed = False
        self._publishing = False
        self._published = False
        self._file: str | None = None  # the final name of a single file, where output says it
        self._made: list[str] = []  # folders made for output, deepest first
        self._places: list[Place] = []
        self._sizes: dict[int, int] = {}
        self._turns = Turns()
        self._files: Handles[int, OpenFile] = Handles()
        self._folders: Handles[tuple[str, ...], Folder] = Handles()

    @classmethod
    def resume(
        cls,
        state: bytes,
        output: str | os.PathLike[str],
        *,
        job: str,
        overwrite: bool = False,
        rename: bool = False,
        unsafe_links: bool = False,
    ) -> FolderSink | None:
        """Take up what an earlier run left; then call `begin` with the same manifest.

        None: the staging folder is gone, is not the one we made, or belongs to another job or output.
        """
        sink = cls(output, job=job, overwrite=overwrite, rename=rename, unsafe_links=unsafe_links)
        mark = read_mark(state)
        if mark is None or mark.job != job or mark.output != absolute(sink._output):
            return None
        with explained("the temporary folder"):
            sink._staging = Staging.reopen(mark)
            if sink._staging is None:
                return None
            sink._publishing = sink._staging.journal() is not None
        sink._resumed = True
        sink._file, sink._made = mark.file, mark.made
        return sink

    @staticmethod
    def forget(staging_name: str, output: str | os.PathLike[str]) -> None:
        """Remove the temporary folder of a run that died before it had a `state`. What cannot be removed stays."""
        path = Path(output).absolute()
        for base in (path, path.parent):
            with suppress(OSError):
                remove_forgotten(base, staging_name)

    @property
    def publishing(self) -> bool:
        """An earlier run verified and synced all and began to publish: `publish` is all that is left."""
        return self._publishing

    @property
    def folder(self) -> Path:
        """The folder that the top-level entries go to. From `begin` on."""
        return Path(self._open_staging().base.path)

    def begin(self, manifest: Manifest) -> None:
        with ExitStack() as undo:
            if not self._resumed:
                undo.callback(self.abandon)
                base = self._choose_base(manifest)
                with self._room_named(base):
                    _check_room(base, manifest.total)
                    with _a_place(f"the folder {printable(str(base))}"):
                        self._staging = Staging.create(base, self.staging_name)
            staging = self._open_staging()
            with explained(f"the folder {printable(staging.base.path)}"):
                flavour = staging.flavour()
                admitted = admit(manifest.entries, flavour, unsafe_links=self._unsafe_links)
                self.notices += admitted.notices
                self._places = admitted.places
                self._entries = manifest.entries
                self._root = lay_out(manifest.entries, admitted.places)
                self._finals = {self._places[0].parts[0]: self._file} if self._file else {}
                if not self._publishing:
                    self._publisher().refuse_conflicts()
                    _make_folders(self._root, staging.tree)
            undo.pop_all()

    def write(self, extents: Sequence[Extent], raw: Raw) -> None:
        if self._publishing:
            return  # all was verified and synced before publishing began, and has its final name, or will
        at = 0
        with memoryview(raw) as view, self._turns.take() if len(extents) > 1 else nullcontext():
            if len(view) != sum(extent.length for extent in extents):
                raise ValueError("as many bytes as the extents have")
            done = 0
            try:
                for parts, together in groupby(extents, self._folder_of):
                    with self._in_folder(parts) as folder:
                        for extent in together:
                            with view[at : at + extent.length] as part:
                                self._write(folder, extent, part)
                            at += extent.length
                            done += 1
            except OSError as error:
                with self._room_named(Path(self._open_staging().base.path)):
                    raise trouble(self._name(extents[done].entry), error) from error

    def read(self, extents: Sequence[Extent]) -> bytearray:
        buffer = bytearray(sum(extent.length for extent in extents))
        at = 0
        with memoryview(buffer) as view:
            for extent in extents:
                try:
                    with view[at : at + extent.length] as part, self._opened(extent, make=False) as file:
                        if file.read_into(part, extent.start) != extent.length:
                            return bytearray()
                except OSError:  # whatever it is, these bytes are not here: they will be fetched again
                    return bytearray()
                at += extent.length
        return buffer

    def set_length(self, entry: int, size: int) -> None:
        self._sizes[entry] = size

    def publish(self) -> list[Path]:
        staging = self._open_staging()
        self._files.close()
        self._folders.close()
        with explained(f"the folder {printable(staging.base.path)}"):
            publisher = self._publisher()
            try:
                names = publisher.publish()
            finally:
                self._publishing = staging.journal() is not None
            self.notices += publisher.notices
        if others := left_over(self.folder, self._job, staging.name):
            self.notices.append(f"{_LEFT.format(others)}; remove it if that will not go on")
        self._published = True
        return [Path(staging.base.path) / name for name in names]

    def state(self) -> bytes:
        staging = self._open_staging()
        return write_mark(self._mark(staging))

    def abandon(self) -> None:
        self._files.close()
        self._folders.close()
        staging, self._staging = self._staging, None
        if staging is not None:
            with explained(f"the temporary folder {staging.name}"):
                staging.remove()
        for path in self._made:
            with suppress(OSError):  # somebody else uses it by now
                os.rmdir(path)

    def close(self) -> None:
        self._files.close()
        self._folders.close()
        staging, self._staging = self._staging, None
        if staging is not None and self._published:
            with suppress(OSError):  # all is in place: a folder left over is no reason to fail
                staging.remove()
        elif staging is not None:
            staging.close()

    @contextmanager
    def _room_named(self, base: Path) -> Iterator[None]:
        """Where a full disk is told, say as well what of this very transfer takes room there for nothing."""
        try:
            yield
        except DiskFull as full:
            own = self._staging.name if self._staging is not None else ""
            if others := left_over(base, self._job, own):
                full.next_step = f"{_LEFT.format(others)}; if that will not go on, remove it; {_AGAIN}"
            raise

    def _mark(self, staging: Staging) -> Mark:
        return staging.mark(self._job, absolute(self._output), self._file, self._made)

    def _open_staging(self) -> Staging:
        if self._staging is None:
            raise ValueError("begin comes first, and nothing after publish, abandon or close")
        return self._staging

    def _publisher(self) -> Publisher:
        return Publisher(
            self._open_staging(),
            self._root,
            self._entries,
            self._places,
            self._sizes,
            self._finals,
            overwrite=self._overwrite,
            rename=self._rename,
        )

    def _choose_base(self, manifest: Manifest) -> Path:
        path = Path(self._output)
        shown = printable(self._output)
        if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
            return path
        entries = manifest.entries
        alone = len(entries) == 1 and entries[0].kind is EntryKind.FILE and b"/" not in entries[0].path
        if alone and not self._output.endswith(("/", os.sep)):
            if not os.path.isdir(path.parent):
                raise UsageError(
                    f"the folder of {shown} does not exist", hint="make it first, or name another -o"
                )
            with _a_place(f"the file {shown}"), suppress(FileNotFoundError):
                os.lstat(path)  # a name that is too long is said before a byte comes
            self._file = path.name
            return path.parent
        if os.path.lexists(path):
            raise DestinationExists(f"{shown} is there and is no folder", hint="choose a folder with -o")
        missing = path.absolute()
        while not os.path.lexists(missing):
            self._made.append(str(missing))
            missing = missing.parent
        if not missing.is_dir():
            raise DestinationExists(
                f"{printable(str(missing))} is there and is no folder", hint="choose a folder with -o"
            )
        with _a_place(f"the folder {shown}"):
            path.mkdir(parents=True)
        return path

    def _folder_of(self, extent: Extent) -> tuple[str, ...]:
        return self._places[extent.entry].parts[:-1]

    def _in_folder(self, parts: tuple[str, ...]) -> AbstractContextManager[Folder]:
        """A folder of the staging tree."""
        return self._folders.use(parts, lambda: self._open_staging().tree.descend(parts))

    def _is_whole(self, extent: Extent) -> bool:
        """A file that comes in a single piece is not kept open."""
        return extent.start == 0 and extent.length == self._entries[extent.entry].size

    def _write(self, folder: Folder, extent: Extent, part: memoryview) -> None:
        """folder: that the file is in."""
        number = extent.entry
        name, entry = self._places[number].parts[-1], self._entries[number]
        if self._is_whole(extent) and (fd := _make(folder, name, entry.mode)) is not None:
            with closing(OpenFile(fd, self._direct(number, fd))) as file:
                file.write_sparse(part, 0)
                folder.touch(name, entry.mtime, fd)  # else `publish` must open it again for that
        else:
            with self._opened(extent, make=True) as file:
                file.write_sparse(part, extent.start)

    @contextmanager
    def _opened(self, extent: Extent, *, make: bool) -> Iterator[OpenFile]:
        number = extent.entry
        if self._is_whole(extent):
            with closing(self._open_file(number, make)) as file:
                yield file
        else:
            with self._files.use(number, lambda: self._open_file(number, make)) as file:
                yield file

    def _open_file(self, number: int, make: bool) -> OpenFile:
        staging = self._open_staging()
        *above, name = self._places[number].parts
        try:
            with self._in_folder(tuple(above)) as folder:
                if make and (fd := _make(folder, name, self._entries[number].mode)) is not None:
                    return OpenFile(fd, self._direct(number, fd))
                fd = folder.open(name, os.O_RDWR)
        except FileNotFoundError:
            if not self._publishing:
                raise
            return self._open_published(staging, number)
        if not is_private_file(os.fstat(fd)):
            os.close(fd)
            raise replaced(self._entries[number].path)
        return OpenFile(fd, self._direct(number, fd))

    def _direct(self, number: int, fd: int) -> int | None:
        """Another descriptor of the very same file, whatever has its name by now."""
        size = self._entries[number].size
        flag = getattr(os, "O_DIRECT", 0)
        if not flag or (size is not None and size < DIRECT_FROM):
            return None
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | flag)
        except OSError:  # this file system cannot, or there is no /proc
            return None

    def _open_published(self, staging: Staging, number: int) -> OpenFile:
        journal = staging.journal()
        *above, name = final_parts(self._places[number].parts, journal.finals if journal is not None else {})
        with staging.base.descend(tuple(above)) as folder:
            return OpenFile(folder.open(name, os.O_RDONLY))

    def _name(self, number: int) -> str:
        return f"the file {printable(self._entries[number].path)}"


@contextmanager
def _a_place(what: str) -> Iterator[None]:
    """As `explained`, of what is to be made: that nothing can be there is for the caller to mend."""
    try:
        with explained(what):
            yield
    except XferError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_PLACE:
            raise UsageError(error.what, hint="choose another folder with -o") from error
        raise


def _check_room(base: Path, total: int | None) -> None:
    with explained(f"the folder {printable(str(base))}"):
        size, _, free = shutil.disk_usage(base)
    if total is not None and total > free and size:  # /proc has no size at all
        needs, has = show_size(total), show_size(free)
        if needs == has:
            needs, has = f"{total:,} bytes", f"{free:,}"
        raise DiskFull(f"the transfer needs {needs}, and {printable(str(base))} has {has} left")


def _make_folders(node: Node, here: Folder) -> None:
    for child in node.of(EntryKind.DIRECTORY):
        with suppress(FileExistsError):  # a resume
            here.make(child.name)
        if any(child.of(EntryKind.DIRECTORY)):
            with here.folder(child.name) as below:
                _make_folders(child, below)


def _make(folder: Folder, name: str, mode: int) -> int | None:
    """A new file, in one call, for there may be a hundred thousand of them; None if it is there already.

    Its mode is the final one, but that its owner can write it; nobody else can reach it before it is published.
    """
    try:
        return folder.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode & 0o777 | 0o600)
    except FileExistsError:  # made by an earlier run, or another thread that writes another extent of it
        return None
