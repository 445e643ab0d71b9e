"""An exclusive lock on a file, released by the system when the process dies."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import TracebackType

from transfer.errors import Locked


class FileLock:
    """Held from construction to `close`, which removes the file. After a kill it stays, and only the lock matters.

    Raises:
        Locked: another process has it. what: what that process does, for the sentence.
    """

    def __init__(self, path: Path, what: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._handle = _locked(path, what)
        while not _is_there(self._handle, path):  # its last holder removed it before we had the lock
            os.close(self._handle)
            self._handle = _locked(path, what)

    def close(self) -> None:
        if self._handle >= 0:
            with contextlib.suppress(OSError):  # Windows removes no open file: there it stays
                self._path.unlink()
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_held(path: Path) -> bool:
    """Whether somebody has it now. Makes nothing, and keeps nobody from it for longer than a look takes."""
    if not path.exists():
        return False
    try:
        FileLock(path, "").close()
    except Locked:
        return True
    return False


def _locked(path: Path, what: str) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise Locked(f"another run {what}") from None
    return handle


def _is_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
