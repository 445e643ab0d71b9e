"""A job that was begun with other files goes on with these only if they are the same, by content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from transfer.adopted import compare, manifest_of
from transfer.chunks import MIB, Manifest, make_manifest, manifest_blocks
from transfer.codec import digest_of
from transfer.errors import SourceChanged, UsageError
from transfer.events import Event, Waiting
from transfer.meter import Meter
from transfer.model import MAX_ENTRIES_IN_BLOCK, TRAILER, Entry, EntryKind, FrameId, Kind
from transfer.scan import scan

DIRECTORY = Entry(b"d", EntryKind.DIRECTORY, 0, 0o755, 1)
FILE = Entry(b"d/f", EntryKind.FILE, 7, 0o644, 2)
LINK = Entry(b"d/l", EntryKind.LINK, 0, 0o777, 3, b"f")
LOCAL = [DIRECTORY, FILE, LINK]


def blocks_of(entries: Sequence[Entry]) -> dict[int, bytes]:
    return dict(enumerate(manifest_blocks(make_manifest(entries))))


def test_times_and_modes_of_the_stored_manifest_are_the_jobs() -> None:
    stored = [replace(entry, mode=0o400, mtime=9) for entry in LOCAL]
    manifest = manifest_of(make_manifest(LOCAL), blocks_of(stored))
    assert manifest.entries == stored
    assert list(manifest_blocks(manifest)) == list(blocks_of(stored).values())


def test_chunks_are_as_long_as_those_that_are_stored() -> None:
    local = make_manifest([replace(FILE, size=3 * MIB)])
    head = replace(local.head, chunk_size=4 * MIB)
    assert local.chunks == 3
    assert manifest_of(local, dict(enumerate(manifest_blocks(Manifest(head, local.entries))))).chunks == 1


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (
            [DIRECTORY, replace(FILE, size=8), LINK],
            "d/f has 7 bytes, and 8 in the transfer that was begun",
        ),
        ([DIRECTORY, LINK], "d/f is not in the transfer that was begun"),
        (
            [DIRECTORY, replace(FILE, path=b"d/e"), FILE, LINK],
            "d/e is in the transfer that was begun, and not here",
        ),
        (
            [*LOCAL, replace(FILE, path=b"d/z", size=0)],
            "d/z is in the transfer that was begun, and not here",
        ),
        ([DIRECTORY, FILE], "the link d/l is not in the transfer that was begun"),
        (
            [DIRECTORY, FILE, replace(LINK, target=b"g")],
            "the link d/l leads elsewhere than in the transfer that was begun",
        ),
        (
            [DIRECTORY, FILE, Entry(b"d/l", EntryKind.FILE, 0, 0, 0)],
            "the link d/l is not of the same kind as in the transfer that was begun",
        ),
    ],
)
def test_the_first_difference_is_named(stored: list[Entry], said: str) -> None:
    with pytest.raises(SourceChanged) as refused:
        manifest_of(make_manifest(LOCAL), blocks_of(stored))
    assert refused.value.what == said
    assert refused.value.exit_code == 6


def test_a_streams_ticket_is_told_as_such() -> None:
    stored = blocks_of([replace(FILE, path=b"f", size=None)])
    with pytest.raises(UsageError, match="of a stream"):
        manifest_of(make_manifest([replace(FILE, path=b"f")]), stored)


def test_a_manifest_of_which_a_part_is_stored_is_made_up_with_local_entries() -> None:
    local = [Entry(b"%06d" % n, EntryKind.FILE, n, 0o644, 5) for n in range(2 * MAX_ENTRIES_IN_BLOCK + 10)]
    stored = [replace(entry, mtime=6) for entry in local]
    blocks = blocks_of(stored)
    del blocks[1]
    manifest = manifest_of(make_manifest(local), blocks)
    times = [entry.mtime for entry in manifest.entries]
    assert times == [6] * MAX_ENTRIES_IN_BLOCK + [5] * MAX_ENTRIES_IN_BLOCK + [6] * 10
    with pytest.raises(SourceChanged, match=f"{len(local) - 1} entries with"):
        manifest_of(make_manifest(local[:-1]), {0: blocks[0]})


async def test_bytes_that_differ_are_found_and_their_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    large, small = tmp_path / "d" / "large", [tmp_path / "d" / f"small{n}" for n in range(3)]
    large.write_bytes(os.urandom(3 * MIB))
    for path in small:
        path.write_bytes(os.urandom(100))
    tree = scan([tmp_path / "d"])
    manifest = make_manifest(tree.entries)
    whole = large.read_bytes() + b"".join(path.read_bytes() for path in small)
    stored = {FrameId(Kind.CHUNK, n): digest_of(whole[n * MIB : (n + 1) * MIB]) for n in range(4)}
    stored |= {TRAILER: bytes(32), FrameId(Kind.MANIFEST, 0): bytes(32)}
    told: list[Event] = []
    await compare(tree, manifest, stored, Meter(told.append))
    assert any(isinstance(event, Waiting) and "comparing" in event.what for event in told)
    for number, said in (
        (2, "d/large does not hold"),
        (3, "one of the 3 files from d/small0 to d/small2 does not hold"),
    ):
        other = {**stored, FrameId(Kind.CHUNK, number): bytes(32)}
        with pytest.raises(SourceChanged) as refused:
            await compare(tree, manifest, other, Meter(told.append))
        assert refused.value.what == f"{said} the bytes that are stored of it"
        assert refused.value.exit_code == 6
    tree.close()
