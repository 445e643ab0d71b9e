"""PipeSink: one file in order into a pipe, with bounded memory."""

from __future__ import annotations

import io
import os

import pytest
from sinks import WHEN, Content, posix, tree

from transfer.chunks import MIB, Extent, Manifest, make_manifest
from transfer.errors import CutShort, DiskFull, Interrupted, ProtocolError, UsageError
from transfer.model import Entry, EntryKind
from transfer.pipe import MAX_AHEAD, PipeSink

# the pipe


def one_file(size: int | None) -> Manifest:
    return make_manifest([Entry(b"f", EntryKind.FILE, size, 0o644, WHEN)])


def test_a_pipe_gets_the_bytes_in_order_whatever_order_they_come_in() -> None:
    stream = io.BytesIO()
    sink = PipeSink(stream)
    manifest = one_file(5 * MIB)
    sink.begin(manifest)
    raw = os.urandom(5 * MIB)
    for index in (2, 1, 1, 0, 4, 3, 0):
        [extent] = manifest.extents(index)
        sink.write([extent], raw[extent.start : extent.start + extent.length])
    assert sink.publish() == []
    assert stream.getvalue() == raw
    assert sink.state() == b""


def test_a_pipe_takes_exactly_one_file() -> None:
    for content in (tree(), Content().folder("d"), Content().link("l", "x"), Content({"a": b"", "b": b""})):
        with pytest.raises(UsageError):
            PipeSink(io.BytesIO()).begin(content.manifest)


def test_a_pipe_holds_a_bounded_number_of_early_bytes() -> None:
    sink = PipeSink(io.BytesIO())
    manifest = one_file(100 * MIB)
    sink.begin(manifest)
    size = manifest.head.chunk_size
    last = MAX_AHEAD // size
    for index in range(1, last + 1):
        sink.write(manifest.extents(index), bytes(size))
    with pytest.raises(ProtocolError):
        sink.write(manifest.extents(last + 1), bytes(size))


def test_a_pipe_that_lacks_bytes_at_the_end_is_cut_short() -> None:
    sink = PipeSink(io.BytesIO())
    sink.begin(one_file(None))
    sink.write([Extent(0, 0, 3)], b"abc")
    sink.set_length(0, 4)
    with pytest.raises(CutShort):
        sink.publish()
    sink.set_length(0, 3)
    sink.publish()


@posix
def test_a_reader_that_closed_the_pipe_ends_the_run_as_a_signal_would() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as stream:
        sink = PipeSink(stream)
        sink.begin(one_file(3))
        with pytest.raises(Interrupted) as ended:
            sink.write([Extent(0, 0, 3)], b"abc")
    assert ended.value.exit_code == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_the_pipe_is_said() -> None:
    with open("/dev/full", "wb", buffering=0) as stream:
        sink = PipeSink(stream)
        sink.begin(one_file(3))
        with pytest.raises(DiskFull) as full:
            sink.write([Extent(0, 0, 3)], b"abc")
    assert "kept" not in full.value.next_step, "of a stream nothing is"
