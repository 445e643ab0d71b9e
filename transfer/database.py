"""A SQLite file of ours: WAL, 0600, with a version of its tables, and SQLite's errors in our words."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from transfer.errors import NO_ROOM, DiskFull, XferError

BUSY_SECONDS = 30.0
"""How long another process' commit is waited for."""
_UNUSABLE = "make that file and its folder writable, or choose another place with XFER_HOME"


class Database:
    """Usable from several threads; several processes may have the same file open."""

    def __init__(
        self, path: Path, what: str, schema: str, version: int, *, lost: str, durable: bool = False
    ) -> None:
        """Opens or creates. Raises XferError for a file that is none or of a newer xfer, DiskFull.

        Args:
            what: the file in one word, for sentences. lost: what it means to be without it, for another.
            schema: statements that make what is missing of the tables of `version`.
            durable: a commit also survives the end of the machine, not only of the process.
        """
        self._lock = threading.Lock()
        self._path, self._what, self._lost = path, what, lost
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._explained():
                self._switch_to_wal()
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                found = self._db.execute("PRAGMA user_version").fetchone()[0]
                if found > version:
                    raise XferError(
                        f"the {what} {path} was written by a newer xfer", hint="upgrade xfer on this machine"
                    )
                if found < version:
                    with self._transaction():
                        for statement in schema.split(";"):
                            self._db.execute(statement)
                        self._db.execute(f"PRAGMA user_version = {version}")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _switch_to_wal(self) -> None:
        """Two runs that make the file at once collide here, and SQLite's own wait does not cover this step."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _query(self, sql: str, values: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        with self._lock, self._explained():
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk may have rolled it back already
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors, and those of the file itself, in our words."""
        name = f"the {self._what} {self._path}"
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFull(f"no room for {name}") from None
            raise XferError(f"{name} cannot be opened ({error.strerror})", hint=_UNUSABLE) from None
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "full" in text or "disk I/O" in text:
                raise DiskFull(f"no room for {name}") from None
            if "locked" in text:
                raise XferError(f"another program holds {name}", hint="run the same command again") from None
            if "malformed" in text or "not a database" in text:
                raise XferError(f"{name} is damaged", hint=f"move that file away; {self._lost}") from None
            if isinstance(error, sqlite3.OperationalError):
                raise XferError(f"{name} cannot be used ({text})", hint=_UNUSABLE) from None
            raise
