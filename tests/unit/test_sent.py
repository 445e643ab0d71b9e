"""What a sender's ledger keeps, and how much of it is believed once broker and store were asked."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from transfer.api import JobState, JobStatus
from transfer.ledger import SegmentRow
from transfer.sent import SendAgain, absolute_paths, whose

ASKED = SendAgain(
    paths=[b"/a", b"/not utf-8 \xff"],
    exclude=[b"*.tmp"],
    links="preserve",
    total=7,
    via="auto",
    threshold=100,
    wait=None,
    expire=60.0,
    fetches=None,
    receipt=False,
    compress="auto",
    context="work",
)


def status(
    *complete: int, uploads: dict[int, str] | None = None, state: JobState = JobState.OPEN
) -> JobStatus:
    return JobStatus(state, list(complete), 0.0, [], uploads or {})


def row(number: int, *, noted: bool = True) -> SegmentRow:
    return SegmentRow(number, f"ours{number}", 100 if noted else 0)


@pytest.mark.parametrize(
    ("said", "rows", "expected"),
    [
        pytest.param(status(0, 1), [row(0), row(1)], ([0, 1], [], []), id="as it was noted"),
        pytest.param(status(), [row(0, noted=False)], ([], [], []), id="nothing is complete"),
        pytest.param(
            status(0, 1), [row(0), row(1, noted=False)], ([0], [1], []), id="the last answer was lost"
        ),
        pytest.param(status(0, 1), [row(0)], ([0], [1], []), id="the last commits were lost"),
        pytest.param(status(0, 1, 2), [], ([], [0, 1, 2], []), id="nothing is known here"),
        pytest.param(
            status(0, 2, uploads={1: "ours1"}),
            [row(0), row(1, noted=False), row(2)],
            ([0, 2], [], []),
            id="one beyond a gap that is ours",
        ),
        pytest.param(
            status(0, 2, uploads={1: "another's"}),
            [row(0), row(1, noted=False), row(2)],
            ([0], [], [2]),
            id="another host is at the gap",
        ),
        pytest.param(status(0, 2), [row(0), row(2)], ([0], [], [2]), id="a gap that nobody is at"),
        pytest.param(
            status(0, 1, 2, 3),
            [row(0), row(1, noted=False), row(2), row(3)],
            ([0], [1, 2, 3], []),
            id="another host filled the gap and went on",
        ),
        pytest.param(
            status(0, 1, 3), [row(0), row(3)], ([0], [1], [3]), id="another host filled one of two gaps"
        ),
        pytest.param(
            status(0, 1, state=JobState.VOID), [row(0)], ([0], [], []), id="nothing is left to be read"
        ),
    ],
)
def test_the_ledger_is_believed_up_to_where_somebody_else_may_have_gone_on(
    said: JobStatus, rows: list[SegmentRow], expected: tuple[list[int], list[int], list[int]]
) -> None:
    assert whose(said, rows) == expected


def test_what_was_asked_for_comes_back_as_it_was() -> None:
    assert SendAgain.unpack(ASKED.pack()) == ASKED
    newer = msgspec.structs.replace(ASKED, v=2)
    assert [SendAgain.unpack(raw) for raw in (newer.pack(), b"", b"junk")] == [None, None, None]


def test_a_place_is_its_paths_in_any_order_and_how_they_are_scanned() -> None:
    place = ASKED.place()
    assert msgspec.structs.replace(ASKED, paths=ASKED.paths[::-1], via="s3", total=8).place() == place
    others = {"paths": [b"/a"], "exclude": [], "links": "follow"}
    assert all(msgspec.structs.replace(ASKED, **{k: v}).place() != place for k, v in others.items())


def test_paths_become_absolute_and_mean_what_they_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_paths(["f", "./f", Path("f")]) == [os.fsencode(tmp_path / "f")] * 3
    assert absolute_paths(["link/../f"]) == [os.fsencode(tmp_path) + b"/link/../f"]
    assert absolute_paths(["."]) == [os.fsencode(tmp_path)]
