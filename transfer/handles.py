"""Open files and folders kept for reuse, a bounded number of them, shared by threads."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

DIRECT = 4096
"""Bytes. Source: open(2), O_DIRECT; no common disk has larger blocks, and one that has says EINVAL."""
HOLE = 1 << 16
"""Runs of zeros are left out in blocks of this many bytes, aligned: every file system's block divides it."""
_ZEROS = bytes(HOLE)
BUSY = 0.3
"""Share of its time that a thread computes; below it, it waits: for a network file system, or a slow disk."""


class Closable(Protocol):
    def close(self) -> None: ...


K = TypeVar("K")
T = TypeVar("T", bound=Closable)


class Handles(Generic[K, T]):
    """Up to `limit` idle things stay open; the least recently used go first. What is in use never goes."""

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._held: OrderedDict[K, T] = OrderedDict()
        self._users: dict[K, int] = {}

    @contextmanager
    def use(self, key: K, open_: Callable[[], T]) -> Iterator[T]:
        """The thing of this key, opened if it is not. Opening errors reach the caller and leave no trace."""
        with self._lock:
            thing = self._held.get(key)
            if thing is None:
                thing = self._held[key] = open_()
            self._held.move_to_end(key)
            self._users[key] = self._users.get(key, 0) + 1
        try:
            yield thing
        finally:
            with self._lock:
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key]
                self._shrink(self._limit)

    def close(self) -> None:
        """Close what is idle; what is in use closes with the next `close` or when its turn comes."""
        with self._lock:
            self._shrink(0)

    def _shrink(self, limit: int) -> None:
        surplus = len(self._held) - limit
        if surplus > 0:
            for key in [k for k in self._held if k not in self._users][:surplus]:
                self._held.pop(key).close()


class Turns:
    """One thread at a time makes many small files, where that is work for the processor.

    Two would wait for each other at the folder and, at every call, for the interpreter: on a local disk they take a
    third longer than one. Where each call waits for something far away, several at once are worth as many turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = True

    @contextmanager
    def take(self) -> Iterator[None]:
        if not self._busy:
            yield
            return
        with self._lock:
            began, worked = time.perf_counter(), time.thread_time()
            yield
            self._busy = time.thread_time() - worked > BUSY * (time.perf_counter() - began)


class OpenFile:
    """A file descriptor read and written at offsets, from any thread.

    direct: another one of the same file, opened with O_DIRECT, for what is aligned to DIRECT: it goes to the disk
    past the page cache, which costs a third of the time and leaves little to be synced at the end.
    """

    def __init__(self, fd: int, direct: int | None = None) -> None:
        self.fd, self._direct = fd, direct
        self._lock = threading.Lock()  # for systems without pread and pwrite, where the position is shared

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill the view from this offset; returns the bytes read, fewer than asked only at the file's end."""
        done = 0
        while done < len(view):
            if hasattr(os, "preadv"):
                got = os.preadv(self.fd, [view[done:]], offset + done)
            else:
                data = self._read(len(view) - done, offset + done)
                got = len(data)
                view[done : done + got] = data
            if not got:
                break
            done += got
        return done

    def write(self, view: memoryview, offset: int) -> None:
        done = self._write_direct(view, offset) if self._direct is not None else 0
        while done < len(view):
            if hasattr(os, "pwrite"):
                done += os.pwrite(self.fd, view[done:], offset + done)
            else:
                with self._lock:
                    os.lseek(self.fd, offset + done, os.SEEK_SET)
                    done += os.write(self.fd, view[done:])

    def _write_direct(self, view: memoryview, offset: int) -> int:
        """How many bytes went this way, from the first on: none if they, or their place in memory, do not suit it."""
        direct = self._direct
        length = len(view) - len(view) % DIRECT
        if direct is None or offset % DIRECT or not length:
            return 0
        try:
            done = os.pwrite(direct, view[:length], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0
        return done - done % DIRECT

    def write_sparse(self, view: memoryview, offset: int) -> None:
        """Write all but whole aligned blocks of zeros, where the file has no data that they must replace."""
        done = at = 0
        while at < len(view):
            upto = min(len(view), at + HOLE - (offset + at) % HOLE)
            if view[at] == 0 and view[at:upto].tobytes() == _ZEROS and self._is_hole(offset + at):
                self.write(view[done:at], offset + done)
                done = upto
            at = upto
        self.write(view[done:], offset + done)

    def _is_hole(self, offset: int) -> bool:
        """Whether the block there reads as zeros and takes no room: what a rewrite must not assume."""
        if offset >= os.fstat(self.fd).st_size:
            return True
        if not hasattr(os, "SEEK_DATA"):
            return False
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA) >= offset + HOLE
        except OSError as error:
            return error.errno == errno.ENXIO  # no data from there on; EINVAL: this file system cannot tell

    def _read(self, length: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            data: bytes = os.pread(self.fd, length, offset)
            return data
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.read(self.fd, length)

    def close(self) -> None:
        os.close(self.fd)
        if self._direct is not None:
            os.close(self._direct)
