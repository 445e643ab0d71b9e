"""Tables: within a terminal's width, whole in a pipe, nothing cut but what has to be."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cli.ask import print_json
from cli.table import LEAST, When, table
from cli.units import ago

NOW = 1_800_000_000.0
JOB = "q3xw5e7r9t2y4u6i"
REASON = "the store refuses the broker (AccessDenied) and the operator should look at its policy"
HEADINGS = ("JOB", "KIND", "GIVEN UP", "TRIES", "REASON")
ROW = (JOB, "delete", When(NOW - 200), "16", REASON)


def shown(width: int | None, *rows: tuple[str | When, ...]) -> list[str]:
    return table(HEADINGS, rows or (ROW,), width, NOW, numbers=("TRIES",))


def test_in_a_pipe_a_row_is_a_line_whole_and_its_times_are_iso() -> None:
    assert shown(None) == [
        "JOB               KIND    GIVEN UP              TRIES  REASON",
        f"{JOB}  delete  2027-01-15T07:56:40Z     16  {REASON}",
    ]


def test_on_a_terminal_the_last_column_goes_on_between_words() -> None:
    assert shown(80) == [
        "JOB               KIND    GIVEN UP   TRIES  REASON",
        f"{JOB}  delete  3 min ago     16  the store refuses the broker",
        "                                            (AccessDenied) and the operator",
        "                                            should look at its policy",
    ]
    assert shown(200)[1].endswith(REASON)


@pytest.mark.parametrize("width", [80, 60, 50])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    row = ("n" * 70, "word " * 20, When(NOW), "1234567", "without-any-blank" * 9)
    lines = shown(width, row, ROW)
    assert max(map(len, lines)) <= width
    assert "1234567" in lines[1]
    assert "…" in lines[1]


def test_a_terminal_that_is_too_narrow_for_the_numbers_still_shows_them() -> None:
    (_, first, *_) = shown(10)
    assert first.startswith(JOB[: LEAST - 1] + "…")
    assert "16" in first


def test_what_is_not_there_has_no_headings_and_an_unknown_time_is_a_dash() -> None:
    assert table(HEADINGS, [], 80, NOW) == []
    assert table(("A", "B"), [("x", When(None))], None, NOW)[1] == "x  -"


def test_wide_characters_take_two_columns_and_control_characters_are_escaped() -> None:
    lines = table(("A", "B"), [("文件", "x"), ("abcd", "\x1b[31m")], 80, NOW)
    assert lines == ["A     B", "文件  x", "abcd  \\x1b[31m"]
    assert table(("A", "B"), [("文" * 40, "x" * 40)], 40, NOW)[1].startswith("文")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s ago"),
        (-45, "45 s ago"),
        (-180, "3 min ago"),
        (-7200, "2 h ago"),
        (-10 * 86_400, "10 d ago"),
        (86_400, "in 24 h"),
    ],
)
def test_times_are_told_from_now(seconds: float, said: str) -> None:
    assert ago(NOW + seconds, NOW) == said


def test_what_is_a_time_is_written_as_iso_for_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"created": NOW, "size": 3, "of": {"created": None}}], times=("created",))
    assert capsys.readouterr().out == '[{"created":"2027-01-15T08:00:00Z","size":3,"of":{"created":null}}]\n'


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_command_knows_whether_it_writes_to_a_terminal_and_colours_nothing(tmp_path: Path) -> None:
    """`xfer context ls`, which needs no servers."""
    url = f"nats://{'a' * 40}.example:4222"
    env = {"PATH": os.environ["PATH"], "XFER_HOME": str(tmp_path), "TERM": "xterm"}
    argv = [sys.executable, "-m", "cli", "context"]
    subprocess.run(
        [*argv, "add", "work", "--nats-url", url, "--user", "ann"], env=env, check=True, timeout=60
    )

    def on_terminal(width: int) -> list[str]:
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb") as terminal:
            subprocess.run(
                [*argv, "ls"], env={**env, "COLUMNS": str(width)}, check=True, timeout=60, stdout=theirs
            )
            os.close(theirs)
            return terminal.read1(10_000).decode().splitlines()

    piped = subprocess.run(
        [*argv, "ls"], env={**env, "COLUMNS": "40"}, check=True, timeout=60, capture_output=True, text=True
    ).stdout.splitlines()
    assert piped == ["   NAME  USER  NATS", f"*  work  ann   {url}"]
    assert on_terminal(80) == piped
    heading, narrow = on_terminal(40)
    assert (heading, narrow) == (piped[0], piped[1][:39] + "…")
