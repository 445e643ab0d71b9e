"""Removing: only what was sent, never over anything, and across file systems a copy that is whole first."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from transfer.batch import removal
from transfer.batch.examine import examine
from transfer.errors import SourceChanged, SourceTrouble
from transfer.folder import Folder
from transfer.source import Facts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "report.tar.gz"
    path.parent.mkdir()
    path.write_bytes(b"content" * 1000)
    path.chmod(0o640)
    os.utime(path, ns=(1_000_000_001, 1_000_000_001))
    return path


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rename between two folders crosses a file system."""
    near = Folder.move

    def move(self: Folder, name: str, to: Folder, new: str) -> None:
        if self.path != to.path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        near(self, name, to, new)

    monkeypatch.setattr(Folder, "move", move)


def moved(file: Path, name: bytes = b"sub/report.tar.gz", **rest: Callable[..., None]) -> str:
    facts, digest = examine(str(file))
    to = str(file.parent.parent / "done")
    return removal.move(str(file), facts, digest, to, name, rest.pop("chosen", lambda _where: None), **rest)


@pytest.mark.parametrize("way", ["near", "far"])
def test_a_moved_file_keeps_its_path_content_mode_and_time(
    file: Path, way: str, request: pytest.FixtureRequest
) -> None:
    if way == "far":
        request.getfixturevalue("far")
    where = Path(moved(file))
    assert where == file.parent.parent.resolve() / "done" / "sub" / "report.tar.gz"
    assert where.read_bytes() == b"content" * 1000
    assert stat.S_IMODE(where.stat().st_mode) == 0o640
    assert where.stat().st_mtime_ns == 1_000_000_001
    assert not file.exists()
    assert [path.name for path in where.parent.iterdir()] == ["report.tar.gz"]


@pytest.mark.parametrize("way", ["near", "far"])
def test_what_is_there_already_is_never_overwritten(
    file: Path, way: str, request: pytest.FixtureRequest
) -> None:
    if way == "far":
        request.getfixturevalue("far")
    there = file.parent.parent / "done" / "sub"
    there.mkdir(parents=True)
    (there / "report.tar.gz").write_text("another")
    (there / "report.tar (1).gz").symlink_to("nowhere")
    chosen: list[str] = []
    where = moved(file, chosen=chosen.append)
    assert where == chosen[-1] == str(there.resolve() / "report.tar (2).gz")
    assert (there / "report.tar.gz").read_text() == "another"


@pytest.mark.parametrize("way", ["near", "far"])
def test_a_name_that_is_taken_after_the_look_is_not_overwritten_either(
    file: Path, way: str, request: pytest.FixtureRequest
) -> None:
    if way == "far":
        request.getfixturevalue("far")

    def taken(where: str) -> None:
        if "(" not in where:
            Path(where).write_text("another")

    where = Path(moved(file, chosen=taken))
    assert where.name == "report.tar (1).gz"
    assert (where.parent / "report.tar.gz").read_text() == "another"


@pytest.mark.parametrize("way", ["near", "far"])
def test_a_file_that_is_replaced_at_the_last_moment_stays_where_it_is(
    file: Path, way: str, request: pytest.FixtureRequest
) -> None:
    if way == "far":
        request.getfixturevalue("far")

    def replaced(_where: str) -> None:
        other = file.with_name("other")
        other.write_text("newer")
        other.replace(file)

    with pytest.raises(SourceChanged):
        moved(file, chosen=replaced)
    assert file.read_text() == "newer"
    assert [path for path in (file.parent.parent / "done").rglob("*") if path.is_file()] == []


def test_a_copy_that_ends_too_soon_leaves_nothing_and_the_original(file: Path, far: None) -> None:
    class Over(Exception):
        pass

    def checkpoint() -> None:
        raise Over

    with pytest.raises(Over):
        moved(file, checkpoint=checkpoint)
    assert file.exists()
    assert [path for path in (file.parent.parent / "done").rglob("*") if path.is_file()] == []


def test_the_original_stays_until_its_copy_has_its_name_and_is_synced(
    file: Path, far: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    remove, sync, near = Folder.remove, Folder.sync, Folder.move
    monkeypatch.setattr(removal, "sync_file", lambda fd: done.append("content synced"))
    monkeypatch.setattr(Folder, "move", lambda *args: (near(*args), done.append("named")))
    monkeypatch.setattr(
        Folder, "sync", lambda self: (sync(self), done.append(f"{Path(self.path).name} synced"))
    )
    monkeypatch.setattr(Folder, "remove", lambda *args: (remove(*args), done.append("removed")))
    moved(file)
    assert done == ["content synced", "named", "sub synced", "removed", "in synced"]


def test_a_move_that_was_cut_off_after_the_copy_only_ends_it(file: Path) -> None:
    facts, digest = examine(str(file))
    copy = file.with_name("copy")
    assert not removal.finish(str(file), facts, digest, str(copy))
    copy.write_bytes(b"CONTENT" * 1000)
    assert not removal.finish(str(file), facts, digest, str(copy))
    assert file.exists()
    copy.write_bytes(file.read_bytes())
    assert removal.finish(str(file), facts, digest, str(copy))
    assert not file.exists()
    assert copy.exists()


def test_a_rename_in_two_steps_that_was_cut_off_only_ends_it(file: Path) -> None:
    facts, digest = examine(str(file))
    other = file.with_name("other")
    os.link(file, other)
    assert removal.finish(str(file), facts, digest, str(other))
    assert not file.exists()
    assert other.read_bytes() == b"content" * 1000


def touched(file: Path) -> None:
    os.utime(file, (5, 5))


def rewritten(file: Path) -> None:
    file.write_bytes(b"CONTENT" * 1000)


def grown(file: Path) -> None:
    file.write_bytes(b"content" * 1001)


def replaced(file: Path) -> None:
    file.with_name("other").write_bytes(file.read_bytes())
    file.with_name("other").replace(file)


def linked(file: Path) -> None:
    file.rename(file.with_name("other"))
    file.symlink_to("other")


@pytest.mark.parametrize(
    ("change", "same", "same_while_removing"),
    [
        (lambda _file: None, True, True),
        (touched, True, True),
        (lambda file: file.chmod(0o600), True, True),
        (rewritten, False, False),
        (grown, False, False),
        (replaced, True, False),
        (linked, False, False),
    ],
)
def test_it_is_the_same_file_by_its_facts_or_its_content(
    file: Path, change: Callable[[Path], object], same: bool, same_while_removing: bool
) -> None:
    facts, digest = examine(str(file))
    change(file)
    assert (removal.still(str(file), facts, digest) is not None) == same
    assert (removal.still(str(file), facts, digest, renamed=True) is not None) == same_while_removing


def test_a_file_is_deleted_only_as_it_looked(file: Path) -> None:
    facts, _ = examine(str(file))
    touched(file)
    with pytest.raises(SourceChanged):
        removal.delete(str(file), facts)
    removal.delete(str(file), examine(str(file))[0])
    assert not file.exists()


def test_numbers_go_before_the_extension() -> None:
    assert list(islice(removal.numbered("a.txt"), 3)) == ["a.txt", "a (1).txt", "a (2).txt"]
    assert list(islice(removal.numbered(".profile"), 2)) == [".profile", ".profile (1)"]


# the digest of a version


def test_a_digest_is_of_one_version(file: Path) -> None:
    def change() -> None:
        calls.append(None)
        with file.open("ab") as more:
            more.write(b"x")

    calls: list[None] = []
    with pytest.raises(SourceChanged, match="changed while it was read"):
        examine(str(file), change)
    assert len(calls) == 1  # whoever appends for ever holds up nobody
    with pytest.raises(SourceChanged, match="is gone"):
        examine(str(file.with_name("nowhere")))
    with pytest.raises((SourceChanged, SourceTrouble)):
        examine(str(file.parent))
    os.mkfifo(file.with_name("pipe"))
    with pytest.raises(SourceChanged, match="not a file"):
        examine(str(file.with_name("pipe")))


def test_facts_and_digest_belong_together(file: Path) -> None:
    facts, digest = examine(str(file))
    assert isinstance(facts, Facts)
    assert (facts.size, len(digest)) == (7000, 32)
    touched(file)
    assert examine(str(file))[1] == digest
