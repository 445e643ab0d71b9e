"""A folder held open: every operation takes one name inside it and follows no link.

Where the system has it, a folder is a descriptor and names are resolved against that (`dir_fd`), so a
folder that is swapped for a link meanwhile changes nothing. Elsewhere (Windows) it is a path, and each
step down is checked first. Errors are OSError, and UnsafeName where a link stands in the way; `explained`
turns the former into the library's own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

from transfer.errors import NO_ROOM, DiskFull, NotAllowed, UnsafeName, XferError
from transfer.paths import printable

if sys.platform != "win32":
    import fcntl

HAS_DIR_FD: Final = {os.open, os.mkdir, os.stat, os.rename, os.symlink, os.unlink} <= os.supports_dir_fd
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
FILE_FLAGS: Final = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO put in a file's place must not make the open wait
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_RENAME_EXCLUSIVE = 4 if sys.platform == "darwin" else 1
"""RENAME_EXCL of renameatx_np(2) on macOS, RENAME_NOREPLACE of renameat2(2) on Linux."""
_CANNOT_EXCLUSIVELY = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


class Folder:
    """Closing is the holder's duty; a Folder is also a context manager."""

    def __init__(self, path: str, fd: int | None) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def at(cls, path: Path) -> Folder:
        """The folder a user named: links on the way there are theirs, and are followed."""
        real = os.path.realpath(path)
        return cls(real, os.open(real, _FOLDER_FLAGS) if HAS_DIR_FD else None)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def facts(self) -> os.stat_result:
        return os.stat(self.path if self._fd is None else self._fd)

    def folder(self, name: str) -> Folder:
        """The folder of this name. Raises UnsafeName if it is a link or no folder any more."""
        path = os.path.join(self.path, name)
        try:
            if self._fd is not None:
                return Folder(path, os.open(name, _FOLDER_FLAGS, dir_fd=self._fd))
            if not _is_plain_folder(os.lstat(path)):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", path)
            return Folder(path, None)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                raise _in_the_way(path) from None
            raise

    def descend(self, parts: tuple[str, ...]) -> Folder:
        """A folder further down, each step checked; a new holding of this one for no parts."""
        here = Folder(self.path, None if self._fd is None else os.dup(self._fd))
        for name in parts:
            with here:
                here = here.folder(name)
        return here

    def hold(self) -> None:
        """Until it is closed, or the process dies, `is_held` says so on this system, if the file system can."""
        if sys.platform != "win32" and self._fd is not None:
            with suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_SH)  # whoever asks `is_held` lets go at once

    def is_held(self) -> bool:
        """By another holding of it, or nobody can tell."""
        if sys.platform == "win32" or self._fd is None:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return False

    def make(self, name: str) -> None:
        """A new private folder (0700). Raises FileExistsError."""
        os.mkdir(self._at(name), 0o700, dir_fd=self._fd)

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """A descriptor of the file. mode: if it is made, less the umask. Raises UnsafeName for a link."""
        try:
            return os.open(self._at(name), flags | FILE_FLAGS, mode, dir_fd=self._fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise _in_the_way(os.path.join(self.path, name)) from None
            raise

    def look(self, name: str) -> os.stat_result | None:
        """What stands under this name, a link itself and not its target; None if nothing does."""
        try:
            return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def make_link(self, name: str, target: str) -> None:
        os.symlink(target.replace("/", "\\") if os.name == "nt" else target, self._at(name), dir_fd=self._fd)

    def touch(self, name: str, mtime: int, fd: int | None = None) -> None:
        """Set the modification time (ns since 1970), as near as the file system can. fd: if it is open anyway."""
        try:
            if fd is not None and os.utime in os.supports_fd:
                os.utime(fd, ns=(mtime, mtime))
            elif os.utime in os.supports_follow_symlinks:
                os.utime(self._at(name), ns=(mtime, mtime), dir_fd=self._fd, follow_symlinks=False)
            elif not os.path.islink(self._at(name)):
                os.utime(self._at(name), ns=(mtime, mtime))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOVERFLOW):  # before 1901, say: it keeps its own
                raise

    def chmod(self, mode: int) -> None:
        """Set the mode of the folder itself. Windows has no modes."""
        if self._fd is not None:
            chmod_file(self._fd, mode)

    def replace(self, name: str, to: Folder, new: str) -> None:
        """Move, in one step; a file or link that is there already is replaced."""
        os.replace(self._at(name), to._at(new), src_dir_fd=self._fd, dst_dir_fd=to._fd)

    def move(self, name: str, to: Folder, new: str) -> None:
        """Move, in one step where the system can; never replaces. Raises FileExistsError."""
        if self._fd is None or to._fd is None:
            os.rename(self._at(name), to._at(new))  # on Windows rename never replaces
        elif not _rename_exclusively(self._fd, name, to._fd, new):
            self._move_in_steps(name, to, new)

    def _move_in_steps(self, name: str, to: Folder, new: str) -> None:
        """Without an exclusive rename. A kill in between leaves both names, or an empty folder."""
        found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.mkdir(new, 0o700, dir_fd=to._fd)  # a rename may replace an empty folder, and nothing else
            os.rename(name, new, src_dir_fd=self._fd, dst_dir_fd=to._fd)
            return
        try:
            os.link(name, new, src_dir_fd=self._fd, dst_dir_fd=to._fd, follow_symlinks=False)
            os.unlink(name, dir_fd=self._fd)
        except OSError:  # taken, or no hard links either (FAT), where a look leaves an instant for others
            if to.look(new) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
            os.rename(name, new, src_dir_fd=self._fd, dst_dir_fd=to._fd)

    def remove(self, name: str) -> None:
        os.unlink(self._at(name), dir_fd=self._fd)

    def remove_tree(self, name: str) -> None:
        """Remove a folder and all in it, following no link."""
        shutil.rmtree(self._at(name), dir_fd=self._fd)

    def sync(self) -> None:
        """Make names in this folder durable. Windows journals them itself."""
        if self._fd is not None:
            sync_file(self._fd)

    def sync_everything(self) -> None:
        """Make all that was written on this file system durable: one call instead of one a file."""
        if sys.platform != "win32" and self._fd is not None:
            libc = _libc()
            if not hasattr(libc, "syncfs"):
                os.sync()
            elif libc.syncfs(self._fd):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), self.path)

    def _at(self, name: str) -> str:
        return os.path.join(self.path, name) if self._fd is None else name


def sync_file(fd: int) -> None:
    """fsync, and on macOS what fsync means elsewhere. Source: fsync(2) of macOS, F_FULLFSYNC."""
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in _CANNOT_EXCLUSIVELY:
                raise
    os.fsync(fd)


def chmod_file(fd: int, mode: int) -> None:
    """Permission bits of an open file or folder. Windows has none."""
    if sys.platform != "win32":
        os.fchmod(fd, mode)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an OSError into the library's own. what: «the file x», already printable."""
    try:
        yield
    except OSError as error:
        raise trouble(what, error) from error


def trouble(what: str, error: OSError) -> XferError:
    reason = (error.strerror or type(error).__name__).lower()
    if error.errno == errno.EFBIG:
        return DiskFull(
            f"{what} is larger than the file system allows", hint="choose another file system with -o"
        )
    if error.errno in NO_ROOM:
        why = "" if error.errno == errno.ENOSPC else f": {reason}"  # which says no more
        return DiskFull(f"there is no room left for {what}{why}")
    if error.errno in _FORBIDDEN:
        return NotAllowed(
            f"{what} cannot be written: {reason}",
            hint="choose another folder with -o, or mend its permissions",
        )
    return XferError(f"{what} cannot be written: {reason}", hint="check the disk, or choose another with -o")


def _in_the_way(path: str) -> UnsafeName:
    return UnsafeName(
        f"{printable(path)} is a link or no folder, and is not followed",
        hint="move it away, or choose another folder with -o",
    )


def _is_plain_folder(found: os.stat_result) -> bool:
    """On Windows a junction is a folder to stat, yet leads elsewhere: its reparse tag gives it away."""
    return stat.S_ISDIR(found.st_mode) and not getattr(found, "st_reparse_tag", 0)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _rename_exclusively(old_fd: int, old: str, new_fd: int, new: str) -> bool:
    """In one atomic step. False: this system or file system cannot. Raises OSError (FileExistsError)."""
    name = "renameatx_np" if sys.platform == "darwin" else "renameat2"
    call = getattr(_libc(), name, None)
    if call is None:
        return False
    if call(old_fd, os.fsencode(old), new_fd, os.fsencode(new), ctypes.c_uint(_RENAME_EXCLUSIVE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCLUSIVELY:
        return False
    raise OSError(number, os.strerror(number), new)
