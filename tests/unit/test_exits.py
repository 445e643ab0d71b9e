"""Which error is told of, and what never is."""

from __future__ import annotations

import asyncio

import pytest

from cli.exits import complain, first_own
from tests.screen import Screen
from transfer.errors import JobGone, PeerLost


def test_a_group_is_told_of_by_its_first_own_error() -> None:
    own = PeerLost("gone")
    inner = ExceptionGroup("inner", [KeyError("x"), own])
    group = BaseExceptionGroup("outer", [asyncio.CancelledError(), ValueError(), inner, JobGone("later")])
    assert first_own(group) is own


def test_a_group_without_an_own_error_is_told_of_by_its_first_that_is_no_cancellation() -> None:
    bug = ValueError()
    assert first_own(BaseExceptionGroup("outer", [asyncio.CancelledError(), bug, KeyError()])) is bug


def test_an_error_in_no_group_is_itself() -> None:
    error = JobGone("gone")
    assert first_own(error) is error


def test_an_error_on_a_terminal_is_broken_between_words_and_its_command_is_left_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen(40)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("os.get_terminal_size", screen.size)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "/srv/" + "folder/" * 3 + "日本語"
    complain(f"{long} is not there\x1b[2J", "carry on with `xfer fetch T -o in`, or name another folder")
    assert screen.shown == [
        f"xfer: {long}",
        r"      is not there\x1b[2J;",
        "      carry on with",
        "      `xfer fetch T -o in`, or name",
        "      another folder",
    ]
    assert not screen.wrapped
