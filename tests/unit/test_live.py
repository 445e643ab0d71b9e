"""The foot of a terminal: drawn in place, never wrapped, gone without a trace, whatever the window's size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.live import Live, cells, obeys, reflows, shorten, size_of, wrap
from tests.screen import Screen


def live(screen: Screen, *, coloured: bool = False, does_reflow: bool = True) -> Live:
    return Live(screen, screen.size, coloured=coloured, reflows=does_reflow)


def rows(*lines: str) -> list[list[tuple[str, str]]]:
    return [[(line, "36")] for line in lines]


def test_each_drawing_takes_the_place_of_the_one_before() -> None:
    screen = Screen()
    screen.write("$ xfer\n")
    foot = live(screen)
    foot.draw(rows("one", "two", "three"))
    assert (screen.shown, screen.cursor) == (["$ xfer", "one", "two", "three"], False)
    foot.draw(rows("I"))
    assert screen.shown == ["$ xfer", "I"]
    foot.draw(rows("uno", "due"))
    assert screen.shown == ["$ xfer", "uno", "due"]
    foot.clear()
    foot.clear()
    assert (screen.shown, screen.cursor) == (["$ xfer"], True)
    screen.write("done\n")
    assert screen.shown == ["$ xfer", "done"]


@given(st.lists(st.integers(10, 120), min_size=1, max_size=6), st.booleans())
def test_a_window_that_changes_its_width_keeps_no_garbage(widths: list[int], ends: bool) -> None:
    screen = Screen(100)
    screen.write("$ xfer\n")
    foot = live(screen)
    drawn = rows("a" * foot.width, "b" * 40, "c" * foot.width)
    foot.draw(drawn)
    for width in widths:
        screen.resize(width)
        if not ends:
            foot.draw(rows("a" * foot.width, "b" * min(foot.width, 40), "c" * foot.width))
            assert screen.shown == [
                "$ xfer",
                *("a" * foot.width, "b" * min(foot.width, 40), "c" * foot.width),
            ]
    foot.clear()
    assert screen.shown == ["$ xfer"]


def test_where_long_lines_are_cut_off_nothing_above_is_erased() -> None:
    screen = Screen(100)
    screen.write("$ xfer\nxfer1ticket\n")
    foot = live(screen, does_reflow=False)
    foot.draw(rows("a" * 99, "b" * 99))
    screen.columns = 40  # its rows stay as they are
    foot.draw(rows("a" * 39, "b" * 39))
    foot.clear()
    assert screen.shown == ["$ xfer", "xfer1ticket"]


def test_no_more_rows_are_drawn_than_the_window_has() -> None:
    screen = Screen(80, 3)
    live(screen).draw(rows("one", "two", "three", "four"))
    assert screen.shown == ["one", "two"]


def test_colour_is_written_only_where_it_is_wanted() -> None:
    plain, bright = Screen(), Screen()
    live(plain).draw(rows("x"))
    live(bright, coloured=True).draw(rows("x"))
    assert ("\x1b[36m" in plain.raw, "\x1b[36m" in bright.raw) == (False, True)
    assert plain.shown == bright.shown == ["x"]


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("日本", 4), ("e\u0301", 1), ("❤\ufe0f", 2), ("👩", 2), ("ｱ", 1), ("עברית", 5)],
)
def test_a_text_is_as_wide_as_terminals_show_it(text: str, width: int) -> None:
    assert cells(text) == width


@given(st.text(st.sampled_from("ab/日\u0301👩é")), st.integers(0, 20))
def test_what_is_shortened_fits_and_ends_as_before(text: str, width: int) -> None:
    short = shorten(text, width)
    assert cells(short) <= width
    if cells(text) <= width:
        assert short == text
    elif short:
        assert short[0] == "…"
        assert text.endswith(short[1:])


def test_a_sentence_is_broken_between_words_and_never_within_a_command() -> None:
    text = "the file  x is there; carry on with `xfer send a b c -o d`, or not"
    assert wrap(text, 20, "  ") == [
        "the file  x is",
        "  there; carry on",
        "  with",
        "  `xfer send a b c -o d`,",
        "  or not",
    ]
    assert wrap("/a/path/that/is/too/long is there", 10) == ["/a/path/that/is/too/long", "is there"]
    assert wrap("", 10) == [""]


def test_only_terminals_that_obey_get_control_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    for term, obeyed in (("xterm", True), ("dumb", False), ("unknown", False)):
        monkeypatch.setenv("TERM", term)
        assert obeys(Screen()) is obeyed


def test_few_terminals_cut_lines_off() -> None:
    assert reflows({"TERM": "xterm-256color"})
    assert reflows({"TERM": "screen", "TMUX": "/tmp/tmux"})
    assert not any(
        map(reflows, ({"TERM": "screen.xterm"}, {"TERM": "linux"}, {"TERM": "xterm", "XTERM_VERSION": "X"}))
    )


def test_what_does_not_say_its_size_has_the_usual_one() -> None:
    assert size_of(Screen()) == (80, 24)
