"""The ledger: what was committed is there after any death, and every trouble has a clear sentence."""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from transfer.errors import DiskFull, XferError
from transfer.ledger import SCHEMA_VERSION, Delivery, JobRow, KeyRow, Ledger, PartRow, SegmentRow, SourceRow
from transfer.model import TRAILER, FrameId, IndexedFrame, Kind

ROOT = Path(__file__).resolve().parents[2]
SOON = 20.0
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX modes and limits")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path)) as opened:
        yield opened


def chunk(index: int) -> FrameId:
    return FrameId(Kind.CHUNK, index)


def digest(index: int) -> bytes:
    return index.to_bytes(32, "big")


def part(segment: int, number: int, frames: int = 2) -> PartRow:
    rows = tuple(IndexedFrame(Kind.CHUNK, n, 1000 + n, digest(n)) for n in range(frames))
    return PartRow(segment, number, sum(r.length for r in rows), "AAAAAA==", rows)


def in_another_process(code: str, *args: str | Path) -> subprocess.Popen[str]:
    """Runs code with `ledger` imported and `path` = the first argument. Talks over its pipes."""
    head = (
        "import sys; from pathlib import Path; from transfer.ledger import *; from transfer.model import *\n"
        "from transfer.errors import *; path = Path(sys.argv[1])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# jobs


def test_the_same_job_again_gives_the_row_that_is_there(ledger: Ledger) -> None:
    first = ledger.add("fetch", "job", b"key", b"secret", receiver="r1", label="a label")
    again = ledger.add("fetch", "job", b"key", b"other", receiver="r2")
    assert again == first
    assert (first.job, first.key, first.secret, first.receiver, first.label) == (
        "job",
        b"key",
        b"secret",
        "r1",
        "a label",
    )


def test_side_key_and_job_tell_rows_apart(ledger: Ledger) -> None:
    rows = [
        ledger.add(side, job, key, b"s")
        for side, job, key in itertools.product(("send", "fetch"), ("j1", "j2"), (b"k1", b"k2"))
    ]
    assert len({row.id for row in rows}) == 8
    found = ledger.find("send", b"k1", "j1")
    assert found is not None
    assert found.id == rows[0].id
    assert ledger.find("send", b"k1", "j3") is None
    assert ledger.find("neither", b"k1") is None


def test_a_key_alone_finds_its_newest_job(ledger: Ledger) -> None:
    ledger.add("send", "older", b"k", b"s")
    newer = ledger.add("send", "newer", b"k", b"s")
    assert ledger.find("send", b"k") == newer


def test_jobs_are_found_by_any_of_what_is_known_newest_first(ledger: Ledger) -> None:
    here, there = SourceRow(b"here", b"facts"), SourceRow(b"there", b"")
    first = ledger.add("send", "j1", b"k1", b"s", source=here)
    second = ledger.add("send", "j2", b"k2", b"s", source=here)
    third = ledger.add("send", "j2", b"k1", b"s", source=there)
    fourth = ledger.add("fetch", "j1", b"k1", b"s")
    assert ledger.select("send") == [third, second, first]
    assert ledger.select("send", place=b"here") == [second, first]
    assert ledger.select("send", key=b"k1") == [third, first]
    assert ledger.select("send", key=b"k1", place=b"here", job="j1") == [first]
    assert ledger.select("send", place=b"nowhere") == []
    assert (ledger.source(first), ledger.source(fourth)) == (here, None)


def test_unfinished_lists_one_side_oldest_first_until_a_job_ends(ledger: Ledger) -> None:
    first, second = (ledger.add("send", job, b"k", b"s") for job in ("j1", "j2"))
    ledger.add("fetch", "j3", b"k", b"s")
    assert ledger.unfinished("send") == [first, second]
    ledger.end(first)
    assert ledger.unfinished("send") == [second]


def test_the_state_is_what_was_kept_last(ledger: Ledger) -> None:
    row = ledger.add("fetch", "j", b"k", b"s")
    assert ledger.state(row) == b""
    ledger.set_state(row, b"one")
    ledger.set_state(row, b"two\0three")
    assert ledger.state(row) == b"two\0three"


def test_the_end_of_a_job_forgets_all_of_it_and_nothing_of_others(ledger: Ledger) -> None:
    source = SourceRow(b"place", b"facts")
    gone, kept = (ledger.add("send", job, b"k", b"s", source=source) for job in ("j1", "j2"))
    for row in (gone, kept):
        ledger.add_frames(row, [(chunk(0), digest(0))])
        ledger.add_block(row, 0, b"block")
        ledger.add_segment(row, 0, "upload")
        ledger.add_part(row, part(0, 1))
        ledger.set_state(row, b"state")
    ledger.end(gone)
    everything = (ledger.frames, ledger.blocks, ledger.segments, ledger.parts, ledger.source, ledger.state)
    assert not any(of(gone) for of in everything)
    assert all(of(kept) for of in everything)
    assert ledger.find("send", b"k", "j1") is None


# frames, blocks, segments, parts


def test_frames_are_kept_with_their_digests_until_they_are_dropped(ledger: Ledger) -> None:
    row = ledger.add("fetch", "j", b"k", b"s")
    frames = [
        (FrameId(Kind.MANIFEST, 0), digest(9)),
        *((chunk(n), digest(n)) for n in (0, 5, 2**32 - 1)),
        (TRAILER, digest(8)),
    ]
    ledger.add_frames(row, frames)
    ledger.add_frames(row, [(chunk(5), digest(55))])
    assert ledger.frames(row) == {**dict(frames), chunk(5): digest(55)}
    assert all(isinstance(frame.kind, Kind) for frame in ledger.frames(row))
    ledger.drop_frames(row, [chunk(5), chunk(77), FrameId(Kind.MANIFEST, 5)])
    assert set(ledger.frames(row)) == {frame for frame, _ in frames} - {chunk(5)}


def test_blocks_are_kept_as_they_were_decoded(ledger: Ledger) -> None:
    row = ledger.add("fetch", "j", b"k", b"s")
    ledger.add_block(row, 1, b"second")
    ledger.add_block(row, 0, b"first\0")
    assert list(ledger.blocks(row).items()) == [(0, b"first\0"), (1, b"second")]


def test_a_new_upload_of_a_segment_forgets_the_parts_of_the_earlier_one(ledger: Ledger) -> None:
    row = ledger.add("send", "j", b"k", b"s")
    for number in (0, 1):
        ledger.add_segment(row, number, f"upload {number}")
        ledger.add_part(row, part(number, 1))
    ledger.add_segment(row, 0, "again")
    assert ledger.segments(row) == [SegmentRow(0, "again", 0), SegmentRow(1, "upload 1", 0)]
    assert [(p.segment, p.part) for p in ledger.parts(row)] == [(1, 1)]


def test_parts_come_back_in_order_with_their_frames(ledger: Ledger) -> None:
    row = ledger.add("send", "j", b"k", b"s")
    parts = [part(s, p, frames=p) for s in (0, 1) for p in (1, 2, 10)]
    for each in reversed(parts):
        ledger.add_part(row, each)
    assert ledger.parts(row) == parts
    ledger.drop_parts(row, 1, [2, 10, 11])
    assert [(p.segment, p.part) for p in ledger.parts(row)] == [(0, 1), (0, 2), (0, 10), (1, 1)]


def test_what_is_stored_of_a_job_from_its_start_is_there_in_one_commit(ledger: Ledger) -> None:
    stored = [part(0, 1), part(1, 1)]
    row = ledger.add(
        "send",
        "j",
        b"k",
        b"s",
        state=b"state",
        source=SourceRow(b"p", b"f"),
        blocks={0: b"raw"},
        stored=stored,
    )
    assert ledger.segments(row) == [SegmentRow(0, "", 2001), SegmentRow(1, "", 2001)]
    assert (ledger.parts(row), ledger.blocks(row), ledger.state(row)) == (stored, {0: b"raw"}, b"state")
    again = ledger.add("send", "j", b"k", b"s", state=b"other", blocks={0: b"other"}, stored=[part(2, 1)])
    assert again == row
    assert (ledger.parts(row), ledger.blocks(row), ledger.state(row)) == (stored, {0: b"raw"}, b"state")


def test_a_segment_that_another_host_stored_replaces_what_was_known_of_it(ledger: Ledger) -> None:
    row = ledger.add("send", "j", b"k", b"s")
    ledger.add_segment(row, 0, "upload")
    for number in (1, 2):
        ledger.add_part(row, part(0, number))
    ledger.add_stored(row, [part(0, 1, 1), part(1, 1, 3)])
    assert ledger.segments(row) == [SegmentRow(0, "", 1000), SegmentRow(1, "", 3003)]
    assert ledger.parts(row) == [part(0, 1, 1), part(1, 1, 3)]


def test_only_chunks_are_counted(ledger: Ledger) -> None:
    row, other = (ledger.add("fetch", job, b"k", b"s") for job in ("j1", "j2"))
    ledger.add_frames(row, [(FrameId(Kind.MANIFEST, 0), digest(9)), (TRAILER, digest(8))])
    assert ledger.chunks(row) == 0
    ledger.add_frames(row, [(chunk(n), digest(n)) for n in range(3)])
    assert (ledger.chunks(row), ledger.chunks(other)) == (3, 0)


def test_a_complete_segment_has_its_size(ledger: Ledger) -> None:
    row = ledger.add("send", "j", b"k", b"s")
    ledger.add_segment(row, 0, "upload")
    ledger.complete_segment(row, 0, 8 << 20)
    assert ledger.segments(row) == [SegmentRow(0, "upload", 8 << 20)]


def test_a_commit_that_fails_in_its_middle_leaves_nothing_of_itself(ledger: Ledger) -> None:
    row = ledger.add("fetch", "j", b"k", b"s")

    def frames() -> Iterator[tuple[FrameId, bytes]]:
        yield chunk(0), digest(0)
        raise RuntimeError("the caller's own trouble")

    with pytest.raises(RuntimeError):
        ledger.add_frames(row, frames())
    assert ledger.frames(row) == {}
    ledger.add_frames(row, [(chunk(1), digest(1))])  # and the ledger is usable
    assert set(ledger.frames(row)) == {chunk(1)}


# deaths, neighbours, troubles


def test_what_was_committed_survives_kill_9(path: Path) -> None:
    child = in_another_process(
        """
ledger = Ledger(path)
row = ledger.add("fetch", "j", b"k", b"s")
for n in range(10**9):
    ledger.add_frames(row, [(FrameId(Kind.CHUNK, n), n.to_bytes(32, "big"))])
    print(n, flush=True)
""",
        path,
    )
    assert child.stdout is not None
    told = -1
    while told < 150:
        told = int(child.stdout.readline())
    child.kill()
    for line in child.stdout:
        if line.endswith("\n"):  # one that kill -9 cut off told nothing
            told = int(line)
    assert child.communicate()[1] == ""
    with closing(Ledger(path)) as ledger:
        row = ledger.find("fetch", b"k")
        assert row is not None
        found = ledger.frames(row)
    assert {chunk(n): digest(n) for n in range(told + 1)}.items() <= found.items()
    assert len(found) - (told + 1) in (0, 1)  # committed but not told of, at most the one


def test_two_processes_write_at_once_and_lose_nothing(path: Path) -> None:
    code = """
ledger = Ledger(path)
row = ledger.add("fetch", "j", sys.argv[2].encode(), b"s")
for n in range(60):
    ledger.add_frames(row, [(FrameId(Kind.CHUNK, n), n.to_bytes(32, "big"))])
"""
    children = [in_another_process(code, path, f"key{n}") for n in range(2)]
    assert [child.communicate(timeout=60)[1] for child in children] == ["", ""]
    with closing(Ledger(path)) as ledger:
        rows = ledger.unfinished("fetch")
        assert [len(ledger.frames(row)) for row in rows] == [60, 60]


def test_many_that_make_the_ledger_at_the_same_moment_all_get_it(tmp_path: Path) -> None:
    """Switching a new file to WAL needs it alone, and SQLite's own waiting does not cover that."""
    threads = 8
    for attempt in range(6):
        gate = threading.Barrier(threads)

        def opened(_: int, gate: threading.Barrier = gate, path: Path = tmp_path / f"{attempt}.db") -> int:
            gate.wait()
            with closing(Ledger(path)) as ledger:
                return len(ledger.unfinished("send"))

        with ThreadPoolExecutor(threads) as pool:
            assert list(pool.map(opened, range(threads))) == [0] * threads


def test_a_neighbour_that_writes_while_the_file_is_switched_to_wal_is_waited_for(path: Path) -> None:
    """SQLite gives up at once here: it holds a read lock itself, and fears a deadlock."""
    path.parent.mkdir(parents=True)
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.1, lambda: holder.execute("COMMIT"))
    release.start()
    with closing(Ledger(path)) as ledger:
        ledger.add("send", "j", b"k", b"s")
    release.join()
    holder.close()


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    row = ledger.add("fetch", "j", b"k", b"s")
    gate = threading.Barrier(2)

    def frames(first: int, lock_step: bool) -> Iterator[tuple[FrameId, bytes]]:
        """The first one lingers in its transaction until the other has had every chance to enter it."""
        for n in range(first, first + 20):
            if n == first + 10 and lock_step:
                gate.wait(SOON)
                other.join(0.2)
            yield chunk(n), digest(n)

    def write() -> None:
        gate.wait(SOON)
        ledger.add_frames(row, frames(100, lock_step=False))

    with ThreadPoolExecutor(1) as pool:
        other = threading.Thread(target=lambda: errors.append(pool.submit(write).exception(SOON)))
        errors: list[BaseException | None] = []
        other.start()
        ledger.add_frames(row, frames(0, lock_step=True))
        other.join(SOON)
    assert errors == [None]
    assert ledger.frames(row).keys() == {chunk(n) for n in (*range(20), *range(100, 120))}


@posix_only
def test_nobody_else_may_read_it_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(Ledger(path)) as ledger:
            ledger.add("send", "j", b"k", b"a secret")
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in path.parent.iterdir()}
        assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), 0o600)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_file_that_is_no_ledger_says_so_and_stays_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"these are somebody's notes\n" * 100)
    with pytest.raises(XferError, match="is damaged") as caught:
        Ledger(path)
    assert "move that file away" in caught.value.next_step
    assert path.read_bytes().startswith(b"these are")


def test_a_ledger_damaged_in_its_middle_says_so(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        row = ledger.add("fetch", "j", b"k", b"s")
        ledger.add_frames(row, [(chunk(n), digest(n)) for n in range(3000)])
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(XferError, match="is damaged"), closing(Ledger(path)) as ledger:
        ledger.frames(row)


def test_a_key_means_its_latest_job_and_outlives_the_row_of_that(ledger: Ledger) -> None:
    assert ledger.keyed("local/ann", "k") is None
    ledger.keep_key("local/ann", "k", "one", b"s1", b"source")
    ledger.keep_key("local/ann", "k", "two", b"s2", b"source")
    ledger.keep_key("local/bob", "k", "bobs", b"s3", b"other")
    row = ledger.add("send", "two", b"key", b"s2")
    ledger.settle("two", b"it went well")
    ledger.end(row)
    assert ledger.keyed("local/ann", "k") == KeyRow("two", b"s2", b"source", b"it went well")
    assert ledger.keyed("local/bob", "k") == KeyRow("bobs", b"s3", b"other", b"")
    ledger.settle("without a key", b"nobody asks")


def test_a_key_of_long_ago_is_forgotten(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    ledger.keep_key("s", "old", "one", b"", b"")
    monkeypatch.setattr(time, "time", lambda: now + 365 * 24 * 3600 - 60)
    ledger.keep_key("s", "recent", "two", b"", b"")
    assert ledger.keyed("s", "old") is not None
    monkeypatch.setattr(time, "time", lambda: now + 365 * 24 * 3600 + 60)
    ledger.keep_key("s", "new", "three", b"", b"")
    assert ledger.keyed("s", "old") is None
    assert ledger.keyed("s", "recent") is not None


def test_what_was_sent_is_known_for_a_year_after_the_job_ended(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    ledger.end(ledger.add("send", "one", b"k", b"s", label="a file"))
    ledger.add("fetch", "two", b"k", b"s", label="/in")
    ledger.keep_label("three", "a stream")
    assert ledger.labels() == {"one": "a file", "three": "a stream"}
    ledger.drop_label("three")
    monkeypatch.setattr(time, "time", lambda: now + 365 * 24 * 3600 + 60)
    ledger.add("send", "four", b"k", b"s", label="another")
    assert ledger.labels() == {"four": "another"}


def test_a_job_that_is_begun_anew_is_as_old_as_it_was(ledger: Ledger) -> None:
    assert ledger.add("send", "j", b"k", b"s", created=1000.0).created == 1000.0


def test_a_ledger_of_before_there_were_keys_learns_them_and_keeps_its_jobs(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        row = ledger.add("send", "j", b"k", b"s")
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE idempotency")
        db.execute("DROP TABLE labels")
        db.execute("PRAGMA user_version = 2")
    with closing(Ledger(path)) as ledger:
        assert ledger.unfinished("send") == [row]
        ledger.keep_key("s", "k", "j", b"s", b"source")
        assert ledger.keyed("s", "k") is not None
        assert ledger.labels() == {}


def test_a_ledger_of_a_newer_xfer_says_so_and_stays_as_it_is(path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(XferError, match="newer xfer") as caught:
        Ledger(path)
    assert "upgrade" in caught.value.next_step
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)


def test_a_ledger_that_cannot_be_opened_says_why_in_our_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder.db").mkdir()
    for path in (tmp_path / "file" / "ledger.db", tmp_path / "folder.db"):
        with pytest.raises(XferError, match=r"the ledger .* cannot be") as caught:
            Ledger(path)
        assert "XFER_HOME" in caught.value.next_step


@posix_only
@pytest.mark.parametrize("limit", [0, 20_000, 200_000])
def test_a_full_disk_is_told_as_such_and_what_was_committed_stays(path: Path, limit: int) -> None:
    child = in_another_process(
        """
import resource
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
done = -1
try:
    ledger = Ledger(path)
    row = ledger.add("fetch", "j", b"k", b"s")
    for n in range(10**9):
        ledger.add_frames(row, [(FrameId(Kind.CHUNK, n), n.to_bytes(32, "big"))])
        done = n
except DiskFull as error:
    print(done, error.exit_code, "no room" in error.what)
""",
        path,
        str(limit),
    )
    out, errors = child.communicate(timeout=60)
    assert not errors
    done, code, said = out.split()
    assert (code, said) == ("5", "True")
    assert int(done) > 10 or limit < 200_000
    with closing(Ledger(path)) as ledger:
        row = ledger.find("fetch", b"k")
        found = ledger.frames(row) if row is not None else {}
        assert found == {chunk(n): digest(n) for n in range(int(done) + 1)}


def test_no_room_for_even_an_empty_ledger_is_told_as_such(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transfer.database.os.open", full)
    with pytest.raises(DiskFull, match="no room"):
        Ledger(path)


def test_a_lock_held_for_too_long_is_told_as_such(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.database.BUSY_SECONDS", 0.05)
    with closing(Ledger(path)) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(XferError, match="another program holds the ledger"):
            ledger.add("send", "j", b"k", b"s")
        other.execute("ROLLBACK")
        ledger.add("send", "j", b"k", b"s")


def test_it_opens_again_and_again_with_what_was_in_it(path: Path) -> None:
    rows: list[JobRow] = []
    for number in range(3):
        with ExitStack() as stack:
            ledger = stack.enter_context(closing(Ledger(path)))
            rows.append(ledger.add("send", f"j{number}", b"k", b"s"))
            assert ledger.unfinished("send") == rows


# what comes out of rooms


def test_a_delivery_is_under_way_until_it_is_had_and_ends_when_the_room_knows(ledger: Ledger) -> None:
    assert ledger.deliveries(b"ann") == {}
    ledger.begin_delivery(b"ann", 1, b"in/a")
    ledger.begin_delivery(b"ann", 2, b"in/b")
    ledger.begin_delivery(b"bob", 1, b"elsewhere")
    ledger.begin_delivery(b"ann", 1, b"another place")
    ledger.delivered(b"ann", 1)
    assert ledger.deliveries(b"ann") == {1: Delivery(1, b"in/a", True), 2: Delivery(2, b"in/b", False)}
    assert ledger.deliveries(b"bob") == {1: Delivery(1, b"elsewhere", False)}
    ledger.end_deliveries(b"ann", [1, 3])
    assert list(ledger.deliveries(b"ann")) == [2]
    assert list(ledger.deliveries(b"bob")) == [1]


def test_a_ledger_has_a_name_of_its_own_that_it_keeps(path: Path, tmp_path: Path) -> None:
    with closing(Ledger(path)) as ledger, closing(Ledger(tmp_path / "other.db")) as other:
        name = ledger.name()
        assert len(bytes.fromhex(name)) == 8
        assert ledger.name() == name != other.name()
    with closing(Ledger(path)) as again:
        assert again.name() == name


def test_what_is_not_said_of_a_job_is_empty_and_of_a_fresh_key_too(ledger: Ledger) -> None:
    row = ledger.add("send", "j", b"k", b"s")
    assert (row.receiver, row.label, ledger.state(row), ledger.source(row)) == ("", "", b"", None)
    assert (ledger.blocks(row), ledger.segments(row), ledger.parts(row)) == ({}, [], [])
    ledger.end(row)
    assert ledger.state(row) == b""


def test_a_segment_that_is_stored_whole_has_no_upload_to_go_on_with(ledger: Ledger) -> None:
    row = ledger.add("send", "j", b"k", b"s", stored=[part(4, 1)], blocks={0: b"zero", 1: b"one"})
    assert ledger.segments(row) == [SegmentRow(4, "", part(4, 1).length)]
    assert ledger.blocks(row) == {0: b"zero", 1: b"one"}


def test_a_ledger_says_that_it_is_of_version_4_so_that_older_ones_leave_it_alone(path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (4,)
