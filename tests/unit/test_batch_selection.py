"""Which files a batch takes, and that nothing it meets on the way ends it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.batch import selection
from transfer.batch.selection import (
    Found,
    Item,
    Left,
    Rules,
    from_folder,
    from_list,
    open_for_writing,
    settled,
)
from transfer.errors import MissingPath, UsageError
from transfer.source import patterns

ALL = Rules()
NOW = 1_800_000_000.0


def rules(*, include: list[str] | None = None, exclude: list[str] | None = None, **rest: object) -> Rules:
    filters = patterns(include or [], "--include"), patterns(exclude or [], "--exclude")
    return Rules(*filters)._replace(**rest)  # type: ignore[arg-type]


def tree(top: Path, *names: str) -> Path:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    return top


def taken(items: Iterator[Item]) -> list[str]:
    return [item.name.decode() for item in items if isinstance(item, Found)]


def left(items: Iterator[Item]) -> dict[str, tuple[str, bool]]:
    return {item.name.decode(): (item.reason, item.failed) for item in items if isinstance(item, Left)}


def listed(text: bytes, base: Path, given: Rules = ALL, separator: bytes = b"\n") -> list[Item]:
    return list(from_list(io.BytesIO(text), separator, given, str(base)))


# folders


def test_a_folder_gives_its_files_by_their_relative_names_in_order(tmp_path: Path) -> None:
    tree(tmp_path, "b.txt", "a/z", "a/b/c", "a.txt")
    (tmp_path / "empty").mkdir()
    found = [item for item in from_folder(tmp_path, Rules()) if isinstance(item, Found)]
    assert [item.name for item in found] == [b"a/b/c", b"a/z", b"a.txt", b"b.txt"]
    assert all(item.key == item.name for item in found)
    assert found[0].path == os.path.join(os.path.realpath(tmp_path), "a", "b", "c")
    assert found[0].facts.size == 5


def test_what_a_fetch_is_writing_is_not_there(tmp_path: Path) -> None:
    tree(tmp_path, ".xfer-f00/half", "in/.xfer-1", "in/.xferred", "whole")
    assert taken(from_folder(tmp_path, Rules())) == ["in/.xferred", "whole"]
    assert [item.name for item in listed(b"in/.xfer-1\nwhole\n", tmp_path)] == [b"whole"]


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (["*.csv"], [], ["a/x.csv", "b.csv"]),
        ([], ["*.csv"], ["a/b.tmp", "c.tmp"]),
        (["*.csv"], ["a/"], ["b.csv"]),
        (["/b.csv", "a/"], ["*.tmp"], ["a/x.csv", "b.csv"]),
        ([], ["*", "!b.csv"], ["b.csv"]),
        (["nothing"], [], []),
    ],
)
def test_patterns_mean_for_a_list_what_they_mean_for_a_folder(
    tmp_path: Path, include: list[str], exclude: list[str], names: list[str]
) -> None:
    every = ["a/b.tmp", "a/x.csv", "b.csv", "c.tmp"]
    tree(tmp_path, *every)
    given = rules(include=include, exclude=exclude)
    assert taken(from_folder(tmp_path, given)) == names
    assert taken(iter(listed("\n".join(every).encode(), tmp_path, given))) == names


def test_the_folder_that_files_are_moved_to_is_not_looked_into(tmp_path: Path) -> None:
    tree(tmp_path, "in", "done/old", "done.txt", "report")
    apart = tuple(os.path.realpath(tmp_path / name) for name in ("done", "report"))
    assert taken(from_folder(tmp_path, rules(apart=apart))) == ["done.txt", "in"]
    items = listed(b"done.txt\ndone/sub/x\nin\nreport\n", tmp_path, rules(apart=apart))
    assert taken(iter(items)) == ["done.txt", "in"]
    assert {name: failed for name, (_, failed) in left(iter(items)).items()} == {
        "done/sub/x": False,
        "report": False,
    }


def test_links_and_pipes_are_left_and_named(tmp_path: Path) -> None:
    tree(tmp_path, "file", "folder/inside")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "way").symlink_to("folder")
    os.mkfifo(tmp_path / "pipe")
    items = list(from_folder(tmp_path, Rules()))
    assert taken(iter(items)) == ["file", "folder/inside"]
    reasons = {"link": "it is a link", "way": "it is a link", "pipe": "it is a named pipe"}
    assert left(iter(items)) == {name: (reason, False) for name, reason in reasons.items()}


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [("nowhere", MissingPath, "is not there"), ("file", UsageError, "is not a folder")],
)
def test_a_root_that_is_none_is_an_error(tmp_path: Path, name: str, error: type, told: str) -> None:
    tree(tmp_path, "file")
    with pytest.raises(error, match=told):
        list(from_folder(tmp_path / name, Rules()))


def test_a_folder_that_cannot_be_listed_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, "a/1", "b/2", "c/3")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("transfer.batch.selection.os.scandir", scandir)
    items = list(from_folder(tmp_path, Rules()))
    assert taken(iter(items)) == ["a/1", "c/3"]
    assert left(iter(items)) == {"b": ("it cannot be read: permission denied", True)}


def test_what_no_receiver_could_take_is_told_and_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "MAX_DEPTH", 2)
    monkeypatch.setattr(selection, "MAX_PATH", 10)
    tree(tmp_path, "a/b/c", "fits", "a/much-too-long")
    assert taken(from_folder(tmp_path, ALL)) == ["fits"]
    assert left(from_folder(tmp_path, ALL)) == {
        "a/b": ("it is nested too deeply", True),
        "a/much-too-long": ("its name is too long", True),
    }


def test_a_walk_comes_as_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a/1", "b/2")
    looked: list[str] = []
    real = selection._listing
    monkeypatch.setattr(selection, "_listing", lambda folder: looked.append(folder) or real(folder))
    first = next(from_folder(tmp_path, Rules()))
    assert first.name == b"a/1"
    assert len(looked) == 2


# times


def aged(top: Path, **ages: float) -> Path:
    """Files with an mtime so many seconds before NOW. Their ctime is that of the test."""
    for name, age in ages.items():
        tree(top, name)
        os.utime(top / name, (NOW - age, NOW - age))
    return top


def test_newer_than_counts_the_modification(tmp_path: Path) -> None:
    aged(tmp_path, old=101, edge=100, new=99)
    assert taken(from_folder(tmp_path, rules(since=NOW - 100))) == ["edge", "new"]


def test_a_file_is_as_young_as_its_last_change_of_any_kind(tmp_path: Path) -> None:
    aged(tmp_path, old=-NOW)  # far in the future
    os.utime(tmp_path / "old", (1, 1))  # as a copy that keeps times looks
    changed = os.lstat(tmp_path / "old").st_ctime
    assert left(from_folder(tmp_path, rules(min_age=60, now=changed + 59))) == {
        "old": ("it is too young", False)
    }
    assert taken(from_folder(tmp_path, rules(min_age=60, now=changed + 60))) == ["old"]
    os.utime(tmp_path / "old", (changed + 100, changed + 100))
    assert taken(from_folder(tmp_path, rules(min_age=60, now=changed + 90))) == []


class Time:
    """A clock that only waiting moves; `then` happens during the wait."""

    def __init__(self, then: object = None) -> None:
        self.waits: list[float] = []
        self.now, self.then = 100.0, then

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        if callable(self.then):
            self.then()


def settle(items: Iterator[Item], time: Time, **rest: int) -> Iterator[Item]:
    return settled(items, 2.0, clock=lambda: time.now, pause=time.pause, **rest)


def test_a_file_that_changes_between_two_looks_is_being_written(tmp_path: Path) -> None:
    tree(tmp_path, "calm", "gone", "growing", "replaced")

    def then() -> None:
        with (tmp_path / "growing").open("a") as file:
            file.write("more")
        (tmp_path / "gone").unlink()
        (tmp_path / "other").write_text("replaced")
        (tmp_path / "other").replace(tmp_path / "replaced")

    time = Time(then)
    items = list(settle(from_folder(tmp_path, Rules()), time))
    assert taken(iter(items)) == ["calm"]
    reasons = left(iter(items))
    assert reasons["growing"] == reasons["replaced"] == ("it is being written", False)
    assert reasons["gone"][0].startswith("it went away")
    assert time.waits == [2.0]  # together


def test_more_files_than_fit_a_window_wait_in_turns_and_keep_their_order(tmp_path: Path) -> None:
    names = [f"{n:02}" for n in range(10)]
    tree(tmp_path, *names)
    time = Time()
    assert taken(settle(from_folder(tmp_path, Rules()), time, window=4)) == names
    assert 2 <= len(time.waits) <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_file_that_somebody_has_open_for_writing_is_not_settled(tmp_path: Path) -> None:
    tree(tmp_path, "log", "read")
    with (tmp_path / "log").open("a"), (tmp_path / "read").open():
        assert open_for_writing(str(tmp_path / "log"))
        items = list(settle(from_folder(tmp_path, Rules()), Time()))
    assert taken(iter(items)) == ["read"]
    assert not open_for_writing(str(tmp_path / "log"))
    assert not open_for_writing(str(tmp_path / "nowhere"))


# lists


def test_a_list_names_files_from_where_it_counts_and_from_the_root(tmp_path: Path) -> None:
    tree(tmp_path, "base/a/b", "base/c", "other/d")
    base, other = tmp_path / "base", os.path.realpath(tmp_path / "other" / "d")
    items = listed(f"a/b\n./c\na/../c\n{base}/c\n../other/d\n{other}".encode(), base)
    assert [item.name.decode() for item in items] == ["a/b", "c", "c", "c", other[1:], other[1:]]
    assert {item.key for item in items if isinstance(item, Found)} == {
        os.fsencode(os.path.realpath(path)) for path in (base / "a" / "b", base / "c", other)
    }


def test_bad_lines_are_reported_and_the_others_go_on(tmp_path: Path) -> None:
    tree(tmp_path, "good", "last", "folder/in")
    (tmp_path / "link").symlink_to("good")
    long = b"x" * (3 * selection.MAX_LINE)
    text = b"good\n\nnowhere\nfolder\nfolder/\n..\nlink\nno\0ne\n" + long + b"\ngood/below\n#good\nlast"
    items = listed(text, tmp_path)
    assert taken(iter(items)) == ["good", "last"]
    reasons = [item.reason for item in items if isinstance(item, Left)]
    assert all(item.failed for item in items if isinstance(item, Left))
    assert reasons == [
        "it is not there",
        "it is a folder: name its files",
        "it is a folder: name its files",
        "it is a folder: name its files",
        "it is a link: name what it leads to",
        "a name cannot hold a NUL: is it a list for --files-from0?",
        f"a name in the list is longer than {selection.MAX_LINE} bytes",
        "it is not there",
        "it is not there",
    ]


def test_any_name_of_a_file_can_stand_in_a_list_with_zeros(tmp_path: Path) -> None:
    names = ["a\nb", " c ", "#d", "-e"]
    tree(tmp_path, *names)
    raw = [os.fsencode(name) for name in names]
    items = listed(b"\0".join(raw) + b"\0", tmp_path, separator=b"\0")
    assert [item.name for item in items] == raw


class Dribble(io.RawIOBase):
    """A pipe that gives as few bytes at a time as it likes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes = data, sizes

    def read(self, size: int = -1) -> bytes:
        count = self._sizes.pop() if self._sizes else size
        piece, self._data = self._data[:count], self._data[count:]
        return piece


@given(
    st.lists(st.binary(max_size=30).filter(lambda record: b"\n" not in record), max_size=20),
    st.lists(st.integers(1, 40), max_size=40),
    st.booleans(),
)
def test_records_are_what_stands_between_separators_however_they_arrive(
    records: list[bytes], sizes: list[int], final: bool
) -> None:
    data = b"\n".join(records) + (b"\n" if final and records else b"")
    got = list(selection._records(Dribble(data, sizes), b"\n"))  # type: ignore[arg-type]
    assert [record for record in got if record] == [record for record in records if record]
