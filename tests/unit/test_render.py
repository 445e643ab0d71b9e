"""What each view writes where, with the clock as an argument."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest

from cli.bars import Bars
from cli.render import Lines, Ndjson, Quiet, View, choose, line_of
from tests.screen import Screen
from transfer.events import (
    Event,
    Failure,
    FileProgress,
    ItemFailed,
    Notice,
    Progress,
    Receipt,
    RouteChosen,
    RouteName,
    Stored,
    Summary,
    TicketReady,
    Unfinished,
    Waiting,
)

TICKET = TicketReady(job="job", ticket="xfer1ticket")
MOVING = Progress(done=3_000_000, total=12_000_000, wire=2_000_000, files=1, route="s3")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def summary(outcome: str = "receipt", *, paths: tuple[str, ...] = (), route: RouteName = "s3") -> Summary:
    return Summary(
        job="job",
        outcome=outcome,  # type: ignore[arg-type]
        bytes=12_000_000,
        wire=9_000_000,
        seconds=4.0,
        route=route,
        files=1,
        chunks=12,
        resent=0,
        digest="00",
        paths=list(paths),
    )


def lines(*events: Event) -> tuple[str, str]:
    """(stdout, stderr) of the view for where there is no terminal."""
    out, err = io.StringIO(), io.StringIO()
    view = Lines(out, err, Clock())
    for event in events:
        view(event)
    return out.getvalue(), err.getvalue()


def bars(clock: Clock, *events: Event, out: io.StringIO | None = None) -> str:
    """What the terminal got, without its control sequences."""
    screen = Screen(100)
    with Bars(out, screen, clock, width=100) as view:
        for event in events:
            view(event)
            view.tick()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.raw)


def test_the_ticket_is_all_that_stdout_gets() -> None:
    events = (
        TICKET,
        Waiting(what="waiting for a receiver", left=9.0),
        MOVING,
        Notice(text="skipped"),
        summary(),
    )
    assert lines(*events)[0] == "xfer1ticket\n"


def test_the_ticket_is_flushed_at_once() -> None:
    flushed: list[str] = []

    class Out(io.StringIO):
        def flush(self) -> None:
            flushed.append(self.getvalue())

    Quiet(Out())(TICKET)
    assert flushed == ["xfer1ticket\n"]


def test_the_ticket_never_reaches_stderr() -> None:
    out = io.StringIO()
    assert "xfer1" not in lines(TICKET, summary())[1]
    assert "xfer1" not in bars(
        Clock(), Waiting(what="waiting", left=None), TICKET, MOVING, summary(), out=out
    )
    assert out.getvalue() == "xfer1ticket\n"


def test_a_ticket_that_goes_to_a_file_is_not_shown() -> None:
    elsewhere = TicketReady(job="job", ticket=None)
    assert lines(elsewhere) == ("", "")
    out = io.StringIO()
    assert bars(Clock(), elsewhere, out=out) == out.getvalue() == ""
    raw = io.BytesIO()
    Ndjson(raw)(elsewhere)
    assert json.loads(raw.getvalue()) == {"event": "ticket", "v": 1, "job": "job", "ticket": None}


def test_quiet_shows_the_ticket_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with Quiet(out) as view:
        for event in (TICKET, MOVING, Notice(text="skipped"), summary()):
            view(event)
            view.tick()
    assert out.getvalue() == "xfer1ticket\n"
    assert capsys.readouterr() == ("", "")


def test_quiet_names_the_items_of_a_room_that_failed() -> None:
    out, err = io.StringIO(), io.StringIO()
    with Quiet(out, err) as view:
        view(
            ItemFailed(number=13, job="j", label="big.img", code=8, message="it is there already", next="go")
        )
    assert (out.getvalue(), err.getvalue()) == ("", "item 13 (big.img): it is there already; go\n")


def test_progress_gets_a_line_every_ten_seconds() -> None:
    clock, err = Clock(), io.StringIO()
    view = Lines(None, err, clock)
    for second in range(31):
        clock.now = 1000.0 + second
        view(Progress(done=second * 100_000, total=10_000_000, wire=0, files=1, route="webrtc"))
        view.tick()
    assert err.getvalue().splitlines() == [
        "1.0 MB of 10.0 MB (10 %), 100.0 kB/s, 1 min 30 s left, webrtc",
        "2.0 MB of 10.0 MB (20 %), 100.0 kB/s, 1 min 20 s left, webrtc",
        "3.0 MB of 10.0 MB (30 %), 100.0 kB/s, 1 min 10 s left, webrtc",
    ]


def test_a_log_is_told_nothing_of_what_is_done_soon_but_warnings() -> None:
    clock, err = Clock(), io.StringIO()
    view = Lines(None, err, clock, terse=True)
    for event in (
        Waiting(what="waiting for a receiver", left=60.0),
        RouteChosen(route="s3", reason="it is large"),
        Notice(text="carrying on"),
        Notice(text="a pipe is left out", warning=True),
        MOVING,
    ):
        clock.now += 1
        view(event)
        view.tick()
    view(summary())
    assert err.getvalue() == "a pipe is left out\n"


def test_a_log_gets_a_line_every_ten_seconds_at_most_and_then_also_how_it_ended() -> None:
    clock, err = Clock(), io.StringIO()
    view = Lines(None, err, clock, terse=True)
    for second in range(1, 26):
        clock.now = 1000.0 + second
        view(Waiting(what=f"waiting for what comes in second {second}", left=None))
        view(Notice(text="the connection was lost and is back"))
        view.tick()
    view(summary())
    assert err.getvalue().splitlines() == [
        "waiting for what comes in second 10",
        "waiting for what comes in second 20",
        "receipt: somebody has it, verified (1 file, 12.0 MB in 4.0 s by s3)",
    ]


def test_a_line_of_progress_counts_the_files_and_not_what_an_earlier_run_moved() -> None:
    clock, err = Clock(), io.StringIO()
    view = Lines(None, err, clock)
    many: dict[str, Any] = {"total": 10_000_000, "wire": 0, "files": 200, "route": "s3"}
    view(Progress(done=0, files_done=0, **many))
    clock.now += 10
    moving = [FileProgress("a", 1, 2)]
    view(Progress(done=5_600_000, under_way=400_000, kept=5_000_000, files_done=120, moving=moving, **many))
    assert err.getvalue() == "6.0 MB of 10.0 MB (60 %), 120 of 200 files, 100.0 kB/s, 40 s left, s3\n"


def test_an_unknown_length_has_no_share_and_no_end() -> None:
    clock, err = Clock(), io.StringIO()
    view = Lines(None, err, clock)
    view(Progress(done=0, total=None, wire=0, files=1, route="s3"))
    clock.now += 10
    view(Progress(done=5_000_000, total=None, wire=0, files=1, route="s3"))
    assert err.getvalue() == "5.0 MB, 500.0 kB/s, s3\n"


def test_the_rate_is_that_of_this_run_and_counts_what_is_under_way() -> None:
    """Not what an earlier run had stored; and not nothing until a whole part is."""
    clock, err = Clock(), io.StringIO()
    view = Lines(None, err, clock)
    clock.now += 5
    at: dict[str, Any] = {"total": 20_000_000, "wire": 0, "files": 1, "route": "s3"}
    view(Progress(done=9_000_000, **at))
    clock.now += 5
    view(Progress(done=9_000_000, under_way=500_000, **at))
    clock.now += 10
    view(Progress(done=9_000_000, under_way=1_500_000, **at))
    clock.now += 10
    view(Progress(done=9_000_000, under_way=0, **at))  # given up, to be sent again
    assert err.getvalue().splitlines() == [
        "9.5 MB of 20.0 MB (47 %), 100.0 kB/s, 1 min 45 s left, s3",
        "10.5 MB of 20.0 MB (52 %), 100.0 kB/s, 1 min 35 s left, s3",
        "9.0 MB of 20.0 MB (45 %), 0 B/s, s3",
    ]


def test_waiting_is_said_once_and_then_every_ten_seconds_with_less_left() -> None:
    clock, err = Clock(), io.StringIO()
    view = Lines(None, err, clock)
    for second in range(21):
        clock.now = 1000.0 + second
        view(Waiting(what="waiting for a receiver", left=60.0 - second))
        view.tick()
    assert err.getvalue().splitlines() == [
        "waiting for a receiver, 60 s left",
        "waiting for a receiver, 50 s left",
        "waiting for a receiver, 40 s left",
    ]


def test_a_wait_without_limit_counts_nothing() -> None:
    assert lines(Waiting(what="waiting for a receiver", left=None))[1] == "waiting for a receiver\n"


def test_nothing_follows_the_last_line() -> None:
    clock, err = Clock(), io.StringIO()
    view = Lines(None, err, clock)
    view(MOVING)
    clock.now += 20  # a line of progress is due
    late = (Waiting(what="waiting", left=None), MOVING, Notice(text="late"))
    for event in (summary(), *late):
        view(event)
        view.tick()
    assert err.getvalue() == "receipt: somebody has it, verified (1 file, 12.0 MB in 4.0 s by s3)\n"
    after_the_bar = bars(Clock(), MOVING, summary(), *late).rpartition("receipt: ")[2]
    assert after_the_bar == "somebody has it, verified (1 file, 12.0 MB in 4.0 s by s3)\n"


def test_the_last_line_says_that_somebody_has_it() -> None:
    assert lines(summary())[1] == "receipt: somebody has it, verified (1 file, 12.0 MB in 4.0 s by s3)\n"


def test_the_last_line_says_until_when_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    stored = Stored(job="job", segments=2, expires=1_795_000_000.0)
    text = lines(stored, summary("stored"))[1]
    assert text.startswith("stored: anyone with the ticket can fetch it until 2026-11-18 ")
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ((), "it to stdout"),
        (("a",), "a"),
        (("a", "b", "c"), "a, b, c"),
        (("a", "b", "c", "d", "e"), "a, b, c and 2 more"),
    ],
)
def test_the_last_line_of_a_fetch_says_what_was_written(paths: tuple[str, ...], said: str) -> None:
    assert lines(summary("fetched", paths=paths))[1].startswith(f"fetched: wrote {said}, verified (1 file, ")


def test_a_peer_s_names_cannot_move_the_cursor() -> None:
    evil = "a\x1b[2Jb\u202ec\nd"
    for event in (
        Notice(text=evil),
        RouteChosen(route="s3", reason=evil),
        summary("fetched", paths=(evil,)),
        Waiting(what=evil, left=1.0),
    ):
        for text in (lines(event)[1], bars(Clock(), event)):
            assert "\x1b" not in text
            assert "\u202e" not in text
            assert r"a\x1b[2Jb\u202ec\nd" in text


def test_markup_in_a_name_is_text() -> None:
    assert "[red]x[/red] :smile:" in bars(Clock(), Notice(text="[red]x[/red] :smile:"))


def test_ndjson_is_one_object_a_line_with_event_and_version() -> None:
    out = io.BytesIO()
    events: list[Event] = [
        TICKET,
        Waiting(what="waiting", left=1.5),
        RouteChosen(route="s3", reason="it is large"),
        MOVING,
        Notice(text="skipped"),
        Stored(job="job", segments=2, expires=1.0),
        Receipt(job="job", receiver="r", digest="00"),
        summary("fetched", paths=("line\nbreak",)),
        Failure(code=4, kind="JobGone", message="gone", next="ask"),
    ]
    with Ndjson(out) as view:
        for event in events:
            view(event)
            view.tick()
    objects = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [o["event"] for o in objects] == [
        "ticket",
        "waiting",
        "route",
        "progress",
        "notice",
        "stored",
        "receipt",
        "summary",
        "error",
    ]
    assert {o["v"] for o in objects} == {1}
    assert objects[0]["ticket"] == "xfer1ticket"


@pytest.mark.parametrize(
    ("terminal", "json_wanted", "quiet", "dumb", "kind"),
    [
        (True, False, False, False, Bars),
        (True, False, False, True, Lines),
        (False, False, False, False, Lines),
        (True, False, True, False, Quiet),
        (True, True, True, False, Ndjson),
    ],
)
def test_the_view_fits_the_terminal_and_the_options(
    terminal: bool, json_wanted: bool, quiet: bool, dumb: bool, kind: type[View]
) -> None:
    screen, log = Screen(), io.StringIO()
    err = screen if terminal else log
    view = choose(None, err, json=io.BytesIO() if json_wanted else None, quiet=quiet, dumb=dumb)
    assert type(view) is kind
    if isinstance(view, Lines):
        view(Notice(text="so it goes"))
        assert (screen.shown, log.getvalue()) == (["so it goes"] if terminal else [], ""), (
            "a log is told little"
        )


def test_without_a_terminal_none_of_the_library_for_it_is_loaded() -> None:
    run = """
import sys
from cli.exits import complain
from cli.render import choose
from transfer.events import Progress
with choose(sys.stdout, sys.stderr, json=None, quiet=False, dumb=False) as view:
    view(Progress(done=1, total=2, wire=0, files=2, route="s3"))
    view.tick()
complain("it is not there", "look elsewhere")
print([name for name in sys.modules if name.split(".")[0] == "rich"])
"""
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True, timeout=60)
    assert (said.stdout, said.stderr) == ("[]\n", "xfer: it is not there; look elsewhere\n")


def test_a_path_that_is_not_utf_8_is_written_as_json_all_the_same() -> None:
    out = io.BytesIO()
    Ndjson(out)(
        Summary(
            job="job", outcome="fetched", bytes=0, wire=0, seconds=0.0, route=None, files=1, chunks=0, resent=0,
            digest="", paths=["caf\udce9"],
        )
    )  # fmt: skip
    line = json.loads(out.getvalue())
    assert (line["event"], line["paths"]) == ("summary", ["caf\udce9"])


def test_an_unfinished_transfer_is_a_line_without_control_characters() -> None:
    job = Unfinished(
        number=1, job="j" * 16, side="send", label="a\x1b[31m", done=12_300_000, total=45_600_000, begun=0.0,
        running=False,
    )  # fmt: skip
    begun = time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(0)).strip()
    assert line_of(job) == f"{'j' * 16}  send  12.3 MB of 45.6 MB  {begun}  a\\x1b[31m"
    busy = msgspec.structs.replace(job, total=None, side="fetch", running=True)
    assert "  fetch  12.3 MB  " in line_of(busy)
    assert line_of(busy).endswith(", another run works on it")
    out, err = io.StringIO(), io.StringIO()
    Lines(out, err, Clock())(job)
    assert (out.getvalue(), err.getvalue()) == ("", f"going on: {line_of(job)}\n")
