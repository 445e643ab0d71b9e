"""A batch's report."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from spools import FakeSender, Spool

from transfer.batch.report import Line, Report, cells
from transfer.batch.run import Asked, run
from transfer.batch.selection import Rules, from_folder
from transfer.errors import DiskFull, UsageError


def test_a_report_names_size_digest_job_and_receipt(spool: Spool) -> None:
    spool.write("file", "12345")
    sent = spool.run()["file"]
    assert (sent["size"], len(sent["digest"]), sent["receipt"]) == (5, 64, None)
    spool.room.receive()
    later = spool.run()["file"]
    assert later == {**sent, "outcome": "unchanged", "receipt": 1000.0}


# the report


def test_a_name_that_is_no_text_is_told_exactly(spool: Spool) -> None:
    try:
        (spool.root / os.fsdecode(b"a\xff")).write_text("x")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    (line,) = spool.run().values()
    assert (line["path"], line["path_base64"]) == ("a\\xff", "Yf8=")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("full", ["begun", "midway", "at the end"])
def test_a_report_that_finds_no_room_is_said_so_and_leaves_nothing(
    spool: Spool, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.write("a", "a")
    opening: Any = os.open
    if full == "begun":

        def no_room(path: Any, *rest: Any, **more: Any) -> int:
            if "report-" in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(opening(path, *rest, **more))

        monkeypatch.setattr("transfer.batch.report.os.open", no_room)
    else:  # as a file that may not grow any more; a buffer's worth is midway
        report = Report(spool.report, "room", "")
        assert report._file is not None
        report._file.close()
        report._file = open("/dev/full", "wb")  # noqa: SIM115
        monkeypatch.setattr("spools.Report", lambda *_args: report)
        if full == "midway":
            for number in range(200):
                spool.write(f"{number:0>100}", "a")
    with pytest.raises(DiskFull, match=r"no room left for the report .*report\.json"):
        spool.run()
    assert not [path for path in spool.report.parent.iterdir() if "report" in path.name]
    monkeypatch.undo()
    spool.run()
    assert len(spool.room.arrived) == len(spool.told())


def test_a_report_is_not_put_where_a_folder_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: is a directory"):
        Report(tmp_path, "room", "")


def test_people_see_what_became_of_it(spool: Spool) -> None:
    spool.write("a", "abc")
    with closing(spool.state()) as state, Report(None, "room", state.root) as report:
        lines: list[Line] = []

        def add(line: Line) -> None:
            lines.append(line)
            Report.add(report, line)

        report.add = add  # type: ignore[method-assign]
        asyncio.run(
            run(
                Asked(),
                state,
                lambda _pause: from_folder(spool.root, Rules()),
                FakeSender(spool.room),
                report,
            )
        )
        assert cells(lines[0]) == ("sent", "3 B", "owed", "a")
        assert str(report.sums) == "1 sent (3 B)"
