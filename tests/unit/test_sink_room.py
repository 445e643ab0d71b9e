"""FolderSink on a disk without room."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sinks import BLOCK, JOB, O_DIRECT, WHEN, Content, files_in, posix, started, taken_up, write_decoded

from transfer import folder_sink as sinks
from transfer.chunks import MIB, Extent, make_manifest
from transfer.errors import DiskFull
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
