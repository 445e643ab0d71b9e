"""What programs and people are told: the ticket, NDJSON events, silence, and every option as a variable."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, get_args

import msgspec
import pytest
from helpers import MIB, Background, Two, complaint

from transfer import events
from transfer.ticket import Ticket

E = TypeVar("E", bound=events.Event)
KINDS = {kind.__struct_config__.tag: kind for kind in get_args(events.AnyEvent)}


def by_the_schema(process: Background) -> list[events.AnyEvent]:
    """Every line is exactly one event of `transfer.events`: all of its fields and no others."""
    process.end()
    for line in process.stdout.splitlines():
        raw = json.loads(line)
        kind = KINDS[raw["event"]]
        event = msgspec.json.decode(line, type=kind, strict=True)
        assert msgspec.to_builtins(event) == raw
        assert raw["v"] == 1
    return process.events


def of_kind(kind: type[events.Event], told: Iterable[events.AnyEvent]) -> list[events.AnyEvent]:
    return [event for event in told if isinstance(event, kind)]


def in_order(told: list[events.AnyEvent]) -> None:
    """Nothing goes back, the route is known before bytes move, and the summary is the last word."""
    steps = [event for event in told if isinstance(event, events.Progress)]
    assert all(a.done <= b.done and a.wire <= b.wire for a, b in pairwise(steps))
    assert all(step.done <= step.total for step in steps if step.total is not None)
    first = next(at for at, event in enumerate(told) if isinstance(event, events.Progress) and event.done)
    assert any(isinstance(event, events.RouteChosen) for event in told[:first])
    summary = told[-1]
    assert isinstance(summary, events.Summary)
    assert len(of_kind(events.Summary, told)) == 1
    assert (steps[-1].done, steps[-1].wire) == (summary.bytes, summary.wire)
    assert len(summary.digest) == 64
    assert summary.seconds > 0


def test_a_stored_send_tells_ticket_route_progress_stored_summary(two: Two) -> None:
    sent = two.send("--wait", "0", two.file("f", 5 * MIB))
    told = by_the_schema(sent)
    in_order(told)
    ticket, stored = told[0], of_kind(events.Stored, told)[0]
    assert isinstance(ticket, events.TicketReady)
    assert Ticket.parse(ticket.ticket or "").job == ticket.job == sent.summary.job
    assert isinstance(stored, events.Stored)
    assert (stored.job, stored.segments) == (ticket.job, 1)
    assert told.index(stored) >= len(told) - 3
    assert sent.stderr == ""


def test_a_direct_transfer_tells_the_same_story_on_both_sides(two: Two) -> None:
    sending = two.send(two.file("f", 5 * MIB))
    got = two.fetch(sending.ticket)
    theirs, ours = by_the_schema(got), by_the_schema(sending)
    in_order(theirs)
    in_order(ours)
    receipt = of_kind(events.Receipt, ours)[0]
    assert isinstance(receipt, events.Receipt)
    assert receipt.digest == got.summary.digest == sending.summary.digest
    assert receipt.job == got.summary.job
    assert of_kind(events.TicketReady, theirs) == []
    waited = ours[1]
    assert isinstance(waited, events.Waiting)
    assert waited.left == pytest.approx(60, abs=1)


def test_a_failure_is_an_event_and_a_line_on_stderr(two: Two) -> None:
    failed = two.send(two.tmp / "gone")
    told = by_the_schema(failed)
    assert told == [complaint(failed)]
    assert complaint(failed) == events.Failure(
        code=2,
        kind="MissingPath",
        message=f"{two.tmp}/gone is not there",
        next="check the spelling and the current folder",
    )


def test_no_event_but_the_tickets_holds_the_ticket(two: Two) -> None:
    sending = two.send(two.file("f", 1000))
    got = two.fetch(sending.ticket)
    assert got.code == sending.code == 0
    assert sending.ticket.encode() not in got.stdout
    assert sending.ticket not in sending.stderr + got.stderr
    assert sending.stdout.count(sending.ticket.encode()) == 1


def test_the_ticket_is_the_only_line_on_stdout_and_comes_before_anybody_does(two: Two) -> None:
    sending = two.start("send", two.file("f", 1000))
    ticket = sending.ticket
    assert sending.running
    assert two.fetch(ticket).code == 0
    assert sending.code == 0
    assert sending.stdout == f"{ticket}\n".encode()


def test_quiet_says_nothing_but_the_ticket(two: Two) -> None:
    sent = two.start("send", "--quiet", "--wait", "0", two.file("f", 1000))
    assert (sent.code, sent.stderr) == (0, "")
    assert len(sent.stdout.splitlines()) == 1
    got = two.start("fetch", "--quiet", sent.ticket, "-o", two.out, env=two.there)
    assert (got.code, got.stdout, got.stderr) == (0, b"", "")
    assert two.arrived == ["f"]


def test_quiet_still_says_what_went_wrong(two: Two) -> None:
    sent = two.start("send", "--quiet", two.tmp / "gone")
    assert sent.code == 2
    assert sent.stderr.startswith(f"xfer: {two.tmp}/gone is not there;")


def test_a_ticket_file_is_private_and_takes_the_ticket_from_stdout(two: Two) -> None:
    file = two.tmp / "ticket"
    file.write_text(f"{Ticket.new()}\n")
    file.chmod(0o644)
    sent = two.start("send", "--wait", "0", "--ticket-file", file, two.file("f", 1000))
    assert (sent.code, sent.stdout) == (0, b"")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("xfer1")
    assert file.read_text().count("\n") == 1
    assert two.start("fetch", "--ticket-file", file, "-o", two.out, env=two.there).code == 0
    assert two.arrived == ["f"]


def test_with_json_and_a_ticket_file_the_file_is_there_before_the_event_which_holds_no_ticket(
    two: Two,
) -> None:
    file = two.tmp / "ticket"
    sending = two.send("--ticket-file", file, two.file("f", 1000))
    told = sending.event(events.TicketReady)
    assert told.ticket is None
    assert Ticket.parse(file.read_text()).job == told.job
    assert two.start("fetch", "--ticket-file", file, "-o", two.out, env=two.there).code == 0
    assert sending.code == 0


def test_a_ticket_comes_from_the_environment_from_a_file_or_from_stdin(two: Two) -> None:
    ticket = two.store(two.file("f", 1000))
    (two.tmp / "t").write_text(f"  {ticket.upper()}\n")
    for number, (args, more) in enumerate(
        (
            ((), {"XFER_TICKET": ticket}),
            ((), {"XFER_TICKET_FILE": str(two.tmp / "t")}),
            (("--ticket-file", two.tmp / "t"), {"XFER_TICKET": "xfer1nonsense"}),
        )
    ):
        got = two.start("fetch", *args, "-o", two.out / str(number), env={**two.there, **more})
        assert got.code == 0, got.stderr
    with open(two.tmp / "t", "rb") as stdin:
        piped = two.start("fetch", "--ticket-file", "-", "-o", two.out / "piped", env=two.there, stdin=stdin)
    assert piped.code == 0
    assert two.arrived == ["0", "1", "2", "piped"]


def test_without_a_ticket_it_exits_2_and_says_where_one_may_come_from(two: Two) -> None:
    got = two.start("fetch", "-o", two.out, env=two.there)
    assert got.code == 2
    assert "no ticket; give it as argument, in XFER_TICKET or with --ticket-file" in got.stderr


def test_every_option_is_a_variable_too(two: Two) -> None:
    tree = two.tmp / "tree"
    tree.mkdir()
    for name in ("keep", "drop.o", "drop.tmp"):
        (tree / name).write_bytes(b"x" * 100)
    (tree / "link").symlink_to("keep")
    asked = {
        "XFER_WAIT": "0",
        "XFER_JSON": "1",
        "XFER_EXCLUDE": "*.o *.tmp",
        "XFER_LINKS": "skip",
        "XFER_EXPIRE": "1h",
        "XFER_FETCHES": "1",
    }
    sent = two.start("send", tree, env={**two.here, **asked}).end()
    told = by_the_schema(sent)
    ticket, stored = told_of(told, events.TicketReady).ticket or "", told_of(told, events.Stored)
    assert stored.expires - tree.stat().st_ctime == pytest.approx(3600, abs=60)
    more = {"XFER_OUTPUT": str(two.out), "XFER_QUIET": "1", "XFER_TICKET": ticket}
    assert two.start("fetch", env={**two.there, **more}).code == 0
    assert names(two.out / "tree") == ["keep"]
    assert complaint(two.fetch(ticket)).code == 4  # --fetches 1


def test_a_flag_goes_before_its_variable(two: Two) -> None:
    sent = two.start("send", "--json", "--wait", "0", two.file("f", 10), env={**two.here, "XFER_WAIT": "1h"})
    assert sent.summary.outcome == "stored"


def test_what_is_left_out_is_told_as_a_notice(two: Two) -> None:
    tree = two.tmp / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"x")
    (tree / "link").symlink_to("nowhere")
    sent = two.send(tree, "--links", "skip", "--wait", "0")
    assert [event.text for event in sent.end().events if isinstance(event, events.Notice)] == [
        "1 link is left out"
    ]


def told_of(told: list[events.AnyEvent], kind: type[E]) -> E:
    return next(event for event in told if isinstance(event, kind))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
