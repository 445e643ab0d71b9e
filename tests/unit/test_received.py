"""The receiver's record: whenever a run dies, the next one finds its temporary folder, or what it owes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transfer.chunks import make_manifest
from transfer.folder_sink import FolderSink
from transfer.ledger import Ledger
from transfer.model import FORMAT, Entry, EntryKind, ReceiptBody
from transfer.paths import STAGING_PREFIX
from transfer.received import ReceivedJob
from transfer.staging import new_name, remove_forgotten
from transfer.ticket import Ticket

MANIFEST = make_manifest([Entry(b"f", EntryKind.FILE, 3, 0o644, 0)])
RECEIPT = ReceiptBody(FORMAT, "r", 3, 1, b"d" * 32)
TICKET = Ticket.new()


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XFER_HOME", str(tmp_path / "home"))
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def job(output: Path | str) -> ReceivedJob:
    return ReceivedJob(TICKET, output, overwrite=False, rename=False, unsafe_links=False)


def die(job: ReceivedJob) -> None:
    """As a kill does: locks and files are let go, and nothing is put in order."""
    job._stack.close()


def staged(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(STAGING_PREFIX)]


def written(job: ReceivedJob) -> None:
    job.sink.begin(MANIFEST)
    job.begun()
    job.sink.write(MANIFEST.extents(0), b"abc")


def rows() -> int:
    ledger = Ledger(Path(os.environ["XFER_HOME"]) / "state" / "ledger.db")
    try:
        return len(ledger.unfinished("fetch"))
    finally:
        ledger.close()


@pytest.mark.parametrize("output", ["", "/", "/new name", "/new folder/"])
def test_a_run_that_died_before_it_told_of_its_folder_leaves_none(out: Path, output: str) -> None:
    first = job(f"{out}{output}")
    first.sink.begin(MANIFEST)
    base = Path(first.sink.folder)  # type: ignore[attr-defined]
    die(first)
    assert len(staged(base)) == 1
    with job(f"{out}{output}") as again:
        assert staged(base) == []
        assert first.row is not None
        assert again.row is not None
        assert again.row.created == first.row.created
        written(again)
        again.publish(RECEIPT)
        again.end()
    assert (staged(base), rows()) == ([], 0)
    assert len(os.listdir(base)) == 1


def test_a_run_that_died_before_it_removed_its_folder_leaves_that_to_the_next(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = job(out)
    written(first)
    monkeypatch.setattr(FolderSink, "close", lambda self: None)
    first.publish(RECEIPT)
    monkeypatch.undo()
    monkeypatch.setenv("XFER_HOME", str(out.parent / "home"))
    die(first)
    assert len(staged(out)) == 1
    with job(out) as again:
        assert staged(out) == []
        assert (again.receipt, again.paths) == (RECEIPT, [str(out / "f")])
        again.end()
    assert (os.listdir(out), rows()) == (["f"], 0)


def test_what_is_published_leaves_no_folder_while_its_receipt_is_owed(out: Path) -> None:
    for _ in range(2):
        with job(out) as one:
            if one.receipt is None:
                written(one)
            one.publish(RECEIPT)
        assert (os.listdir(out), rows()) == (["f"], 1)
        assert (out / "f").read_bytes() == b"abc"


def test_only_a_folder_of_ours_with_that_name_is_removed(tmp_path: Path) -> None:
    ours, name = new_name("job"), new_name("job")
    (tmp_path / ours).mkdir(mode=0o700)
    (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / name).chmod(0o755)
    (tmp_path / "other").mkdir(mode=0o700)
    for asked in ("", ".", "..", "other", new_name("job"), name, ours):
        remove_forgotten(tmp_path, asked)
    assert sorted(os.listdir(tmp_path)) == sorted(["other", name])
