"""FolderSink against whoever swaps folders and files for links while it works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sinks import posix, staging_in, started, tree

from transfer.errors import UnsafeName
from transfer.folder import Folder

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
