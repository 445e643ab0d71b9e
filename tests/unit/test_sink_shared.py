"""FolderSink in folders that no entry names: they are shared, and what is in them has its own fate."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from sinks import (
    Content,
    _no_link,
    _plan_without_looking,
    fetch,
    files_in,
    publish_killed,
    started,
    taken_up,
)

from transfer import folder as folders
from transfer import publish as publishing
from transfer.errors import DestinationExists
from transfer.folder import Folder


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


def test_what_is_left_for_a_shared_folder_is_renamed_there_by_the_next_run(out: Path) -> None:
    (out / "m").mkdir()
    content = Content({"m/x": b"x", "m/y": b"y", "m/z": b"z"})
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    publish_killed(sink, 1)
    for name in "yz":
        (out / "m" / name).write_bytes(b"mine")
    again = taken_up(state, content, out, rename=True)
    publish_killed(again, 1)
    last = taken_up(state, content, out, rename=True)
    assert all(content.read_back(last)), "also what has another name by now"
    assert last.publish() == [out / "m"]
    last.close()
    assert files_in(out) == {"m/x": b"x", "m/y": b"mine", "m/z": b"mine", "m/y (1)": b"y", "m/z (1)": b"z"}
