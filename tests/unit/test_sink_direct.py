"""FolderSink past the page cache (O_DIRECT), exact whatever the pieces and the file system."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sinks import BLOCK, JOB, O_DIRECT, WHEN, Content, as_decoded, files_in, started, taken_up, write_decoded

from transfer import folder_sink as sinks
from transfer.chunks import MIB, make_manifest
from transfer.codec import Room
from transfer.errors import DiskFull, XferError
from transfer.folder import Folder
from transfer.folder_sink import FolderSink
from transfer.handles import HOLE, OpenFile
from transfer.model import Entry, EntryKind

direct_only = pytest.mark.skipif(not O_DIRECT or not os.path.isdir("/proc/self/fd"), reason="no O_DIRECT")


class Spied:
    """os.pwrite, with a look at what goes to descriptors that were opened with O_DIRECT: (offset, length).

    answer: in place of the system's, for those; it gets descriptor, bytes and offset.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried: list[tuple[int, int]] = []
        self.direct: list[tuple[int, int]] = []
        self.real: Callable[[int, memoryview, int], int] = os.pwrite
        self.answer: Callable[[int, memoryview, int], int] = self.real
        monkeypatch.setattr(os, "pwrite", self._pwrite)

    def _pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        import fcntl

        if not fcntl.fcntl(fd, fcntl.F_GETFL) & O_DIRECT:
            return self.real(fd, data, offset)
        self.tried.append((offset, len(data)))
        done = self.answer(fd, data, offset)
        self.direct.append((offset, done))
        return done


@pytest.fixture
def direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spied:
    """Every file is written past the page cache, as far as it can be."""
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.close(os.open(probe, os.O_WRONLY | O_DIRECT))
    except OSError:
        pytest.skip("this file system knows no O_DIRECT")
    probe.unlink()
    monkeypatch.setattr(sinks, "DIRECT_FROM", 0)
    return Spied(monkeypatch)


pieces = st.lists(
    st.tuples(
        st.integers(0, 3 * HOLE // 512).map(lambda n: n * 512) | st.integers(0, 3 * HOLE),
        st.sampled_from([0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, HOLE - 1, HOLE, 2 * HOLE + 7]),
        st.sampled_from([0, 0, 1, 512]),
        st.sampled_from([0, 1, 2]),
    ),
    max_size=8,
)


@direct_only
@given(pieces)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_at_any_offset_of_any_length_from_any_memory_are_written_exactly(
    tmp_path: Path, plan: list[tuple[int, int, int, int]]
) -> None:
    """(offset, length, offset in memory, zeros): none, all, or the last two thirds."""
    path, model = tmp_path / "f", bytearray()
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    file = OpenFile(fd, os.open(path, os.O_WRONLY | O_DIRECT))
    for number, (offset, length, shift, zeros) in enumerate(plan):
        full = (length, 0, length // 3)[zeros]
        raw = random.Random(number).randbytes(full) + bytes(length - full)
        memory = Room(length + shift).raw(length + shift)[shift:]
        memory[:] = raw
        file.write_sparse(memory, offset)
        model.extend(bytes(max(0, offset + length - len(model))))
        model[offset : offset + length] = raw
    os.ftruncate(fd, len(model))
    back = bytearray(len(model))
    assert file.read_into(memoryview(back), 0) == len(model)
    file.close()
    assert back == model == path.read_bytes()


@direct_only
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, MIB - 1, MIB, MIB + 1, 3 * MIB + BLOCK, 3 * MIB + 700])
def test_a_large_file_goes_past_the_page_cache_but_for_its_last_piece(
    out: Path, direct: Spied, size: int
) -> None:
    content = Content({"f": random.Random(size).randbytes(size)})
    sink = started(content, out)
    write_decoded(content, sink, [*range(content.manifest.chunks or 0)][::-1])
    assert all(content.read_back(sink))
    sink.publish()
    sink.close()
    assert (out / "f").read_bytes() == content.data[0]
    assert sum(length for _, length in direct.direct) == size - size % BLOCK
    assert all(offset % BLOCK == length % BLOCK == 0 for offset, length in direct.direct)


@direct_only
def test_files_side_by_side_in_a_chunk_arrive_exactly(
    out: Path, direct: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "DIRECT_FROM", 70_000)
    rng = random.Random(11)
    sizes = [2 * MIB + BLOCK, 69_999, 70_000, 70_001, 1, BLOCK, 2 * MIB, HOLE, 90_112, 0, 3 * MIB + 5, 70_000]
    content = Content({f"f{n}": rng.randbytes(size) for n, size in enumerate(sizes)})
    content.file("holes", rng.randbytes(5000) + bytes(2 * MIB) + rng.randbytes(5000) + bytes(MIB))
    sink = started(content, out)
    order = [*range(content.manifest.chunks or 0)] * 2
    rng.shuffle(order)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda index: write_decoded(content, sink, [index]), order))
    assert all(content.read_back(sink))
    sink.publish()
    sink.close()
    assert direct.direct
    assert all(offset % BLOCK == length % BLOCK == 0 < length for offset, length in direct.tried)
    assert files_in(out) == {content.entries[n].path.decode(): raw for n, raw in content.data.items()}
    assert os.stat(out / "holes").st_blocks * 512 < MIB


@direct_only
def test_a_small_file_stays_in_the_page_cache(
    out: Path, direct: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is soon read again."""
    monkeypatch.setattr(sinks, "DIRECT_FROM", MIB)
    content = Content({"small": os.urandom(MIB - 1)})
    sink = started(content, out)
    write_decoded(content, sink, [0])
    assert direct.direct == []
    sink.abandon()


@direct_only
def test_a_stream_of_unknown_length_goes_past_the_page_cache(
    out: Path, direct: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "DIRECT_FROM", 64 * MIB)
    manifest = make_manifest([Entry(b"stdin", EntryKind.FILE, None, 0o600, WHEN)])
    sink = FolderSink(out, job=JOB)
    sink.begin(manifest)
    sink.write(manifest.extents(0, 4 * MIB), as_decoded(b"a" * 4 * MIB))
    sink.write(manifest.extents(1, 3), as_decoded(b"end"))
    sink.set_length(0, 4 * MIB + 3)
    sink.publish()
    sink.close()
    assert (out / "stdin").read_bytes() == b"a" * 4 * MIB + b"end"
    assert direct.direct == [(0, 4 * MIB)]


@direct_only
@pytest.mark.parametrize("short", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 9])
def test_a_write_that_stops_early_is_gone_on_with(out: Path, direct: Spied, short: int) -> None:
    def answer(fd: int, data: memoryview, offset: int) -> int:
        whole = -(-short // BLOCK) * BLOCK  # what reached the disk, of which it says less
        return min(short, direct.real(fd, data[:whole], offset)) if whole else 0

    direct.answer = answer
    raw = random.Random(1).randbytes(5 * BLOCK + 77)
    content = Content({"f": raw})
    sink = started(content, out)
    write_decoded(content, sink, [0])
    sink.publish()
    sink.close()
    assert (out / "f").read_bytes() == raw
    assert len(direct.direct) == 1


def refused(*_: object) -> int:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@direct_only
def test_a_disk_with_larger_blocks_is_written_through_the_page_cache(out: Path, direct: Spied) -> None:
    direct.answer = refused
    content = Content({"f": os.urandom(2 * MIB + 77)})
    sink = started(content, out)
    write_decoded(content, sink, [1, 2, 0])
    sink.publish()
    sink.close()
    assert (out / "f").read_bytes() == content.data[0]


@direct_only
@pytest.mark.parametrize("error", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT])
def test_a_file_system_without_it_is_written_through_the_page_cache(
    out: Path, direct: Spied, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOENT: there is no /proc."""
    real, asked = os.open, []

    def open_(path: str, flags: int, *more: int, **options: int) -> int:
        if flags & O_DIRECT:
            asked.append(path)
            raise OSError(error, os.strerror(error))
        return real(path, flags, *more, **options)

    content = Content({"f": os.urandom(MIB + 77)})
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_)
        sink = started(content, out)
        write_decoded(content, sink, [0, 1])
    sink.publish()
    sink.close()
    assert (out / "f").read_bytes() == content.data[0]
    assert asked
    assert direct.direct == []


@direct_only
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_past_the_page_cache_is_said_and_keeps_what_has_arrived(
    out: Path, direct: Spied, number: int
) -> None:
    content = Content({"f": os.urandom(3 * MIB)})
    sink = started(content, out)
    write_decoded(content, sink, [0])

    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    direct.answer = full
    with pytest.raises(DiskFull):
        write_decoded(content, sink, [1])
    direct.answer = direct.real
    state = sink.state()
    sink.close()
    again = taken_up(state, content, out)
    assert content.read_back(again) == [True, False, False]
    write_decoded(content, again, [2, 1])
    again.publish()
    again.close()
    assert (out / "f").read_bytes() == content.data[0]


@direct_only
def test_an_error_of_the_disk_past_the_page_cache_is_no_reason_to_try_the_other_way(
    out: Path, direct: Spied
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    direct.answer = broken
    content = Content({"f": os.urandom(MIB)})
    sink = started(content, out)
    with pytest.raises(XferError, match="input/output error"):
        write_decoded(content, sink, [0])
    assert not any(content.read_back(sink))
    sink.abandon()


@direct_only
@pytest.mark.parametrize("how", ["symlink", "hardlink"])
def test_a_file_swapped_while_it_is_opened_is_not_written_through(
    out: Path, canary: Path, direct: Spied, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its two descriptors: the second must be of the very same file."""
    real = sinks._make

    def swapping(folder: Folder, name: str, mode: int) -> int | None:
        fd = real(folder, name, mode)
        victim = next(out.glob(".xfer-*/tree/f"))
        victim.rename(victim.with_name("aside"))
        (victim.symlink_to if how == "symlink" else victim.hardlink_to)(canary / "f")
        return fd

    content = Content({"f": os.urandom(2 * MIB)})
    sink = started(content, out)
    with monkeypatch.context() as patch:
        patch.setattr(sinks, "_make", swapping)
        write_decoded(content, sink, [0])
    assert list(out.glob(".xfer-*/tree/aside")), "it was swapped"
    sink.abandon()


@direct_only
@pytest.mark.parametrize("end", ["publish", "close", "abandon"])
def test_no_descriptor_stays_open(out: Path, direct: Spied, end: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    content = Content({f"f{n}": os.urandom(MIB // 2 + n) for n in range(5)})
    sink = started(content, out)
    write_decoded(content, sink, [0, 1, 2])
    if end == "publish":
        sink.publish()
    if end == "abandon":
        sink.abandon()
    sink.close()
    sink.close()
    assert direct.direct
    assert len(os.listdir("/proc/self/fd")) == before
