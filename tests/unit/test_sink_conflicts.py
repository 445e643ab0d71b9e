"""FolderSink beside what is there already: conflicts, --overwrite, --rename, names taken meanwhile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from sinks import (
    JOB,
    Content,
    _no_link,
    _plan_without_looking,
    fetch,
    files_in,
    staging_in,
    started,
    taken_up,
    tree,
)

from transfer import folder as folders
from transfer import publish as publishing
from transfer.errors import DestinationExists, UnsafeName, UsageError
from transfer.folder_sink import FolderSink

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
