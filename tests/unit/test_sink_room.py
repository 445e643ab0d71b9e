"""FolderSink on a disk without room."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sinks import (
    BLOCK,
    JOB,
    O_DIRECT,
    WHEN,
    Content,
    files_in,
    posix,
    staging_in,
    started,
    taken_up,
    write_decoded,
)

from transfer import folder_sink as sinks
from transfer.chunks import MIB, Extent, make_manifest
from transfer.errors import DiskFull
from transfer.folder import Folder, trouble
from transfer.folder_sink import FolderSink
from transfer.model import Entry, EntryKind


def test_too_little_room_is_said_before_a_byte_is_written(out: Path) -> None:
    manifest = make_manifest([Entry(b"huge", EntryKind.FILE, 1 << 55, 0o600, WHEN)])
    with pytest.raises(DiskFull) as full:
        FolderSink(out, job=JOB).begin(manifest)
    assert full.value.exit_code == 5
    assert os.listdir(out) == []


@posix
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_up_keeps_what_has_arrived(
    out: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Content({"a": b"a" * 2 * MIB, "b": b"b" * MIB})
    sink = started(content, out)
    sink.write([Extent(0, 0, MIB)], b"a" * MIB)

    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFull):
            sink.write([Extent(0, MIB, MIB)], b"a" * MIB)
    state = sink.state()
    sink.close()
    again = taken_up(state, content, out)
    assert content.read_back(again)[0]
    content.write_to(again)
    again.publish()
    again.close()
    assert files_in(out) == {"a": b"a" * 2 * MIB, "b": b"b" * MIB}


def test_sizes_are_told_as_everywhere_and_to_the_byte_only_where_that_makes_the_difference(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest([Entry(b"f", EntryKind.FILE, 31_457_280, 0o600, WHEN)])
    for free, told in (
        (2_000_000, "needs 31.5 MB, and {} has 2.0 MB left"),
        (31_457_279, "needs 31,457,280 bytes, and {} has 31,457,279 left"),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: (1 << 40, 0, free))
        with pytest.raises(DiskFull) as full:
            FolderSink(out, job=JOB).begin(manifest)
        assert full.value.what == f"the transfer {told.format(out)}"


def test_a_full_disk_says_once_that_it_is_full() -> None:
    assert trouble("the file f", OSError(errno.ENOSPC, "No space left on device")).what == (
        "there is no room left for the file f"
    )
    quota = trouble("the file f", OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert quota.what == "there is no room left for the file f: disk quota exceeded"


# what another run left


@posix
def test_what_a_run_without_its_ledger_left_is_named_where_room_lacks_and_at_the_end_and_is_not_removed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Content({"f": b"f" * MIB})
    dead = started(content, out)
    content.write_to(dead)
    dead.close()
    (left,) = staging_in(out)
    sink = started(content, out)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFull) as midway:
            content.write_to(sink)
    content.write_to(sink)
    sink.publish()
    sink.close()
    (notice,) = sink.notices
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: (1 << 40, 0, 1))
        with pytest.raises(DiskFull) as at_the_start:
            started(content, out)
    for text in (midway.value.next_step, notice, at_the_start.value.next_step):
        assert text.startswith(f"{out / left} (1.0 MB) was left by another run that fetched this to here")
    assert staging_in(out) == [left]


def test_its_own_folder_is_not_left_over_where_nobody_can_tell_what_is_held(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folder, "is_held", lambda _self: False)
    content = Content({"f": b"f"})
    sink = started(content, out)
    content.write_to(sink)
    sink.publish()
    sink.close()
    assert sink.notices == []


@posix
def test_what_a_run_holds_and_what_is_of_another_transfer_is_not_called_left_over(out: Path) -> None:
    content = Content({"f": b"f" * MIB})
    runs = started(content, out)
    other = FolderSink(out, job="ANOTHERJOB")
    other.begin(content.manifest)
    other.close()
    sink = started(content, out)
    content.write_to(sink)
    sink.publish()
    assert sink.notices == []
    sink.close()
    runs.close()


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of its own."""
    if not O_DIRECT or os.geteuid():
        pytest.skip("needs root to mount it")
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    image.write_bytes(bytes(8 * MIB))
    if request.param == "tmpfs":
        commands = [["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]]
    else:
        commands = [["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(folder)]]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no such file system here: {error}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.long
@pytest.mark.root
def test_a_disk_that_is_really_full_is_said_and_gone_on_with_when_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "DIRECT_FROM", 0)
    content = Content({"f": os.urandom(3 * MIB + 5)})
    sink = started(content, small_disk)
    write_decoded(content, sink, [3, 0])
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(BLOCK))
    with pytest.raises(DiskFull):
        write_decoded(content, sink, [1, 2])
    state = sink.state()
    sink.close()
    filler.unlink()
    again = taken_up(state, content, small_disk)
    assert content.read_back(again)[0]
    write_decoded(content, again, [1, 2])
    assert all(content.read_back(again))
    again.publish()
    again.close()
    assert (small_disk / "f").read_bytes() == content.data[0]
