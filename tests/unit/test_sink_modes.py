"""FolderSink: modes and times."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from sinks import JOB, WHEN, Content, fetch, posix, publish_killed, staging_in, started, taken_up, tree

from transfer.chunks import make_manifest
from transfer.errors import DamagedData, UnsafeName
from transfer.folder import Folder
from transfer.folder_sink import FolderSink
from transfer.model import Entry, EntryKind
from transfer.publish import FEW

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


# many files that came whole: they are looked at before they are published, and not opened again

MANY = FEW + 10


def many() -> Content:
    content = Content().folder("d")
    for number in range(MANY):
        content.file(f"d/{number}", b"abc")
    return content


@posix
def test_of_many_files_that_came_whole_none_is_opened_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_ = Folder.open

    def noted(self: Folder, name: str, flags: int, mode: int = 0o600) -> int:
        opened.append(name)
        return open_(self, name, flags, mode)

    content = many()
    sink = started(content, out)
    content.write_to(sink)
    monkeypatch.setattr(Folder, "open", noted)
    sink.publish()
    sink.close()
    assert not {str(number) for number in range(MANY)} & set(opened)
    found = [os.stat(out / "d" / str(number)) for number in range(MANY)]
    assert {(stat.S_IMODE(one.st_mode), one.st_mtime_ns, one.st_size) for one in found} == {(0o644, WHEN, 3)}


@posix
@pytest.mark.parametrize(
    "meddle",
    [
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.chmod(0o755),
        lambda path: os.truncate(path, 100),
    ],
    ids=["time", "mode", "length"],
)
def test_what_somebody_changed_of_many_files_is_mended(out: Path, meddle: Callable[[Path], None]) -> None:
    content = many()
    sink = started(content, out)
    content.write_to(sink)
    meddle(out / staging_in(out)[0] / "tree" / "d" / "5")
    sink.publish()
    sink.close()
    found = os.stat(out / "d" / "5")
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_size) == (0o644, WHEN, 3)
    assert (out / "d" / "5").read_bytes() == b"abc"


@posix
@pytest.mark.parametrize("how", ["link", "hard link", "gone"])
def test_of_many_files_one_that_is_none_any_more_is_not_published(out: Path, canary: Path, how: str) -> None:
    content = many()
    sink = started(content, out)
    content.write_to(sink)
    place = out / staging_in(out)[0] / "tree" / "d" / "5"
    place.unlink()
    if how == "link":
        place.symlink_to(canary / "f")
    elif how == "hard link":
        os.link(canary / "f", place)
    with pytest.raises(DamagedData if how == "gone" else UnsafeName):
        sink.publish()
    sink.abandon()
    assert not (out / "d").exists()
