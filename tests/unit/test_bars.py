"""Bars on a terminal of any width: what they say, that no line wraps, that nothing is left behind."""

from __future__ import annotations

import re
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cli.bars import Bars
from tests.screen import Screen
from transfer.errors import JobGone
from transfer.events import (
    Event,
    FileProgress,
    Notice,
    Progress,
    RouteName,
    Summary,
    TicketReady,
    Waiting,
)

TICKET = TicketReady(job="job", ticket="xfer1ticket")
MB = 1_000_000
WIDTHS = (20, 40, 60, 80, 100, 200)
HOSTILE = (
    "a\x1b[2Jred", "bidi\u202etxt.exe", "\u2066iso\u2069", "\u200fmark", "zero\u200bwidth\ufeff", "c1\x9b31m", "line\nbreak",
    "caf\udce9", "日本語の名前" * 9, "עברית", "👩\u200d👩\u200d👧", "e\u0301" * 90, "/".join(["deep"] * 60), "tab\there",
)  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def many(done: int = 6 * MB, *paths: str, files: int = 2000, route: RouteName | None = "s3") -> Progress:
    moving = [FileProgress(path, 3 * MB // 10, MB) for path in paths]
    return Progress(
        done=done, total=12 * MB, wire=0, files=files, route=route, files_done=files // 2, moving=moving
    )


def one(done: int, total: int | None = 12 * MB, *, kept: int = 0) -> Progress:
    return Progress(done=done, total=total, wire=0, files=1, route="webrtc", kept=kept)


def ended() -> Summary:
    return Summary(
        job="job", outcome="receipt", bytes=12 * MB, wire=9 * MB, seconds=4.0, route="s3", files=1, chunks=12,
        resent=0, digest="00",
    )  # fmt: skip


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """One that the library asks for its size."""
    made = Screen()
    monkeypatch.setattr("os.get_terminal_size", made.size)
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    return made


def drawn(event: Progress, width: int, speed: int = 0, encoding: str = "utf-8") -> list[str]:
    """The rows of a picture. speed: bytes a second."""
    clock, screen = Clock(), Screen(width, encoding=encoding)
    with Bars(None, screen, clock, width=width) as bars:
        for seconds in (3, 2, 1) if speed else ():
            bars(msgspec.structs.replace(event, done=event.done - seconds * speed))
            clock.now += 1
        bars(event)
        before = len(screen.raw)
        bars.tick()
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.raw[before:])
    return [row.rstrip() for row in plain.split("\n")]


def test_many_files_get_one_bar_and_a_row_for_each_that_moves() -> None:
    total, *moving = drawn(many(6 * MB, "docs/a.txt", "docs/b.txt", "c"), 84, MB)
    assert total.lstrip("━╺╸") == "  6.0 MB/12.0 MB  50 %  1000 of 2000 files  1.0 MB/s  00:06  s3"
    assert moving == [f"  ━━━╸━━━━━━━━   30 %  {path}" for path in ("docs/a.txt", "docs/b.txt", "c")]


def test_silence_is_no_speed_and_is_said_until_something_moves(screen: Screen) -> None:
    clock = Clock()
    with Bars(None, screen, clock) as bars:
        for done in (0, MB, 2 * MB):
            bars(one(done))
            clock.now += 1
        bars.tick()
        assert "1.0 MB/s" in screen.shown[0]
        clock.now += 4
        bars(one(2 * MB))  # an event in which nothing has moved
        bars.tick()
        assert "  0 B/s  no byte for 5.0 s  webrtc" in screen.shown[0]
        bars(one(3 * MB))
        bars.tick()
        assert "no byte" not in screen.shown[0]
        bars(one(12 * MB))
        clock.now += 60  # all is here: what is done now moves none
        bars.tick()
        assert "no byte" not in screen.shown[0]


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [
        (119, ("6.0 MB/12.0 MB", "50 %", "1000 of 2000 files", "1.0 MB/s", "00:06", "s3"), ()),
        (59, ("6.0 MB/12.0 MB", "1000 of 2000 files", "1.0 MB/s"), ("s3", "50 %", "00:06")),
        (39, ("6.0 MB/12.0 MB",), ("s3", "50 %", "00:06", "1.0 MB/s", "files")),
    ],
)
def test_a_narrow_window_leaves_out_what_is_needed_least(
    width: int, shown: tuple[str, ...], left_out: tuple[str, ...]
) -> None:
    line = drawn(many(), width, MB)[0]
    assert all(text in line for text in shown)
    assert not any(text in line for text in left_out)
    assert line.startswith("━━")


@given(
    st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=300)), max_size=3),
    st.integers(1, 220),
    st.sampled_from(["utf-8", "ascii", "latin-1"]),
    st.sampled_from([0, 1, MB]),
    st.integers(0, 12 * MB),
)
def test_no_row_is_wider_than_its_window_whatever_the_names(
    paths: list[str], width: int, encoding: str, speed: int, done: int
) -> None:
    rows = drawn(many(done, *paths), width, speed, encoding)
    assert len(rows) == 1 + len(paths)
    for row in rows:
        assert cell_len(row) <= width
        assert row.isprintable()
        row.encode(encoding)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
def test_a_name_moves_no_cursor_and_turns_no_text(screen: Screen, path: str, width: int) -> None:
    screen.columns = width  # it refuses any control sequence but the few it knows, and what is not printable
    with Bars(None, screen, Clock()) as bars:
        bars(many(MB, path, path))
        assert len(screen.shown) == 3
    assert not screen.wrapped
    assert screen.shown == []


def test_a_window_that_becomes_wider_while_bars_are_drawn_keeps_one_picture(screen: Screen) -> None:
    clock, widths = Clock(), (20, 21, 40, 80, 200)
    with Bars(None, screen, clock) as bars:
        for done, width in enumerate(widths):
            screen.resize(width)
            clock.now += 1
            bars(many(done * MB, "a" * 90, "b", "c"))
            bars.tick()
            assert len(screen.shown) == 4
            assert cell_len(screen.shown[0]) > width / 2
    assert not screen.wrapped
    assert screen.shown == []


def test_a_ticket_starts_a_line_of_its_own_where_stdout_is_the_same_terminal() -> None:
    both = Screen()
    with Bars(both, both, Clock(), width=80) as bars:
        bars(many(MB, "a", "b"))
        bars(TICKET)
        bars(many(MB, "a", "b"))
        bars.tick()
        assert len(both.shown) == 4
    assert both.shown == ["xfer1ticket"]


def test_bars_leave_stdout_alone() -> None:
    before = sys.stdout
    with Bars(None, Screen(), Clock()) as bars:
        bars(one(MB))
        assert sys.stdout is before


def test_the_seconds_left_count_down_without_an_event(screen: Screen) -> None:
    clock = Clock()
    with Bars(None, screen, clock) as bars:
        bars(Waiting(what="waiting for a receiver", left=42.0))
        assert screen.shown == ["waiting for a receiver, 42 s left"]
        for left in (12, 0):
            clock.now += 30
            bars.tick()
            assert screen.shown == [f"waiting for a receiver, {left} s left"]


def test_a_wait_that_is_long_to_say_takes_several_lines_and_none_wraps(screen: Screen) -> None:
    screen.columns = 40
    with Bars(None, screen, Clock()) as bars:
        bars(Waiting(what="paused by its owner; `xfer resume qw3eqw3eqw3eqw3e` goes on", left=None))
        assert " ".join(screen.shown).startswith("paused by its owner; `xfer resume")
        bars(Waiting(what="x" * 100, left=None))
        assert screen.shown == ["…" + "x" * 39]
    assert not screen.wrapped


def test_a_bar_shows_bytes_rate_time_left_and_route(screen: Screen) -> None:
    clock = Clock()
    screen.columns = 100
    with Bars(None, screen, clock) as bars:
        for done in range(1, 7):
            clock.now += 1
            bars(one(done * MB))
        bars.tick()
        assert screen.shown[0].endswith("━━  6.0 MB/12.0 MB  50 %  1.0 MB/s  00:06  webrtc")


def test_what_an_earlier_run_moved_is_no_speed(screen: Screen) -> None:
    clock = Clock()
    screen.columns = 100
    with Bars(None, screen, clock) as bars:
        bars(one(0))
        for moved in range(1, 4):
            clock.now += 1
            bars(one((5 + moved) * MB, kept=5 * MB))
        bars.tick()
        assert "  8.0 MB/12.0 MB  66 %  1.0 MB/s  00:04  " in screen.shown[0]


@pytest.mark.parametrize(
    ("done", "total", "shown"),
    [
        (12_300_000, 1_000_000_000, "12.3 MB/1.00 GB"),
        (1_070_000_000, 5_000_000_000, "1.07 GB/5.00 GB"),
        (5_000_000, None, "5.0 MB  webrtc"),
    ],
)
def test_a_bar_of_a_large_file_shows_that_it_moves(done: int, total: int | None, shown: str) -> None:
    assert shown in drawn(one(done, total), 80)[0]


def test_only_the_lines_that_stay_are_left(screen: Screen) -> None:
    screen.columns = 100
    with Bars(None, screen, Clock()) as bars:
        bars(many(MB, "a", "b"))
        bars(Notice(text="a pipe is left out"))
        bars.tick()
        bars(ended())
        for late in (many(MB, "a"), Waiting(what="late"), Notice(text="late")):
            bars(late)
            bars.tick()
    assert screen.shown == [
        "a pipe is left out",
        "receipt: somebody has it, verified (1 file, 12.0 MB in 4.0 s by s3)",
    ]
    assert screen.cursor


def test_what_stays_is_broken_between_words(screen: Screen) -> None:
    screen.columns = 40
    with Bars(None, screen, Clock()) as bars:
        bars(ended())
    assert screen.shown == ["receipt: somebody has it, verified (1", "  file, 12.0 MB in 4.0 s by s3)"]
    assert not screen.wrapped


def test_an_error_gives_the_cursor_back(screen: Screen) -> None:

    def fail() -> None:
        with Bars(None, screen, Clock()) as bars:
            bars(one(MB))
            assert not screen.cursor
            raise JobGone("gone")

    with pytest.raises(JobGone):
        fail()
    assert (screen.cursor, screen.shown) == (True, [])


def test_no_color_leaves_out_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> list[str]:
        screen = Screen()
        with Bars(None, screen, Clock(), width=80) as bars:
            bars(many(MB, "a"))
        return re.findall(r"\x1b\[(?:\d+;)*3\d", screen.raw)

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


def test_twenty_thousand_events_draw_only_as_often_as_time_passes(screen: Screen) -> None:
    with Bars(None, screen, Clock()) as bars:
        for done in range(20_000):
            event: Event = many(done, "a", "b")
            bars(event)
        assert screen.raw.count("━") < 100
