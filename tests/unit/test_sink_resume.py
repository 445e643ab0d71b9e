"""FolderSink killed anywhere, and taken up by the next run."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from sinks import (
    JOB,
    Content,
    _plan_without_looking,
    files_in,
    posix,
    publish_killed,
    staging_in,
    started,
    taken_up,
    tree,
)

from transfer import folder as folders
from transfer import publish as publishing
from transfer.chunks import MIB
from transfer.errors import DamagedData, DestinationExists, UsageError
from transfer.folder import Folder
from transfer.folder_sink import FolderSink
from transfer.merge import plan


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
def test_a_kill_between_renames_is_finished_by_the_next_run(out: Path, moves: int) -> None:
    (out / "m").mkdir()
    content = many_pieces()
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    if moves < 9:
        publish_killed(sink, moves)
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
    publish_killed(sink, 0, os, "unlink")
    again = taken_up(state, content, out)
    again.publish()
    again.close()
    assert files_in(out) == {"a": b"a", "b": b"b"}
    assert os.stat(out / "a").st_nlink == 1


@pytest.mark.parametrize("late", [0, 3, 9])
def test_a_kill_while_settling_is_taken_up(out: Path, late: int) -> None:
    content = many_pieces()
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    publish_killed(sink, late, Folder, "touch")
    again = taken_up(state, content, out)
    assert not again.publishing
    assert all(content.read_back(again))
    again.publish()
    again.close()
    assert len(files_in(out)) == 8


@pytest.mark.parametrize("how", ["gone", "replaced"])
def test_what_was_published_and_is_gone_since_is_said(out: Path, how: str) -> None:
    content = many_pieces()
    sink = started(content, out)
    content.write_to(sink)
    state = sink.state()
    publish_killed(sink, 2)
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


def test_a_rename_chosen_before_a_kill_is_kept_after_it(out: Path) -> None:
    (out / "a").write_bytes(b"mine")
    content = Content({"a": b"theirs", "b": b"b"})
    sink = started(content, out, rename=True)
    content.write_to(sink)
    state = sink.state()
    publish_killed(sink, 1)
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
    publish_killed(sink, 1)
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
    whole = {"t/a": b"aaa", "t/sub/b": bytes(range(256)) * 8000, "t/sub/l": b"aaa", "t/sub/nothing": b""}
    assert (files_in(out), staging_in(out)) == (whole, [])


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
