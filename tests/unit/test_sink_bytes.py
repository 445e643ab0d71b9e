"""FolderSink: bytes in any order, holes, and streams of unknown length."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sinks import JOB, WHEN, Content, fetch, files_in, started, tree

from transfer.chunks import MIB, Extent, make_manifest
from transfer.folder_sink import FolderSink
from transfer.model import Entry, EntryKind

# bytes


def test_chunks_may_come_in_any_order_from_many_threads_and_twice(out: Path) -> None:
    rng = random.Random(7)
    content = Content({f"f{n}": rng.randbytes(rng.randrange(0, 900_000)) for n in range(20)})
    manifest = content.manifest
    sink = started(content, out)
    jobs = [*range(manifest.chunks or 0)] * 2
    rng.shuffle(jobs)

    def write(index: int) -> None:
        extents = manifest.extents(index)
        sink.write(extents, content.chunk(extents))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, jobs))
    assert all(content.read_back(sink))
    sink.publish()
    sink.close()
    assert files_in(out) == {f"f{n}": raw for n, raw in enumerate(content.data.values()) for n in [n]}


def test_what_was_not_written_reads_as_nothing(out: Path) -> None:
    content = tree()
    sink = started(content, out)
    assert content.read_back(sink) == [False] * (content.manifest.chunks or 0)
    sink.abandon()


def test_bytes_that_do_not_fill_their_extents_are_a_misuse(out: Path) -> None:
    sink = started(tree(), out)
    with pytest.raises(ValueError, match="as many bytes"):
        sink.write([Extent(1, 0, 3)], b"aa")
    sink.abandon()


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="holes need SEEK_DATA")
def test_runs_of_zeros_come_back_as_holes(out: Path) -> None:
    raw = os.urandom(70_000) + bytes(8 * MIB) + os.urandom(70_000) + bytes(3 * MIB)
    fetch(Content({"sparse": raw, "zeros": bytes(2 * MIB)}), out)
    assert (out / "sparse").read_bytes() == raw
    assert (out / "zeros").read_bytes() == bytes(2 * MIB)
    assert os.stat(out / "sparse").st_blocks * 512 < MIB
    assert os.stat(out / "zeros").st_blocks * 512 < MIB // 4


def test_zeros_replace_bytes_that_an_earlier_try_left_there(out: Path) -> None:
    content = Content({"f": bytes(MIB) + b"end"})
    sink = started(content, out)
    sink.write([Extent(0, 0, MIB)], b"x" * MIB)
    content.write_to(sink)
    assert all(content.read_back(sink))
    sink.abandon()


def test_a_stream_of_unknown_length_gets_its_size_at_the_end(out: Path) -> None:
    manifest = make_manifest([Entry(b"stdin", EntryKind.FILE, None, 0o600, WHEN)])
    sink = FolderSink(out, job=JOB)
    sink.begin(manifest)
    sink.write(manifest.extents(1, 3), b"end")
    sink.write(manifest.extents(0, 4 * MIB), b"a" * 3 * MIB + bytes(MIB))
    sink.set_length(0, 4 * MIB + 3)
    sink.publish()
    sink.close()
    assert (out / "stdin").read_bytes() == b"a" * 3 * MIB + bytes(MIB) + b"end"
