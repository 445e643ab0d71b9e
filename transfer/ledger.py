"""The ledger: what this side knows to be safe. One SQLite file (WAL, 0600) in the state folder.

Every commit survives the death of the process; the last ones may be lost with the machine, which
costs a resend and never a wrong byte, because a resuming side checks the ledger's claims (digests
against the disk, parts against the store) before it relies on them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from transfer.database import Database
from transfer.model import FrameId, IndexedFrame, Kind

SCHEMA_VERSION = 4
KEYS_KEPT = LABELS_KEPT = 365 * 86_400.0
"""Seconds for which an idempotency key, and what was sent, is remembered after its job was begun."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY, side TEXT NOT NULL, job TEXT NOT NULL, key BLOB NOT NULL, secret BLOB NOT NULL,
  receiver TEXT NOT NULL, created REAL NOT NULL, label TEXT NOT NULL, state BLOB NOT NULL, UNIQUE (side, job, key));
CREATE INDEX IF NOT EXISTS jobs_by_key ON jobs (side, key);
CREATE TABLE IF NOT EXISTS sources (id INTEGER PRIMARY KEY, place BLOB NOT NULL, facts BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS sources_by_place ON sources (place);
CREATE TABLE IF NOT EXISTS frames (
  id INTEGER, kind INTEGER, idx INTEGER, digest BLOB NOT NULL, PRIMARY KEY (id, kind, idx)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (id INTEGER, idx INTEGER, raw BLOB NOT NULL, PRIMARY KEY (id, idx)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
  id INTEGER, segment INTEGER, upload TEXT NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (id, segment)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
  id INTEGER, segment INTEGER, part INTEGER, length INTEGER NOT NULL, crc32c TEXT NOT NULL, frames BLOB NOT NULL,
  PRIMARY KEY (id, segment, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (
  consumer BLOB, number INTEGER, place BLOB NOT NULL, had INTEGER NOT NULL, PRIMARY KEY (consumer, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS self (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS idempotency (
  scope TEXT, key TEXT, job TEXT NOT NULL, secret BLOB NOT NULL, source BLOB NOT NULL, created REAL NOT NULL,
  summary BLOB NOT NULL, PRIMARY KEY (scope, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS labels (job TEXT PRIMARY KEY, label TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS labels_by_age ON labels (created);
"""


class JobRow(NamedTuple):
    """A job this side has not ended yet.

    key: what finds it again: the source's identity (send) or the destination (fetch).
    receiver: this receiver's id, kept over resumes ("" for a sender). label: for people.
    """

    id: int
    job: str
    key: bytes
    secret: bytes
    receiver: str
    created: float
    label: str


class PartRow(NamedTuple):
    """A part that was about to be stored: whether it was is the store's to say. crc32c: base64, as S3 says it."""

    segment: int
    part: int
    length: int
    crc32c: str
    frames: tuple[IndexedFrame, ...]


class SegmentRow(NamedTuple):
    """size: bytes once it is complete, 0 while its upload is open."""

    segment: int
    upload: str
    size: int


class Delivery(NamedTuple):
    """An item of a room that is on its way to this host. place: where it goes. had: it is there; only the room does not
    know yet."""

    number: int
    place: bytes
    had: bool


class SourceRow(NamedTuple):
    """What a send reads from. place: what finds it again if it changed. facts: what it looked like, packed."""

    place: bytes
    facts: bytes


class KeyRow(NamedTuple):
    """The job that was begun with an idempotency key. source: its identity. summary: as packed by `settle`, empty before."""

    job: str
    secret: bytes
    source: bytes
    summary: bytes


_ADD_PART = "INSERT OR REPLACE INTO parts VALUES (?,?,?,?,?,?)"
_frames_encoder = msgspec.msgpack.Encoder()
_frames_decoder = msgspec.msgpack.Decoder(tuple[IndexedFrame, ...])


class Ledger(Database):
    """Usable from several threads; several processes may have the same file open."""

    def __init__(self, path: Path) -> None:
        """Opens or creates. Raises XferError for a file that is none or of a newer xfer, DiskFull."""
        super().__init__(path, "ledger", _SCHEMA, SCHEMA_VERSION, lost="unfinished transfers then start anew")

    # jobs

    def add(
        self,
        side: str,
        job: str,
        key: bytes,
        secret: bytes,
        *,
        receiver: str = "",
        label: str = "",
        state: bytes = b"",
        source: SourceRow | None = None,
        blocks: Mapping[int, bytes] | None = None,
        stored: Iterable[PartRow] = (),
        created: float | None = None,
    ) -> JobRow:
        """side: `send` or `fetch`. The same job, side and key again gives the row that is there.

        state, source, blocks, stored: what is known of it from the start, in the same commit. stored: a
        complete segment each, as one part. created: seconds since 1970, None for now.
        """
        now = time.time()
        begun = now if created is None else created
        with self._transaction():
            added = self._db.execute(
                "INSERT OR IGNORE INTO jobs (side, job, key, secret, receiver, created, label, state) VALUES (?,?,?,?,?,?,?,?)",
                (side, job, key, secret, receiver, begun, label, state),
            )
            if side == "send":
                self._insert_label(job, label, begun, now)
            if added.rowcount:
                number = added.lastrowid
                if source is not None:
                    self._db.execute("INSERT OR REPLACE INTO sources VALUES (?,?,?)", (number, *source))
                rows = [(number, index, raw) for index, raw in (blocks or {}).items()]
                self._db.executemany("INSERT INTO blocks VALUES (?,?,?)", rows)
                self._insert_stored(number, stored)
        found = self.find(side, key, job)
        assert found is not None
        return found

    def find(self, side: str, key: bytes, job: str | None = None) -> JobRow | None:
        """The newest unfinished job of that key (and id, if given)."""
        return next(iter(self.select(side, key=key, job=job)), None)

    def select(
        self, side: str, *, key: bytes | None = None, job: str | None = None, place: bytes | None = None
    ) -> list[JobRow]:
        """The unfinished jobs of which all that is given is true, newest first."""
        rows = self._query(
            "SELECT j.id, job, key, secret, receiver, created, label FROM jobs j LEFT JOIN sources s ON s.id = j.id"
            " WHERE side = ?1 AND (?2 IS NULL OR key = ?2) AND (?3 IS NULL OR job = ?3) AND (?4 IS NULL OR place = ?4)"
            " ORDER BY j.id DESC",
            (side, key, job, place),
        )
        return [JobRow(*row) for row in rows]

    def unfinished(self, side: str) -> list[JobRow]:
        """All of one side, oldest first."""
        return self.select(side)[::-1]

    def source(self, job: JobRow) -> SourceRow | None:
        """None for a fetch."""
        rows = self._query("SELECT place, facts FROM sources WHERE id = ?", (job.id,))
        return SourceRow(*rows[0]) if rows else None

    def state(self, job: JobRow) -> bytes:
        """What the caller last kept with `set_state`; empty at first."""
        rows = self._query("SELECT state FROM jobs WHERE id = ?", (job.id,))
        return bytes(rows[0][0]) if rows else b""

    def set_state(self, job: JobRow, state: bytes) -> None:
        with self._transaction():
            self._db.execute("UPDATE jobs SET state = ? WHERE id = ?", (state, job.id))

    def end(self, job: JobRow) -> None:
        """Forget a job: it is done, or given up for good."""
        with self._transaction():
            for table in ("frames", "blocks", "segments", "parts", "sources", "jobs"):
                self._db.execute(f"DELETE FROM {table} WHERE id = ?", (job.id,))

    # what was sent: it outlives the job's own row as well

    def keep_label(self, job: str, label: str) -> None:
        """Of a send that has no row."""
        now = time.time()
        with self._transaction():
            self._insert_label(job, label, now, now)

    def labels(self) -> dict[str, str]:
        """By job: what was sent from here, for people."""
        return dict(self._query("SELECT job, label FROM labels", ()))

    def drop_label(self, job: str) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM labels WHERE job = ?", (job,))

    # idempotency keys: they outlive the job's own row

    def keyed(self, scope: str, key: str) -> KeyRow | None:
        """scope: whose key it is."""
        rows = self._query(
            "SELECT job, secret, source, summary FROM idempotency WHERE scope = ? AND key = ?", (scope, key)
        )
        return KeyRow(*rows[0]) if rows else None

    def keep_key(self, scope: str, key: str, job: str, secret: bytes, source: bytes) -> None:
        """From now on the key means this job, which has not ended. Forgets keys of long ago."""
        now = time.time()
        with self._transaction():
            self._db.execute("DELETE FROM idempotency WHERE created < ?", (now - KEYS_KEPT,))
            self._db.execute(
                "INSERT OR REPLACE INTO idempotency VALUES (?,?,?,?,?,?,?)",
                (scope, key, job, secret, source, now, b""),
            )

    def settle(self, job: str, summary: bytes) -> None:
        """The job ended well: whoever comes with its key, if it has one, is told this."""
        with self._transaction():
            self._db.execute("UPDATE idempotency SET summary = ? WHERE job = ?", (summary, job))

    # frames

    def add_frames(self, job: JobRow, frames: Iterable[tuple[FrameId, bytes]]) -> None:
        """Frames that are written (fetch), with the digest of their raw bytes. One commit."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO frames VALUES (?,?,?,?)",
                [(job.id, f.kind, f.index, d) for f, d in frames],
            )

    def chunks(self, job: JobRow) -> int:
        """How many chunks are written (fetch)."""
        query = "SELECT count(*) FROM frames WHERE id = ? AND kind = ?"
        return int(self._query(query, (job.id, Kind.CHUNK))[0][0])

    def frames(self, job: JobRow) -> dict[FrameId, bytes]:
        rows = self._query("SELECT kind, idx, digest FROM frames WHERE id = ?", (job.id,))
        return {FrameId(Kind(kind), index): digest for kind, index, digest in rows}

    def drop_frames(self, job: JobRow, frames: Iterable[FrameId]) -> None:
        """They turned out not to be there."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM frames WHERE id = ? AND kind = ? AND idx = ?",
                [(job.id, f.kind, f.index) for f in frames],
            )

    def add_block(self, job: JobRow, index: int, raw: bytes) -> None:
        """A manifest block as it was decoded; also counts as a frame once `add_frames` says so."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO blocks VALUES (?,?,?)", (job.id, index, raw))

    def blocks(self, job: JobRow) -> dict[int, bytes]:
        return dict(self._query("SELECT idx, raw FROM blocks WHERE id = ? ORDER BY idx", (job.id,)))

    # what a sender stores

    def add_segment(self, job: JobRow, segment: int, upload: str) -> None:
        """Its upload is open. Forgets the parts of an earlier upload of the same segment."""
        with self._transaction():
            self._db.execute("DELETE FROM parts WHERE id = ? AND segment = ?", (job.id, segment))
            self._db.execute("INSERT OR REPLACE INTO segments VALUES (?,?,?,0)", (job.id, segment, upload))

    def complete_segment(self, job: JobRow, segment: int, size: int) -> None:
        with self._transaction():
            self._db.execute(
                "UPDATE segments SET size = ? WHERE id = ? AND segment = ?", (size, job.id, segment)
            )

    def add_stored(self, job: JobRow, parts: Iterable[PartRow]) -> None:
        """Complete segments that were not known here, each as one part. Replaces what was known of them."""
        with self._transaction():
            self._insert_stored(job.id, parts)

    def segments(self, job: JobRow) -> list[SegmentRow]:
        rows = self._query(
            "SELECT segment, upload, size FROM segments WHERE id = ? ORDER BY segment", (job.id,)
        )
        return [SegmentRow(*row) for row in rows]

    def add_part(self, job: JobRow, part: PartRow) -> None:
        """Before its PUT: a part in the store that the ledger does not know could never be used."""
        with self._transaction():
            self._db.execute(_ADD_PART, _part_values(job.id, part))

    def drop_parts(self, job: JobRow, segment: int, parts: Iterable[int]) -> None:
        """The store does not have them."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM parts WHERE id = ? AND segment = ? AND part = ?",
                [(job.id, segment, p) for p in parts],
            )

    def parts(self, job: JobRow) -> list[PartRow]:
        rows = self._query(
            "SELECT segment, part, length, crc32c, frames FROM parts WHERE id = ? ORDER BY segment, part",
            (job.id,),
        )
        return [
            PartRow(s, p, length, crc, _frames_decoder.decode(frames)) for s, p, length, crc, frames in rows
        ]

    # what comes out of rooms

    def begin_delivery(self, consumer: bytes, number: int, place: bytes) -> None:
        """Nothing new for one that has begun. consumer: whose, of which room."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO deliveries VALUES (?,?,?,0)", (consumer, number, place))

    def delivered(self, consumer: bytes, number: int) -> None:
        with self._transaction():
            self._db.execute(
                "UPDATE deliveries SET had = 1 WHERE consumer = ? AND number = ?", (consumer, number)
            )

    def end_deliveries(self, consumer: bytes, numbers: Iterable[int]) -> None:
        """The room knows, or they are given up."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM deliveries WHERE consumer = ? AND number = ?", [(consumer, n) for n in numbers]
            )

    def deliveries(self, consumer: bytes) -> dict[int, Delivery]:
        """By number."""
        rows = self._query("SELECT number, place, had FROM deliveries WHERE consumer = ?", (consumer,))
        return {number: Delivery(number, place, bool(had)) for number, place, had in rows}

    def name(self) -> str:
        """Of this ledger, unlike any other: made once."""
        with self._transaction():
            if self._db.execute("SELECT count(*) FROM self").fetchone()[0] == 0:
                self._db.execute("INSERT INTO self VALUES (?)", (secrets.token_hex(8),))
        return str(self._query("SELECT name FROM self", ())[0][0])

    def _insert_label(self, job: str, label: str, created: float, now: float) -> None:
        """Forgets those of long ago."""
        self._db.execute("DELETE FROM labels WHERE created < ?", (now - LABELS_KEPT,))
        self._db.execute("INSERT OR REPLACE INTO labels VALUES (?,?,?)", (job, label, created))

    def _insert_stored(self, job: int | None, parts: Iterable[PartRow]) -> None:
        for part in parts:
            self._db.execute("DELETE FROM parts WHERE id = ? AND segment = ?", (job, part.segment))
            row = (job, part.segment, "", part.length)
            self._db.execute("INSERT OR REPLACE INTO segments VALUES (?,?,?,?)", row)
            self._db.execute(_ADD_PART, _part_values(job, part))


def _part_values(job: int | None, part: PartRow) -> tuple[object, ...]:
    frames = _frames_encoder.encode(part.frames)
    return job, part.segment, part.part, part.length, part.crc32c, frames
