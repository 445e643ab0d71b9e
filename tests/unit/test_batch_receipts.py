"""A batch that removes or moves files, each after its receipt."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from spools import FakeSender, Killed, Spool, outcomes, removing

from transfer.batch.state import State
from transfer.errors import PartialSource
from transfer.folder import Folder

# receipts, and what follows them


@pytest.mark.parametrize("removal", ["delete", "move"])
def test_a_file_goes_after_its_receipt_and_not_before(spool: Spool, removal: Any) -> None:
    spool.write("sub/a", "a")
    to = str(spool.root.parent / "done")
    spool.run(removal=removal, to=to)
    assert outcomes(spool.run(removal=removal, to=to)) == {"sub/a": "unchanged"}
    spool.room.receive()
    line = spool.run(removal=removal, to=to)["sub/a"]
    assert (line["outcome"], line["receipt"]) == ({"delete": "deleted", "move": "moved"}[removal], 1000.0)
    assert not (spool.root / "sub" / "a").exists()
    assert Path(to, "sub", "a").exists() == (removal == "move")
    assert spool.run(removal=removal, to=to) == {}
    spool.write("sub/a", "a")  # the same content, put there anew
    assert outcomes(spool.run(removal=removal, to=to)) == {"sub/a": "sent"}


def test_a_file_that_changed_since_it_was_sent_stays_and_is_sent(spool: Spool) -> None:
    spool.write("a", "1")
    spool.run()
    spool.room.receive()
    spool.write("a", "2")
    assert outcomes(spool.run(removal="delete")) == {"a": "sent"}
    assert (spool.root / "a").read_text() == "2"


def test_a_touched_file_goes_as_well(spool: Spool) -> None:
    spool.write("a", "1")
    spool.run()
    os.utime(spool.root / "a", (1, 1))
    spool.room.receive()
    assert outcomes(spool.run(removal="delete")) == {"a": "deleted"}


def test_what_the_rules_exclude_now_is_not_removed(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    spool.run(removal="delete", wanted=lambda name: name != b"a")
    assert (spool.root / "a").exists()


def test_a_receipt_of_an_older_version_removes_nothing(spool: Spool) -> None:
    spool.write("a", "1")
    spool.run()
    spool.write("a", "2")
    spool.run()
    first, second = spool.room.posted
    spool.room.receipts[first] = 1.0
    sender = FakeSender(spool.room)
    assert outcomes(spool.run(sender, removal="delete")) == {"a": "unchanged"}
    assert ("receipt", first) not in sender.asked  # nobody needs it any more
    assert ("receipt", second) in sender.asked


def test_a_job_that_is_gone_without_a_receipt_is_told_once_and_sent_only_on_request(spool: Spool) -> None:
    spool.write("a", "a")
    spool.run()
    spool.room.gone.update(spool.room.posted)
    with pytest.raises(PartialSource):
        spool.run(removal="delete")
    assert "before a receipt was seen" in spool.told()["a"]["reason"]
    assert outcomes(spool.run(removal="delete")) == {"a": "unchanged"}
    assert (spool.root / "a").exists()
    assert outcomes(spool.run(only_failed=True)) == {"a": "sent"}


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    with monkeypatch.context() as patched:
        patched.setattr(
            "transfer.folder.Folder.remove", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Denied"))
        )
        with pytest.raises(PartialSource, match="cannot be deleted: denied"):
            spool.run(removal="delete")
    spool.write("../other", "a")
    (spool.root.parent / "other").replace(spool.root / "a")  # it is as good as the one that was sent
    assert outcomes(spool.run(removal="delete")) == {"a": "deleted"}
    assert spool.room.of("a") == [b"a"]


def test_a_removal_that_was_begun_waits_for_a_run_that_removes(spool: Spool) -> None:
    removing(spool)
    assert outcomes(spool.run()) == {"a": "unchanged"}
    assert outcomes(spool.run(removal="delete")) == {"a": "deleted"}


@pytest.mark.parametrize("removal", ["", "delete"])
def test_a_file_that_came_in_the_place_of_one_being_removed_is_new(spool: Spool, removal: Any) -> None:
    removing(spool)
    spool.write("other", "a")
    (spool.root / "other").replace(spool.root / "a")
    assert outcomes(spool.run(removal=removal)) == {"a": "sent"}
    assert spool.room.of("a") == [b"a", b"a"]


def test_a_file_that_was_rewritten_while_it_was_being_removed_is_sent(spool: Spool) -> None:
    removing(spool)
    spool.write("a", "b")
    assert outcomes(spool.run()) == {"a": "sent"}


def dies_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Once."""
    real = getattr(owner, name)

    def die(*_args: object) -> None:
        monkeypatch.setattr(owner, name, real)
        raise Killed

    monkeypatch.setattr(owner, name, die)


@pytest.mark.parametrize("removal", ["delete", "move"])
def test_a_removal_that_nobody_noted_is_told_by_the_next_run(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, removal: Any
) -> None:
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    dies_at(monkeypatch, State, "removed")
    to = str(spool.root.parent / "done")
    with pytest.raises(Killed):
        spool.run(removal=removal, to=to)
    assert list(spool.root.iterdir()) == []
    line = spool.run(removal=removal, to=to)["a"]
    assert line["outcome"] == ("deleted" if removal == "delete" else "moved")
    assert line["to"] == (None if removal == "delete" else os.path.join(os.path.realpath(to), "a"))


def test_the_same_content_put_there_after_a_removal_that_nobody_noted_is_sent(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spool.root.parent / "next").write_text("a")  # now, so that it is another inode
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    dies_at(monkeypatch, State, "removed")
    with pytest.raises(Killed):
        spool.run(removal="delete")
    (spool.root.parent / "next").replace(spool.root / "a")
    assert outcomes(spool.run(removal="delete")) == {"a": "sent"}


def test_a_move_across_file_systems_that_was_cut_off_leaves_one_copy(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = Folder.move

    def move(self: Folder, name: str, to: Folder, new: str) -> None:
        if self.path != to.path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        near(self, name, to, new)

    monkeypatch.setattr(Folder, "move", move)
    spool.write("a", "a")
    spool.run()
    spool.room.receive()
    to = spool.root.parent / "done"
    dies_at(monkeypatch, Folder, "remove")
    with pytest.raises(Killed):
        spool.run(removal="move", to=str(to))
    assert (spool.root / "a").exists()
    assert outcomes(spool.run(removal="move", to=str(to))) == {"a": "moved"}
    assert [path.name for path in to.iterdir()] == ["a"]
    assert list(spool.root.iterdir()) == []
