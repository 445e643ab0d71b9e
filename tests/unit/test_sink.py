"""Writing what was fetched: conflicts, swaps for links, kills, holes, modes; and the pipe."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transfer import folder as folders
from transfer import folder_sink as sinks
from transfer import publish as publishing
from transfer.chunks import MIB, Extent, Manifest, make_manifest
from transfer.codec import Room
from transfer.errors import (
    CutShort,
    DamagedData,
    DestinationExists,
    DiskFull,
    Interrupted,
    NotAllowed,
    ProtocolError,
    UnsafeName,
    UsageError,
    XferError,
)
from transfer.folder import Folder
from transfer.folder_sink import FolderSink
from transfer.handles import DIRECT, HOLE, OpenFile
from transfer.merge import Node, plan
from transfer.model import Entry, EntryKind
from transfer.paths import STAGING_PREFIX
from transfer.pipe import MAX_AHEAD, PipeSink
from transfer.staging import Move

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX modes and descriptors of folders")
WHEN = 1_600_000_000_123_456_789
JOB = "JOB0123456789"


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Content:
    """A transfer made by hand: entries and the bytes of its files."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.entries: list[Entry] = []
        self.data: dict[int, bytes] = {}
        for name, raw in (files or {}).items():
            self.file(name, raw)

    def file(self, name: str, raw: bytes, mode: int = 0o644) -> Content:
        self.data[len(self.entries)] = raw
        self.entries.append(Entry(os.fsencode(name), EntryKind.FILE, len(raw), mode, WHEN))
        return self

    def folder(self, name: str, mode: int = 0o755) -> Content:
        self.entries.append(Entry(os.fsencode(name), EntryKind.DIRECTORY, 0, mode, WHEN))
        return self

    def link(self, name: str, target: str) -> Content:
        self.entries.append(Entry(os.fsencode(name), EntryKind.LINK, 0, 0o777, WHEN, os.fsencode(target)))
        return self

    @property
    def manifest(self) -> Manifest:
        return make_manifest(self.entries)

    def chunk(self, extents: list[Extent]) -> bytes:
        return b"".join(self.data[e.entry][e.start : e.start + e.length] for e in extents)

    def write_to(self, sink: FolderSink) -> None:
        manifest = self.manifest
        for index in range(manifest.chunks or 0):
            extents = manifest.extents(index)
            sink.write(extents, self.chunk(extents))

    def read_back(self, sink: FolderSink) -> list[bool]:
        """For each chunk, whether the sink has it."""
        manifest = self.manifest
        chunks = [manifest.extents(index) for index in range(manifest.chunks or 0)]
        return [sink.read(extents) == self.chunk(extents) for extents in chunks]


def fetch(
    content: Content, output: Path | str, *, overwrite: bool = False, rename: bool = False
) -> list[Path]:
    """All of it at once, as a fetch without troubles does."""
    sink = FolderSink(output, job=JOB, overwrite=overwrite, rename=rename)
    sink.begin(content.manifest)
    content.write_to(sink)
    paths = sink.publish()
    sink.close()
    return paths


def started(content: Content, output: Path | str, **options: bool) -> FolderSink:
    sink = FolderSink(output, job=JOB, **options)
    sink.begin(content.manifest)
    return sink


def taken_up(state: bytes, content: Content, output: Path | str, **options: bool) -> FolderSink:
    sink = FolderSink.resume(state, output, job=JOB, **options)
    assert sink is not None
    sink.begin(content.manifest)
    return sink


def staging_in(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if name.startswith(STAGING_PREFIX)]


def files_in(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder outside, which must be the same after the test as before."""
    path = tmp_path / "canary"
    (path / "sub").mkdir(parents=True)
    (path / "f").write_bytes(b"untouched")
    before = sorted(str(p) for p in path.rglob("*"))
    yield path
    assert sorted(str(p) for p in path.rglob("*")) == before
    assert (path / "f").read_bytes() == b"untouched"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of somebody who is not root, while we are that somebody: root may do everything."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        if os.name == "nt" or os.geteuid():
            yield here
            return
        os.chown(here, 65534, 65534)
        os.setegid(65534)
        os.seteuid(65534)
        try:
            yield here
        finally:
            os.seteuid(0)
            os.setegid(0)


def tree() -> Content:
    return (
        Content()
        .folder("t")
        .file("t/a", b"aaa")
        .folder("t/empty")
        .folder("t/sub")
        .file("t/sub/b", bytes(range(256)) * 8000)
        .file("t/sub/nothing", b"")
        .link("t/sub/l", "../a")
    )


# where it goes


def test_an_existing_folder_takes_the_entries(out: Path) -> None:
    assert fetch(tree(), out) == [out / "t"]
    assert (out / "t" / "sub" / "b").read_bytes() == bytes(range(256)) * 8000
    assert os.readlink(out / "t" / "sub" / "l") == "../a"
    assert os.listdir(out / "t" / "empty") == []
    assert staging_in(out) == []


def test_a_single_file_takes_the_name_that_output_says(out: Path) -> None:
    assert fetch(Content({"a.bin": b"x"}), out / "other.bin") == [out / "other.bin"]
    assert files_in(out) == {"other.bin": b"x"}


def test_a_final_slash_or_several_entries_make_a_folder(out: Path) -> None:
    fetch(Content({"a": b"x"}), f"{out}/one/two/")
    fetch(Content({"a": b"x", "b": b"y"}), out / "three")
    fetch(tree(), out / "four")
    assert (out / "one/two/a").is_file()
    assert (out / "three/b").is_file()
    assert (out / "four/t/a").is_file()


def test_a_file_in_a_folder_that_is_not_there_is_a_usage_error(out: Path) -> None:
    with pytest.raises(UsageError):
        started(Content({"a": b"x"}), out / "nowhere" / "a")


def test_several_entries_into_a_file_are_refused(out: Path) -> None:
    (out / "f").write_bytes(b"mine")
    with pytest.raises(DestinationExists):
        started(tree(), out / "f", overwrite=True)
    assert (out / "f").read_bytes() == b"mine"


def test_nothing_stands_under_a_final_name_before_publish(out: Path) -> None:
    content = tree()
    sink = started(content, out)
    content.write_to(sink)
    assert os.listdir(out) == staging_in(out)
    sink.publish()
    assert sorted(os.listdir(out)) == sorted([*staging_in(out), "t"])
    sink.close()
    assert os.listdir(out) == ["t"]


@posix
def test_the_staging_folder_is_ours_alone(out: Path) -> None:
    sink = started(tree(), out)
    found = os.stat(out / staging_in(out)[0])
    assert stat.S_IMODE(found.st_mode) & 0o777 == 0o700
    sink.abandon()


def test_abandon_leaves_nothing_behind_and_may_be_repeated(out: Path) -> None:
    content = tree()
    sink = started(content, out / "made" / "here")
    content.write_to(sink)
    sink.abandon()
    sink.abandon()
    assert os.listdir(out) == []


def test_a_begin_that_is_refused_leaves_nothing_behind(out: Path) -> None:
    with pytest.raises(UnsafeName):
        started(Content({"ok": b"x", "../evil": b"y"}), out / "made")
    assert os.listdir(out) == []


@posix
def test_a_folder_that_may_not_be_written_is_said(unprivileged: Path) -> None:
    locked = unprivileged / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(NotAllowed):
        started(tree(), locked)


# names


def test_odd_names_arrive_as_the_folder_can_hold_them_and_are_said(out: Path) -> None:
    content = Content({"x\x1b[31m": b"1", "é🎉": b"2"})
    sink = started(content, out)
    content.write_to(sink)
    sink.publish()
    sink.close()
    assert sorted(os.listdir(out)) == sorted(["x%1B[31m", "é🎉"])
    assert len(sink.notices) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that takes any bytes")
def test_raw_and_case_twins_arrive_on_a_folder_that_can_tell_them_apart(out: Path) -> None:
    fetch(Content({"Makefile": b"1", "makefile": b"2", os.fsdecode(b"caf\xe9"): b"3"}), out)
    assert sorted(os.listdir(os.fsencode(out))) == [b"Makefile", b"caf\xe9", b"makefile"]


# what is there already


def test_existing_files_are_a_conflict_before_a_byte_comes(out: Path) -> None:
    (out / "t" / "sub").mkdir(parents=True)
    (out / "t" / "a").write_bytes(b"mine")
    (out / "t" / "sub" / "b").write_bytes(b"mine")
    with pytest.raises(DestinationExists) as conflict:
        started(tree(), out)
    assert conflict.value.exit_code == 8
    assert "t/a, t/sub/b are there already" in conflict.value.what
    assert files_in(out) == {"t/a": b"mine", "t/sub/b": b"mine"}
    assert staging_in(out) == []


def test_existing_folders_are_merged_into_and_keep_what_they_had(out: Path) -> None:
    (out / "t" / "sub").mkdir(parents=True)
    (out / "t" / "sub" / "mine").write_bytes(b"mine")
    fetch(tree(), out)
    assert set(files_in(out)) == {"t/a", "t/sub/b", "t/sub/l", "t/sub/mine", "t/sub/nothing"}


def test_overwrite_replaces_files_and_links_and_nothing_else(out: Path, canary: Path) -> None:
    (out / "t" / "sub").mkdir(parents=True)
    (out / "t" / "a").symlink_to(canary / "f")
    (out / "t" / "sub" / "l").write_bytes(b"mine")
    (out / "t" / "sub" / "other").write_bytes(b"mine")
    fetch(tree(), out, overwrite=True)
    assert not (out / "t" / "a").is_symlink()
    assert (out / "t" / "a").read_bytes() == b"aaa"
    assert os.readlink(out / "t" / "sub" / "l") == "../a"
    assert (out / "t" / "sub" / "other").read_bytes() == b"mine"


def test_overwrite_never_puts_a_file_in_a_folders_place_or_the_reverse(out: Path) -> None:
    (out / "t" / "a").mkdir(parents=True)
    with pytest.raises(DestinationExists) as conflict:
        started(tree(), out, overwrite=True)
    assert "--overwrite" not in conflict.value.next_step
    shutil.rmtree(out / "t")
    (out / "t").write_bytes(b"mine")
    with pytest.raises(DestinationExists):
        started(tree(), out, overwrite=True)


@pytest.mark.parametrize("below", ["mine/sub/", "mine/sub/deeper/"])
def test_a_folder_below_a_file_is_not_made(out: Path, below: str) -> None:
    (out / "mine").write_bytes(b"mine")
    with pytest.raises(DestinationExists, match="mine is there and is no folder"):
        started(tree(), f"{out}/{below}")
    assert files_in(out) == {"mine": b"mine"}


def test_a_link_in_a_folders_place_is_never_followed(out: Path, canary: Path) -> None:
    (out / "t").mkdir()
    (out / "t" / "sub").symlink_to(canary / "sub")
    for overwrite in (False, True):
        with pytest.raises(UnsafeName):
            started(tree(), out, overwrite=overwrite)


def test_rename_chooses_the_first_free_number(out: Path) -> None:
    for name in ("a.txt", "a (1).txt", "t"):
        (out / name).write_bytes(b"mine")
    assert fetch(Content({"a.txt": b"x"}), out, rename=True) == [out / "a (2).txt"]
    assert fetch(tree(), out, rename=True) == [out / "t (1)"]
    assert (out / "a.txt").read_bytes() == b"mine"


def test_rename_does_not_choose_a_name_the_transfer_itself_has(out: Path) -> None:
    (out / "a.txt").write_bytes(b"mine")
    fetch(Content({"a.txt": b"1", "a (1).txt": b"2"}), out, rename=True)
    assert files_in(out) == {"a.txt": b"mine", "a (1).txt": b"2", "a (2).txt": b"1"}


def test_a_folder_that_no_entry_names_is_shared_and_what_is_in_it_is_renamed(out: Path) -> None:
    assert fetch(Content({"sub/1": b"first"}), out, rename=True) == [out / "sub/1"]
    assert fetch(Content({"sub/1": b"second"}), out, rename=True) == [out / "sub/1 (1)"]
    assert fetch(Content({"sub/deep/2.csv": b"a"}), out, rename=True) == [out / "sub/deep/2.csv"]
    several = Content({"sub/1": b"third", "sub/3": b"", "sub/deep/2.csv": b"b"})
    assert fetch(several, out, rename=True) == [out / "sub"]
    named = Content().folder("sub/deep").file("sub/deep/2.csv", b"c")
    assert fetch(named, out, rename=True) == [out / "sub/deep (1)"]
    assert files_in(out) == {
        "sub/1": b"first",
        "sub/1 (1)": b"second",
        "sub/1 (2)": b"third",
        "sub/3": b"",
        "sub/deep/2.csv": b"a",
        "sub/deep/2 (1).csv": b"b",
        "sub/deep (1)/2.csv": b"c",
    }


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_sent_below_a_folder_stays_together_where_something_else_has_its_name(
    out: Path, canary: Path, kind: str
) -> None:
    if kind == "file":
        (out / "sub").write_bytes(b"mine")
    else:
        (out / "sub").symlink_to(canary)
    assert fetch(Content({"sub/1": b"first"}), out, rename=True) == [out / "sub (1)/1"]
    assert fetch(Content({"sub/1": b"second", "sub/2": b""}), out, rename=True) == [out / "sub (1)"]
    inside = out / "sub (1)"
    assert files_in(inside) == {"1": b"first", "1 (1)": b"second", "2": b""}
    assert os.path.lexists(out / "sub")


def test_in_a_shared_folder_only_the_file_of_that_name_is_a_conflict_or_replaced(out: Path) -> None:
    fetch(Content({"sub/1": b"first", "sub/keep": b"mine"}), out)
    with pytest.raises(DestinationExists) as conflict:
        started(Content({"sub/1": b"second", "sub/2": b""}), out)
    assert conflict.value.what == "sub/1 is there already"
    assert fetch(Content({"sub/2": b"beside"}), out) == [out / "sub/2"]
    assert fetch(Content({"sub/1": b"second"}), out, overwrite=True) == [out / "sub/1"]
    assert files_in(out) == {"sub/1": b"second", "sub/2": b"beside", "sub/keep": b"mine"}


@pytest.mark.parametrize("way", ["renameat2", "FAT"])
@pytest.mark.parametrize("option", ["", "overwrite", "rename"])
def test_a_shared_folder_that_another_fetch_makes_meanwhile_is_shared(
    out: Path, monkeypatch: pytest.MonkeyPatch, option: str, way: str
) -> None:
    """As where several runs take the items of one batch."""
    if way == "FAT":
        monkeypatch.setattr(folders, "_rename_exclusively", lambda *_: False)
        monkeypatch.setattr(os, "link", _no_link)
    options = {option: True} if option else {}
    content = Content({"sub/1": b"theirs", "sub/2": b"2"})
    sink = started(content, out, **options)
    content.write_to(sink)
    real_move = Folder.move

    def after_theirs(self: Folder, name: str, to: Folder, new: str) -> None:
        with contextlib.suppress(FileExistsError):
            (out / "sub").mkdir()
            (out / "sub/other").write_bytes(b"of another run")
        real_move(self, name, to, new)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", after_theirs)
        assert sink.publish() == [out / "sub"]
    sink.close()
    assert files_in(out) == {"sub/1": b"theirs", "sub/2": b"2", "sub/other": b"of another run"}


@pytest.mark.parametrize("rename", [False, True])
def test_a_name_in_a_shared_folder_that_is_taken_meanwhile_is_not_replaced(
    out: Path, monkeypatch: pytest.MonkeyPatch, rename: bool
) -> None:
    (out / "m").mkdir()
    monkeypatch.setattr(publishing, "plan", _plan_without_looking)
    content = Content({"m/x": b"theirs"})
    sink = started(content, out, rename=rename)
    content.write_to(sink)
    real_move = Folder.move

    def after_mine(self: Folder, name: str, to: Folder, new: str) -> None:
        (out / "m/x").write_bytes(b"mine")
        real_move(self, name, to, new)

    monkeypatch.setattr(Folder, "move", after_mine)
    if rename:
        assert sink.publish() == [out / "m/x (1)"]
        sink.close()
        assert files_in(out) == {"m/x": b"mine", "m/x (1)": b"theirs"}
    else:
        with pytest.raises(DestinationExists, match="m/x is there already"):
            sink.publish()
        assert (out / "m/x").read_bytes() == b"mine"
        sink.abandon()


def test_overwrite_and_rename_exclude_each_other(out: Path) -> None:
    with pytest.raises(UsageError):
        FolderSink(out, job=JOB, overwrite=True, rename=True)


@pytest.mark.parametrize("way", ["renameat2", "link", "FAT"])
def test_a_name_taken_during_the_transfer_is_not_replaced(
    out: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "renameat2":
        monkeypatch.setattr(folders, "_rename_exclusively", lambda *_: False)
    if way == "FAT":
        monkeypatch.setattr(os, "link", _no_link)
    monkeypatch.setattr(publishing, "plan", _plan_without_looking)
    content = Content({"f": b"theirs"})
    sink = started(content, out)
    content.write_to(sink)
    (out / "f").write_bytes(b"mine")
    with pytest.raises(DestinationExists):
        sink.publish()
    assert (out / "f").read_bytes() == b"mine"
    state = sink.state()
    sink.close()
    monkeypatch.undo()
    with_another_name = taken_up(state, content, out, rename=True)
    assert with_another_name.publish() == [out / "f (1)"]
    with_another_name.close()
    assert files_in(out) == {"f": b"mine", "f (1)": b"theirs"}


def _plan_without_looking(
    root: Node, base: Folder, staged: Folder | None, finals: Mapping[str, str], *, overwrite: bool
) -> list[Move]:
    """As if what is there came between the look and the rename; folders called `m` came long before."""
    real_look = Folder.look

    def look(self: Folder, name: str) -> os.stat_result | None:
        below_staging = staged is not None and self.path.startswith(staged.path)
        return real_look(self, name) if below_staging or name == "m" else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "look", look)
        return plan(root, base, staged, finals, overwrite=overwrite)


@pytest.mark.parametrize("way", ["renameat2", "link", "FAT"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("content", "taken_by"), [("file", "folder"), ("folder", "file"), ("folder", "folder")]
)
def test_a_name_taken_by_another_kind_meanwhile_is_never_replaced(
    out: Path, monkeypatch: pytest.MonkeyPatch, content: str, taken_by: str, overwrite: bool, way: str
) -> None:
    if way != "renameat2":
        monkeypatch.setattr(folders, "_rename_exclusively", lambda *_: False)
    if way == "FAT":
        monkeypatch.setattr(os, "link", _no_link)
    monkeypatch.setattr(publishing, "plan", _plan_without_looking)
    sink = started(
        Content({"x": b""}) if content == "file" else Content().folder("x"), out, overwrite=overwrite
    )
    if taken_by == "file":
        (out / "x").write_bytes(b"mine")
    else:
        (out / "x").mkdir()
        inode = os.stat(out / "x").st_ino
    with pytest.raises(DestinationExists):
        sink.publish()
    assert (out / "x").is_file() == (taken_by == "file")
    assert taken_by == "file" or os.stat(out / "x").st_ino == inode
    sink.abandon()


def _no_link(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "no hard links here")


def test_rename_takes_another_number_if_its_own_is_taken_meanwhile(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "plan", _plan_without_looking)
    content = Content({"f": b"theirs"})
    sink = started(content, out, rename=True)
    content.write_to(sink)
    (out / "f").write_bytes(b"mine")
    (out / "f (1)").write_bytes(b"mine, too")
    assert sink.publish() == [out / "f (2)"]
    sink.close()


@pytest.mark.parametrize("hard_links", [True, False], ids=["link", "FAT"])
def test_publishing_works_without_exclusive_renames(
    out: Path, hard_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_rename_exclusively", lambda *_: False)
    if not hard_links:
        monkeypatch.setattr(os, "link", _no_link)
    (out / "t").mkdir()
    fetch(tree(), out)
    assert set(files_in(out)) == {"t/a", "t/sub/b", "t/sub/l", "t/sub/nothing"}
    with pytest.raises(DestinationExists):
        fetch(tree(), out)


# swapped for links while it runs


def swap(path: Path, target: Path) -> None:
    path.rename(path.with_name(path.name + "-moved"))
    path.symlink_to(target)


@posix
def test_a_staging_folder_swapped_for_a_link_leads_nowhere(out: Path, canary: Path) -> None:
    content = tree()
    sink = started(content, out)
    swap(out / staging_in(out)[0], canary)
    content.write_to(sink)
    sink.publish()
    sink.close()
    assert (out / "t" / "a").read_bytes() == b"aaa"


@posix
def test_a_stranger_under_the_staging_folders_name_is_not_removed(out: Path) -> None:
    content = tree()
    sink = started(content, out)
    staging = out / staging_in(out)[0]
    staging.rename(out / "moved")
    staging.mkdir()
    (staging / "f").write_bytes(b"untouched")
    content.write_to(sink)
    sink.publish()
    sink.close()
    assert (staging / "f").read_bytes() == b"untouched"


@posix
@pytest.mark.parametrize("target", ["t", "t/sub"])
def test_a_folder_inside_swapped_for_a_link_is_not_followed(out: Path, canary: Path, target: str) -> None:
    content = tree()
    sink = started(content, out)
    swap(out / staging_in(out)[0] / "tree" / target, canary)
    with pytest.raises(UnsafeName):
        content.write_to(sink)
    sink.abandon()


@posix
@pytest.mark.parametrize("how", ["symlink", "hard link"])
def test_a_file_put_in_place_beforehand_is_not_written_through(out: Path, canary: Path, how: str) -> None:
    content = tree()
    sink = started(content, out)
    place = out / staging_in(out)[0] / "tree" / "t" / "a"
    if how == "symlink":
        place.symlink_to(canary / "f")
    else:
        os.link(canary / "f", place)
    with pytest.raises(UnsafeName):
        content.write_to(sink)
    sink.abandon()


@posix
@pytest.mark.parametrize("how", ["symlink", "hard link"])
def test_a_file_swapped_before_publish_is_not_touched(out: Path, canary: Path, how: str) -> None:
    content = tree()
    sink = started(content, out)
    content.write_to(sink)
    place = out / staging_in(out)[0] / "tree" / "t" / "a"
    place.unlink()
    if how == "symlink":
        place.symlink_to(canary / "f")
    else:
        os.link(canary / "f", place)
    with pytest.raises(UnsafeName):
        sink.publish()
    sink.abandon()


@posix
def test_a_merged_folder_swapped_for_a_link_before_publish_is_not_followed(out: Path, canary: Path) -> None:
    (out / "t" / "sub").mkdir(parents=True)
    content = tree()
    sink = started(content, out)
    content.write_to(sink)
    swap(out / "t" / "sub", canary / "sub")
    with pytest.raises(UnsafeName):
        sink.publish()
    sink.abandon()


@posix
def test_a_merged_folder_swapped_for_a_link_during_publish_is_not_followed(
    out: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "t" / "sub").mkdir(parents=True)
    content = tree()
    sink = started(content, out)
    content.write_to(sink)
    real = Folder.move

    def swap_first(self: Folder, name: str, to: Folder, new: str) -> None:
        if not (out / "t" / "sub").is_symlink():
            swap(out / "t" / "sub", canary / "sub")
        real(self, name, to, new)

    monkeypatch.setattr(Folder, "move", swap_first)
    with pytest.raises(UnsafeName):
        sink.publish()


@posix
def test_a_destination_swapped_for_a_link_during_the_transfer_changes_nothing(
    out: Path, canary: Path
) -> None:
    content = tree()
    sink = started(content, out)
    content.write_to(sink)
    swap(out, canary)
    sink.publish()
    sink.close()
    assert (out.with_name("out-moved") / "t" / "a").read_bytes() == b"aaa"


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


# past the page cache

BLOCK = DIRECT
O_DIRECT = getattr(os, "O_DIRECT", 0)
direct_only = pytest.mark.skipif(not O_DIRECT or not os.path.isdir("/proc/self/fd"), reason="no O_DIRECT")


class Spied:
    """os.pwrite, with a look at what goes to descriptors that were opened with O_DIRECT: (offset, length).

    answer: in place of the system's, for those; it gets descriptor, bytes and offset.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried: list[tuple[int, int]] = []
        self.direct: list[tuple[int, int]] = []
        self.real: Callable[[int, memoryview, int], int] = os.pwrite
        self.answer = self.real
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


def as_decoded(raw: bytes) -> memoryview:
    """In memory that begins where a page does."""
    view = Room(len(raw)).raw(len(raw))
    view[:] = raw
    return view


def write_decoded(content: Content, sink: FolderSink, order: list[int]) -> None:
    for index in order:
        extents = content.manifest.extents(index)
        sink.write(extents, as_decoded(content.chunk(extents)))


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


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of its own."""
    if not O_DIRECT or os.geteuid():
        pytest.skip("needs root to mount it")
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    image.write_bytes(bytes(8 * MIB))
    if request.param == "tmpfs":
        commands = [["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder]]
    else:
        commands = [["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, folder]]
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
def test_a_kill_before_or_between_the_late_modes_is_mended(
    unprivileged: Path, step: str, good: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = locked_tree()
    sink = started(content, unprivileged)
    content.write_to(sink)
    state = sink.state()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, step, killed_after(good, getattr(Folder, step)))
        with pytest.raises(Killed):
            sink.publish()
    again = taken_up(state, content, unprivileged)
    if not again.publishing:
        content.write_to(again)
    again.publish()
    again.close()
    assert modes_in(unprivileged / "t") == LOCKED


# kill and resume


def killed_after(count: int, real: object) -> object:
    """The same function, which ends the process, so to speak, at its next call after `count` good ones."""
    assert callable(real)
    done = iter(range(count))

    def call(*arguments: object, **named: object) -> object:
        if next(done, None) is None:
            raise Killed
        return real(*arguments, **named)

    return call


def test_a_killed_transfer_is_taken_up_with_what_it_had(out: Path) -> None:
    content = Content({"a": os.urandom(3 * MIB), "b": b"b"})
    manifest = content.manifest
    sink = started(content, out)
    extents = manifest.extents(1)
    sink.write(extents, content.chunk(extents))
    state = sink.state()
    assert json.loads(state)["job"] == JOB
    again = taken_up(state, content, out)
    assert not again.publishing
    assert content.read_back(again) == [False, True, False, False]
    content.write_to(again)
    again.publish()
    again.close()
    assert files_in(out)["a"] == content.data[0]
    assert staging_in(out) == []


def many_pieces() -> Content:
    content = Content({f"f{n}": bytes([n]) * 100 for n in range(5)})
    return content.folder("m").file("m/x", b"x").file("m/y", b"y").folder("m/new").link("l", "f0")


@pytest.mark.parametrize("moves", range(10))
def test_a_kill_between_renames_is_finished_by_the_next_run(
    out: Path, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "m").mkdir()
    content = many_pieces()
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", killed_after(moves, Folder.move))
        if moves < 9:
            with pytest.raises(Killed):
                sink.publish()
        else:
            sink.publish()  # and killed before `close`
    again = taken_up(state, content, out)
    assert again.publishing
    assert all(content.read_back(again))
    content.write_to(again)  # a route that does not know repeats what is in place: nothing comes of it
    assert len(again.publish()) == 7
    again.close()
    assert len(files_in(out)) == 8
    assert (out / "m" / "new").is_dir()
    assert staging_in(out) == []


def test_a_kill_between_link_and_unlink_is_finished_by_the_next_run(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_rename_exclusively", lambda *_: False)
    content = Content({"a": b"a", "b": b"b"})
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed_after(0, os.unlink))
        with pytest.raises(Killed):
            sink.publish()
    again = taken_up(state, content, out)
    again.publish()
    again.close()
    assert files_in(out) == {"a": b"a", "b": b"b"}
    assert os.stat(out / "a").st_nlink == 1


@pytest.mark.parametrize("late", [0, 3, 9])
def test_a_kill_while_settling_is_taken_up(out: Path, late: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = many_pieces()
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "touch", killed_after(late, Folder.touch))
        with pytest.raises(Killed):
            sink.publish()
    again = taken_up(state, content, out)
    assert not again.publishing
    assert all(content.read_back(again))
    again.publish()
    again.close()
    assert len(files_in(out)) == 8


@pytest.mark.parametrize("how", ["gone", "replaced"])
def test_what_was_published_and_is_gone_since_is_said(
    out: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = many_pieces()
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", killed_after(2, Folder.move))
        with pytest.raises(Killed):
            sink.publish()
    (out / "f0").rename(out / "elsewhere")
    if how == "replaced":
        (out / "f0").write_bytes(content.data[0])
    with pytest.raises(DamagedData):
        taken_up(state, content, out).publish()


def test_a_staging_file_that_vanished_is_not_published_as_zeros(out: Path) -> None:
    content = tree()
    sink = started(content, out)
    content.write_to(sink)
    (out / staging_in(out)[0] / "tree" / "t" / "a").unlink()
    with pytest.raises(DamagedData):
        sink.publish()
    sink.abandon()


def test_a_rename_chosen_before_a_kill_is_kept_after_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "a").write_bytes(b"mine")
    content = Content({"a": b"theirs", "b": b"b"})
    sink = started(content, out, rename=True)
    content.write_to(sink)
    state = sink.state()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", killed_after(1, Folder.move))
        with pytest.raises(Killed):
            sink.publish()
    again = taken_up(state, content, out, rename=True)
    assert all(content.read_back(again))
    assert again.publish() == [out / "a (1)", out / "b"]
    again.close()


def test_what_is_half_merged_is_not_renamed_by_the_next_run(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "m").mkdir()
    content = Content().folder("m").file("m/x", b"x").file("m/y", b"y").file("m/z", b"z")
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", killed_after(1, Folder.move))
        with pytest.raises(Killed):
            sink.publish()
    (out / "m" / "y").write_bytes(b"mine")
    for look in (plan, _plan_without_looking):
        monkeypatch.setattr(publishing, "plan", look)
        again = taken_up(state, content, out, rename=True)
        with pytest.raises(DestinationExists):
            again.publish()
    (out / "m" / "y").unlink()
    again = taken_up(state, content, out, rename=True)
    again.publish()
    again.close()
    assert files_in(out) == {"m/x": b"x", "m/y": b"y", "m/z": b"z"}


def test_what_is_left_for_a_shared_folder_is_renamed_there_by_the_next_run(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "m").mkdir()
    content = Content({"m/x": b"x", "m/y": b"y", "m/z": b"z"})
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", killed_after(1, Folder.move))
        with pytest.raises(Killed):
            sink.publish()
    for name in "yz":
        (out / "m" / name).write_bytes(b"mine")
    again = taken_up(state, content, out, rename=True)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", killed_after(1, Folder.move))
        with pytest.raises(Killed):
            again.publish()
    last = taken_up(state, content, out, rename=True)
    assert all(content.read_back(last)), "also what has another name by now"
    assert last.publish() == [out / "m"]
    last.close()
    assert files_in(out) == {"m/x": b"x", "m/y": b"mine", "m/z": b"mine", "m/y (1)": b"y", "m/z (1)": b"z"}


def test_a_kill_while_the_folder_is_probed_is_taken_up(out: Path) -> None:
    content = tree()
    sink = started(content, out)
    state = sink.state()
    (out / staging_in(out)[0] / "probe").mkdir()
    (out / staging_in(out)[0] / "probe" / "a").write_bytes(b"")
    again = taken_up(state, content, out)
    content.write_to(again)
    again.publish()
    again.close()


def test_a_folder_that_is_another_file_system_is_refused_before_a_byte_comes(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "t").mkdir()
    real = Folder.facts

    def facts(self: Folder) -> os.stat_result:
        found = list(real(self))
        found[stat.ST_DEV] += self.path == str(out / "t")
        return os.stat_result(found)

    monkeypatch.setattr(Folder, "facts", facts)
    with pytest.raises(UsageError, match="file system"):
        started(tree(), out)


def _gone(staging: Path) -> None:
    shutil.rmtree(staging)


def _another(staging: Path) -> None:
    staging.rename(staging.with_name("aside"))
    shutil.copytree(staging.with_name("aside"), staging)
    staging.chmod(0o700)


def _link(staging: Path) -> None:
    staging.rename(staging.with_name("aside"))
    staging.symlink_to("aside")


def _opened(staging: Path) -> None:
    staging.chmod(0o755)


def _given_away(staging: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(staging, 65534, 65534)


@posix
@pytest.mark.parametrize("change", [_gone, _another, _link, _opened, _given_away])
def test_only_the_very_same_staging_folder_is_taken_up(out: Path, change: object) -> None:
    sink = started(tree(), out)
    state = sink.state()
    sink.close()
    assert callable(change)
    change(out / staging_in(out)[0])
    assert FolderSink.resume(state, out, job=JOB) is None


def test_what_a_kill_left_of_a_folder_that_was_being_removed_goes(out: Path) -> None:
    sink = started(tree(), out)
    state = sink.state()
    sink.close()
    [left] = staging_in(out)
    shutil.rmtree(out / left / "tree")
    (out / left / "journal").write_text("{}")
    assert FolderSink.resume(state, out, job=JOB) is None
    assert staging_in(out) == []


def test_a_state_of_another_job_output_or_version_is_not_taken_up(out: Path) -> None:
    sink = started(tree(), out)
    state = sink.state()
    sink.close()
    assert FolderSink.resume(state, out, job="OTHER") is None
    assert FolderSink.resume(state, out / "elsewhere", job=JOB) is None
    for broken in (b"", b"{", b"[]", b"{}", state.replace(b'"version": 1', b'"version": 2')):
        assert FolderSink.resume(broken, out, job=JOB) is None
    shutil.rmtree(out)
    assert FolderSink.resume(state, out, job=JOB) is None


def test_a_resume_works_from_another_current_folder(
    out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(out)
    content = tree()
    sink = started(content, ".")
    content.write_to(sink)
    state = sink.state()
    sink.close()
    monkeypatch.chdir(tmp_path)
    assert FolderSink.resume(state, ".", job=JOB) is None
    again = taken_up(state, content, "out")
    assert again.publish() == [out / "t"]
    again.close()


# size


def test_ten_thousand_small_files_arrive_with_few_descriptors(out: Path) -> None:
    content = Content().folder("t")
    for n in range(10_000):
        content.file(f"t/d{n % 100}/f{n}", b"%d" % n)
    began = time.process_time()
    sink = started(content, out)
    content.write_to(sink)
    if os.path.isdir("/proc/self/fd"):
        assert len(os.listdir("/proc/self/fd")) < 300
    sink.publish()
    sink.close()
    assert time.process_time() - began < 15
    assert (out / "t" / "d7" / "f9907").read_bytes() == b"9907"
    assert sum(len(names) for _, _, names in os.walk(out)) == 10_000


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
        with pytest.raises(DiskFull):
            sink.write([Extent(0, 0, 3)], b"abc")
