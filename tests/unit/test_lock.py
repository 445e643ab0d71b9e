"""File locks: one holder at a time, and none that outlives its process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from transfer import lock
from transfer.errors import Locked
from transfer.lock import FileLock, is_held

ROOT = Path(__file__).resolve().parents[2]


def test_a_second_run_is_told_what_the_first_does(tmp_path: Path) -> None:
    with FileLock(tmp_path / "l", "sends this"):
        with pytest.raises(Locked, match="another run sends this") as caught:
            FileLock(tmp_path / "l", "sends this")
        assert caught.value.exit_code == 11
    FileLock(tmp_path / "l", "sends this").close()


def test_a_look_tells_whether_it_is_held_and_changes_nothing(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "l")
    assert list(tmp_path.iterdir()) == []
    with FileLock(tmp_path / "l", "x"):
        assert is_held(tmp_path / "l")
        with pytest.raises(Locked):
            FileLock(tmp_path / "l", "x")
    (tmp_path / "l").touch()  # what a killed holder leaves
    assert not is_held(tmp_path / "l")


def test_different_files_are_different_locks(tmp_path: Path) -> None:
    with FileLock(tmp_path / "a", "x"), FileLock(tmp_path / "b", "x"):
        pass


def test_closing_twice_does_not_let_go_of_another_ones_lock(tmp_path: Path) -> None:
    first = FileLock(tmp_path / "l", "x")
    first.close()
    with FileLock(tmp_path / "l", "x"):
        first.close()
        with pytest.raises(Locked):
            FileLock(tmp_path / "l", "x")


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_the_file_and_its_folder_are_ours_alone(tmp_path: Path) -> None:
    with FileLock(tmp_path / "locks" / "l", "x"):
        assert stat.S_IMODE((tmp_path / "locks" / "l").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o700


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from transfer.lock import FileLock\n"
        "lock = FileLock(Path(sys.argv[1]), 'x'); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "l")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(Locked):
        FileLock(tmp_path / "l", "x")
    child.kill()
    child.communicate()
    FileLock(tmp_path / "l", "x").close()


@pytest.mark.skipif(os.name != "posix", reason="Windows removes no open file")
def test_a_lock_that_was_let_go_leaves_no_file(tmp_path: Path) -> None:
    FileLock(tmp_path / "l", "x").close()
    assert not (tmp_path / "l").exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows removes no open file")
def test_a_file_that_its_holder_removed_between_our_open_and_our_lock_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, honest = tmp_path / "l", lock._locked

    def too_late(path: Path, what: str) -> int:
        monkeypatch.setattr(lock, "_locked", honest)
        handle = honest(path, what)
        path.unlink()
        return handle

    monkeypatch.setattr(lock, "_locked", too_late)
    with FileLock(path, "x"), pytest.raises(Locked):
        FileLock(path, "x")
