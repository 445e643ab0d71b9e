"""FolderSink: modes and times."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from sinks import JOB, WHEN, Content, fetch, posix, publish_killed, staging_in, started, taken_up, tree

from transfer.chunks import make_manifest
from transfer.folder import Folder
from transfer.folder_sink import FolderSink
from transfer.model import Entry, EntryKind

# modes and times


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_modes_honour_the_umask_and_never_carry_setuid(out: Path, umask: int) -> None:
    content = Content().folder("d", 0o7777).file("d/f", b"x", 0o6777).file("d/ro", b"y", 0o444)
    before = os.umask(umask)
    try:
        fetch(content, out)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(out / "d").st_mode) & 0o7777 == 0o777 & ~umask
    assert stat.S_IMODE(os.stat(out / "d/f").st_mode) == 0o777 & ~umask
    assert stat.S_IMODE(os.stat(out / "d/ro").st_mode) == 0o444 & ~umask


def test_times_of_files_folders_and_links_are_kept(out: Path) -> None:
    fetch(tree(), out)
    for name in ("t", "t/a", "t/sub", "t/empty", "t/sub/b", "t/sub/nothing", "t/sub/l"):
        assert os.lstat(out / name).st_mtime_ns == WHEN, name


@pytest.mark.parametrize("number", [None, errno.EINVAL, errno.EOVERFLOW])
def test_a_time_the_file_system_does_not_hold_is_not_fatal(
    out: Path, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "not that time")

    sink = FolderSink(out, job=JOB)
    sink.begin(make_manifest([Entry(b"f", EntryKind.FILE, 0, 0o644, -(1 << 63))]))
    if number is not None:
        # a function that supports what the real one does
        monkeypatch.setattr(os, "supports_follow_symlinks", {*os.supports_follow_symlinks, refuse})
        monkeypatch.setattr(os, "utime", refuse)
    sink.publish()
    sink.close()
    assert (out / "f").exists()


def locked_tree() -> Content:
    return (
        Content()
        .folder("t", 0o555)
        .file("t/none", b"secret", 0)
        .folder("t/closed", 0)
        .file("t/closed/f", b"inside", 0o400)
        .folder("t/closed/below", 0o500)
    )


def modes_in(path: Path) -> dict[str, int]:
    """Opens what is closed on the way."""
    found = {path.name: stat.S_IMODE(os.stat(path).st_mode)}
    if path.is_dir():
        os.chmod(path, 0o700)
        for below in path.iterdir():
            found.update(modes_in(below))
    return found


LOCKED = {"t": 0o555, "none": 0, "closed": 0, "f": 0o400, "below": 0o500}


@posix
def test_modes_that_lock_the_owner_out_do_not_hinder_writing(unprivileged: Path) -> None:
    fetch(locked_tree(), unprivileged)
    assert modes_in(unprivileged / "t") == LOCKED
    assert staging_in(unprivileged) == []


@posix
@pytest.mark.parametrize(
    ("step", "good"), [("touch", 2), ("touch", 4), ("move", 0), ("chmod", 3), ("chmod", 4), ("chmod", 5)]
)
def test_a_kill_before_or_between_the_late_modes_is_mended(unprivileged: Path, step: str, good: int) -> None:
    content = locked_tree()
    sink = started(content, unprivileged)
    content.write_to(sink)
    state = sink.state()
    publish_killed(sink, good, Folder, step)
    again = taken_up(state, content, unprivileged)
    if not again.publishing:
        content.write_to(again)
    again.publish()
    again.close()
    assert modes_in(unprivileged / "t") == LOCKED
