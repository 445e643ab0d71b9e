"""FolderSink: where entries arrive, and that nothing stands under a final name before publish."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import pytest
from sinks import Content, fetch, files_in, posix, staging_in, started, tree

from transfer.errors import DestinationExists, NotAllowed, UnsafeName, UsageError

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


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("where", ["/proc/x/", "/proc/x", "/proc/", "{out}/{long}/", "{out}/{long}"])
def test_where_nothing_can_be_made_is_a_usage_error(out: Path, where: str) -> None:
    with pytest.raises(UsageError, match="cannot be written: ") as told:
        started(Content({"a": b"x"}), where.format(out=out, long="n" * 300))
    assert told.value.next_step == "choose another folder with -o"
    assert os.listdir(out) == []


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
