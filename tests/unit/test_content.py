"""What there is to send, and what is refused before a job exists."""

from __future__ import annotations

import io
import os
from pathlib import Path

import msgspec
import pytest

from transfer import content
from transfer.errors import CommandFailed, MissingPath, PartialSource, UsageError
from transfer.model import Entry, EntryKind


def test_more_names_than_a_receiver_takes_are_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(content, "MAX_MANIFEST", 30)
    with pytest.raises(UsageError, match="more than one transfer can list"):
        content.of_paths([tmp_path / "file"], (), "preserve")


def test_an_entry_takes_no_more_in_the_manifest_than_is_reckoned() -> None:
    largest = Entry(b"p" * 300, EntryKind.LINK, 1 << 60, 0o777, -(1 << 63), b"t" * 300)
    assert len(msgspec.msgpack.encode(largest)) <= 600 + content.ENTRY


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_stream_needs_a_plain_name(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a file"):
        content.of_stream(io.BytesIO(), name)


def test_leaving_everything_out_is_nothing_to_send(tmp_path: Path) -> None:
    one, two = tmp_path / "a.tmp", tmp_path / "b.tmp"
    one.touch(), two.touch()
    with pytest.raises(MissingPath, match="nothing to send"):
        content.of_paths([one, two], ["*.tmp"], "preserve")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_only_unreadable_files_are_a_partial_source(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(0o000)
    with pytest.raises(PartialSource, match="secret"):
        content.of_paths([tmp_path / "secret"], (), "preserve")


def test_a_tree_can_be_read_again_and_a_stream_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert content.of_paths([tmp_path / "file"], (), "preserve").tree is not None
    assert content.of_stream(io.BytesIO(), "name").tree is None


def test_what_was_not_readable_is_listed_in_the_end_and_not_without_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    material = content.of_paths([tmp_path / "file"], (), "preserve")
    material.raise_if_partial()
    material.unreadable += [(f"f{number}", "permission denied") for number in range(7)]
    with pytest.raises(PartialSource, match=r"f4 \(permission denied\) and 2 more$") as refused:
        material.raise_if_partial()
    assert refused.value.exit_code == 3


def test_the_verdict_on_a_failing_command_is_its_exit_code() -> None:
    material = content.of_command("exit 3", "out")
    assert material._source.read(1) == b""  # type: ignore[union-attr]
    with pytest.raises(CommandFailed, match="exit code 3"):
        material._source.verdict()  # type: ignore[union-attr]
    material.close()


def test_what_a_receiver_will_refuse_is_told_to_the_sender(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "out").symlink_to("/etc/passwd")
    notices = content.of_paths([tree], (), "preserve").notices
    assert any("a receiver will refuse this: tree/out" in notice for notice in notices)
    assert content.of_paths([tree], (), "skip").notices != notices
