"""Text that fits a terminal: what is broken, what is shortened, and what is left whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from cli.wrap import shorten, wrap


@given(st.text(st.sampled_from("ab/日\u0301👩é❤\ufe0f")), st.integers(0, 20))
def test_what_is_shortened_fits_and_ends_as_before(text: str, width: int) -> None:
    short = shorten(text, width)
    assert cell_len(short) <= width
    if cell_len(text) <= width:
        assert short == text
    elif short:
        assert short[0] == "…"
        assert text.endswith(short[1:])
        assert not short[1:] or cell_len(short[1]), "an accent without its letter"
        assert cell_len(short) >= width - 1, "more than needed is cut off"


@pytest.mark.parametrize(("width", "shown"), [(0, ""), (2, ".."), (3, "..."), (5, "...ef")])
def test_dots_take_as_much_as_there_is(width: int, shown: str) -> None:
    assert shorten("abcdef", width, "...") == shown


def test_a_sentence_is_broken_between_words_and_never_within_a_command() -> None:
    console = Console()
    text = "the file  x is there; carry on with `xfer send a b c -o d`, or not"
    assert wrap(text, 20, console, "  ") == [
        "the file  x is",
        "  there; carry on",
        "  with",
        "  `xfer send a b c -o d`,",
        "  or not",
    ]
    assert wrap("/a/path/that/is/too/long is there", 10, console) == ["/a/path/that/is/too/long", "is there"]
    assert wrap("日本語 日本語", 7, console) == ["日本語", "日本語"]
    assert wrap("", 10, console) == [""]
