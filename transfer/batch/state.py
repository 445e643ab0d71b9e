"""What a batch knows of its files from run to run: `batch.db` in the state folder. Commits survive the machine's end, too.

A scope is a room (or another label) with a root. In it each file, by its key, goes through these steps. Every step is one
commit, so that a crash leaves the state before or after it; the last column is what the next run then does.

| step          | from           | commit                                                       | found after a crash            |
|---------------|----------------|--------------------------------------------------------------|--------------------------------|
| `intend`      | new, changed   | an order: a fresh ticket, and files with facts and digests   | content the same: sent again   |
|               |                |                                                              | under that ticket, which is    |
|               |                |                                                              | idempotent; else recovered     |
| `sent`        | order          | its files are `sent`; the order is owed a receipt            | the receipt is collected       |
| `dropped`     | order          | the order is forgotten: it was voided before it was complete | its files are new or changed   |
| `received`    | owed           | its files are `received`; the order and its secret are gone  | removed, if that is asked for  |
| `lapsed`      | owed           | its files are `lapsed`: no receipt can come any more         | nothing; the files stay        |
| `removing`    | received       | the file is `removing`, and where it is moved to             | removed if it is still there   |
| `kept`        | removing       | the file is `received` again: it could not be removed        | removed, if that is asked for  |
| `removed`     | removing       | the file is forgotten                                        | one of that name is a new one  |

A file's row tells of its newest version that was sent; an order of a newer version stands beside it until that is sent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from transfer.database import Database
from transfer.source import Facts
from transfer.ticket import Ticket

SCHEMA_VERSION = 1
_PAGE = 500
"""Rows that are read at once."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS scopes (id INTEGER PRIMARY KEY, room TEXT NOT NULL, root BLOB NOT NULL, UNIQUE (room, root));
CREATE TABLE IF NOT EXISTS orders (
  job TEXT PRIMARY KEY, scope INTEGER NOT NULL, secret BLOB NOT NULL, owed INTEGER NOT NULL, made REAL NOT NULL);
CREATE INDEX IF NOT EXISTS orders_by_scope ON orders (scope, owed, job);
CREATE TABLE IF NOT EXISTS order_files (
  job TEXT, key BLOB, name BLOB NOT NULL, facts BLOB NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (job, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
  scope INTEGER, key BLOB, name BLOB NOT NULL, facts BLOB NOT NULL, digest BLOB NOT NULL, job TEXT NOT NULL,
  state TEXT NOT NULL, sent REAL NOT NULL, received REAL, target BLOB, PRIMARY KEY (scope, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_job ON files (job);
CREATE INDEX IF NOT EXISTS files_to_remove ON files (scope, key) WHERE state IN ('received', 'removing');
CREATE TABLE IF NOT EXISTS failures (
  scope INTEGER, key BLOB, count INTEGER NOT NULL, reason TEXT NOT NULL, failed REAL NOT NULL,
  PRIMARY KEY (scope, key)) WITHOUT ROWID;
"""
FileState = Literal["sent", "received", "lapsed", "removing"]


class OrderFile(NamedTuple):
    """A version of a file that is to be sent. name: what it arrives as. path: where it lies. digest: of its content."""

    key: bytes
    name: bytes
    path: str
    facts: Facts
    digest: bytes


class Order(NamedTuple):
    """A job to be done once. ticket: made with it, so that its job id is the idempotency key of all that is asked for it.

    again: an earlier run made the order, and nobody knows how far it came.
    """

    ticket: Ticket
    files: tuple[OrderFile, ...]
    again: bool = False


class Known(NamedTuple):
    """The newest version of a file that was sent, by that job. times: seconds since 1970. target: where it is moved to."""

    key: bytes
    name: bytes
    facts: Facts
    digest: bytes
    job: str
    state: FileState
    sent: float
    received: float | None
    target: str


class Failed(NamedTuple):
    """times: how often in a row. failed: the last time, seconds since 1970."""

    key: bytes
    times: int
    reason: str
    failed: float


_facts = msgspec.msgpack.Decoder(Facts)
_KNOWN = "key, name, facts, digest, job, state, sent, received, target"


class State(Database):
    """One scope of the file. Several processes may have it open; only one runs a scope's batch."""

    def __init__(self, path: Path, room: str, root: str) -> None:
        """root: the folder that keys count from; empty: keys are absolute paths. Raises XferError, DiskFull."""
        super().__init__(
            path,
            "record of batches",
            _SCHEMA,
            SCHEMA_VERSION,
            lost="everything then counts as new",
            durable=True,  # an order that is forgotten after it was sent would be sent again
        )
        self.room, self.root = room, root
        try:
            with self._transaction():
                self._db.execute(
                    "INSERT OR IGNORE INTO scopes (room, root) VALUES (?,?)", (room, os.fsencode(root))
                )
            self._scope = int(
                self._query("SELECT id FROM scopes WHERE room = ? AND root = ?", (room, os.fsencode(root)))[
                    0
                ][0]
            )
        except BaseException:
            self.close()
            raise

    def path(self, key: bytes) -> str:
        """Where the file of that key lies."""
        return os.path.join(self.root, os.fsdecode(key))

    # questions

    def known(self, key: bytes) -> Known | None:
        rows = self._query(f"SELECT {_KNOWN} FROM files WHERE scope = ? AND key = ?", (self._scope, key))
        return _known(rows[0]) if rows else None

    def failure(self, key: bytes) -> Failed | None:
        rows = self._query(
            "SELECT key, count, reason, failed FROM failures WHERE scope = ? AND key = ?", (self._scope, key)
        )
        return Failed(*rows[0]) if rows else None

    def failing(self) -> list[bytes]:
        """Keys of what failed when it was tried last."""
        return [row[0] for row in self._query("SELECT key FROM failures WHERE scope = ?", (self._scope,))]

    def unfinished(self) -> list[Order]:
        """Orders that may or may not have been sent, the oldest first."""
        rows = self._query(
            "SELECT job, secret FROM orders WHERE scope = ? AND NOT owed ORDER BY made, job", (self._scope,)
        )
        return [Order(Ticket(job, secret), self._files_of(job), again=True) for job, secret in rows]

    def owed(self) -> Iterator[Ticket]:
        """Jobs that were sent and of which no receipt was seen. The state may be changed meanwhile."""
        last = ""
        while rows := self._query(
            "SELECT job, secret FROM orders WHERE scope = ? AND owed AND job > ? ORDER BY job LIMIT ?",
            (self._scope, last, _PAGE),
        ):
            yield from (Ticket(job, secret) for job, secret in rows)
            last = rows[-1][0]

    def files_of(self, job: str) -> list[Known]:
        """Those whose newest version that job sent."""
        rows = self._query(f"SELECT {_KNOWN} FROM files WHERE job = ? AND scope = ?", (job, self._scope))
        return [_known(row) for row in rows]

    def removable(self) -> Iterator[Known]:
        """Files that somebody has, and those whose removal was begun. The state may be changed meanwhile."""
        last = b""
        while rows := self._query(
            f"SELECT {_KNOWN} FROM files WHERE scope = ? AND key > ? AND state IN ('received', 'removing')"
            " ORDER BY key LIMIT ?",
            (self._scope, last, _PAGE),
        ):
            yield from map(_known, rows)
            last = rows[-1][0]

    # steps

    def intend(self, files: Sequence[OrderFile]) -> Order:
        order = Order(Ticket.new(), tuple(files))
        with self._transaction():
            self._db.execute(
                "INSERT INTO orders VALUES (?,?,?,0,?)",
                (order.ticket.job, self._scope, order.ticket.secret, time.time()),
            )
            self._db.executemany(
                "INSERT INTO order_files VALUES (?,?,?,?,?)",
                [(order.ticket.job, f.key, f.name, msgspec.msgpack.encode(f.facts), f.digest) for f in files],
            )
        return order

    def sent(self, job: str) -> None:
        with self._transaction():
            before = self._db.execute(
                "SELECT DISTINCT f.job FROM files f JOIN order_files o ON o.key = f.key AND f.scope = ? WHERE o.job = ?",
                (self._scope, job),
            ).fetchall()
            self._db.execute(
                "INSERT OR REPLACE INTO files SELECT ?, key, name, facts, digest, job, 'sent', ?, NULL, NULL"
                " FROM order_files WHERE job = ?",
                (self._scope, time.time(), job),
            )
            self._db.execute(
                "DELETE FROM failures WHERE scope = ? AND key IN (SELECT key FROM order_files WHERE job = ?)",
                (self._scope, job),
            )
            self._db.execute("DELETE FROM order_files WHERE job = ?", (job,))
            self._db.execute("UPDATE orders SET owed = 1 WHERE job = ?", (job,))
            # Whoever has an older version of all its files: nothing here depends on that any more.
            self._db.executemany(
                "DELETE FROM orders WHERE job = ?1 AND NOT EXISTS (SELECT 1 FROM files WHERE job = ?1)",
                before,
            )

    def dropped(self, job: str) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM order_files WHERE job = ?", (job,))
            self._db.execute("DELETE FROM orders WHERE job = ?", (job,))

    def received(self, job: str, at: float) -> None:
        """at: seconds since 1970."""
        self._end(job, "received", at)

    def lapsed(self, job: str) -> None:
        self._end(job, "lapsed", None)

    def removing(self, key: bytes, target: str = "") -> None:
        """target: where it is moved to; empty: it is deleted."""
        with self._transaction():
            self._db.execute(
                "UPDATE files SET state = 'removing', target = ? WHERE scope = ? AND key = ?",
                (os.fsencode(target), self._scope, key),
            )

    def kept(self, key: bytes) -> None:
        """It could not be removed after all."""
        with self._transaction():
            self._db.execute(
                "UPDATE files SET state = 'received', target = NULL WHERE scope = ? AND key = ? AND state = 'removing'",
                (self._scope, key),
            )

    def removed(self, key: bytes) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM files WHERE scope = ? AND key = ?", (self._scope, key))
            self._db.execute("DELETE FROM failures WHERE scope = ? AND key = ?", (self._scope, key))

    # what is noted besides

    def touched(self, key: bytes, facts: Facts) -> None:
        """Its content is what was sent, and this is what it looks like now."""
        with self._transaction():
            self._db.execute(
                "UPDATE files SET facts = ? WHERE scope = ? AND key = ?",
                (msgspec.msgpack.encode(facts), self._scope, key),
            )

    def failed(self, key: bytes, reason: str) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT INTO failures VALUES (?,?,1,?,?) ON CONFLICT (scope, key) DO UPDATE"
                " SET count = count + 1, reason = excluded.reason, failed = excluded.failed",
                (self._scope, key, reason, time.time()),
            )

    def mended(self, key: bytes) -> None:
        """What failed does no more."""
        with self._transaction():
            self._db.execute("DELETE FROM failures WHERE scope = ? AND key = ?", (self._scope, key))

    def _end(self, job: str, state: FileState, at: float | None) -> None:
        with self._transaction():
            self._db.execute("UPDATE files SET state = ?, received = ? WHERE job = ?", (state, at, job))
            self._db.execute("DELETE FROM orders WHERE job = ?", (job,))

    def _files_of(self, job: str) -> tuple[OrderFile, ...]:
        rows = self._query(
            "SELECT key, name, facts, digest FROM order_files WHERE job = ? ORDER BY key", (job,)
        )
        return tuple(
            OrderFile(key, name, self.path(key), _facts.decode(facts), digest)
            for key, name, facts, digest in rows
        )


def _known(
    row: tuple[bytes, bytes, bytes, bytes, str, FileState, float, float | None, bytes | None],
) -> Known:
    key, name, facts, digest, job, state, sent, received, target = row
    return Known(
        key, name, _facts.decode(facts), digest, job, state, sent, received, os.fsdecode(target or b"")
    )
