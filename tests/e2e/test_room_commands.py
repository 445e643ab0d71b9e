"""Rooms from the command line: posted by one who leaves, fetched by others when they come, each once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import MIB, Background, Two, at_a_terminal

from transfer.events import ItemBegun, ItemFailed, Posted, RoomSummary, Stored, TicketReady
from transfer.ticket import Ticket


@pytest.fixture
def room(two: Two) -> str:
    """One that both have joined; its ticket. The sender made it."""
    made = two.start("room", "new", "backups")
    assert made.code == 0, made.stderr
    ticket = made.stdout.decode().strip()
    joined = two.start("room", "join", ticket, env=two.there)
    assert joined.code == 0, joined.stderr
    listed = two.start("room", "ls", "--json", env=two.there)
    assert [known["name"] for known in json.loads(listed.end().stdout)] == ["backups"], "it comes sealed"
    return ticket


def post(two: Two, *args: object, **more: Any) -> Background:
    sent = two.send("--room", "backups", *args, **more)
    assert sent.code == 0, sent.stderr
    return sent


def take(two: Two, *args: object, env: Mapping[str, str] | None = None) -> Background:
    where = () if "-o" in args else ("-o", two.out)
    return two.start("fetch", "--json", "--room", "backups", *where, *args, env=env or two.there)


def labels(fetched: Background) -> list[str]:
    """Of the items that it took; waits for its end."""
    return [event.label for event in fetched.end().events if isinstance(event, ItemBegun)]


def end_of(fetched: Background) -> RoomSummary:
    return fetched.event(RoomSummary)


def said(two: Two, *args: object, env: Mapping[str, str] | None = None) -> Any:
    ended = two.start(*args, "--json", env=env or two.there)
    assert ended.code == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_room_from_its_making_to_its_end(two: Two, room: str) -> None:
    """Whoever comes later has it all, once; a second consumer has it again; what is not there any more is said."""
    for name in ("monday.db", "tuesday.db"):
        sent = post(two, two.file(name, 3000))
        assert sent.event(TicketReady).ticket is None, "the room has it, and no log"
        assert sent.event(Posted).room == "backups"

    first = take(two)
    assert (first.code, labels(first)) == (0, ["monday.db", "tuesday.db"]), first.stderr
    assert two.arrived == ["monday.db", "tuesday.db"]
    assert (two.out / "monday.db").read_bytes() == (two.tmp / "monday.db").read_bytes()
    assert (take(two).code, take(two, "--error-on-nothing").code) == (0, 9)

    post(two, two.file("wednesday.db", 3000))
    again = take(two, "--as", "archive", "-o", two.tmp / "archive", "--match", "[mw]*")
    assert labels(again) == ["monday.db", "wednesday.db"]
    assert labels(take(two)) == ["wednesday.db"]

    shown = said(two, "room", "show", "backups")
    assert [posted["names"] for posted in shown["items"]] == [
        [f"{day}day.db"] for day in ("mon", "tues", "wednes")
    ]
    assert f"{Ticket.PREFIX}1" not in json.dumps(shown), "tickets end up in logs"
    assert shown["items"][0]["posted"].endswith("Z")
    left = {line["name"]: line["left"] for line in shown["consumers"]}
    assert left["archive"] == 1
    assert sorted(left.values()) == [0, 1]
    assert [row["name"] for row in said(two, "room", "ls")] == ["backups"]

    assert two.start("room", "rm", "backups", env=two.there).code == 0, (
        "the same user made it on another host"
    )
    assert two.start("room", "rm", "backups").code == 0, "it is gone, which is what was asked for"
    lost = two.start("send", "--room", room, two.tmp / "monday.db", env={**two.here})
    assert lost.code == 4
    assert "no more, or never was" in lost.stderr
    assert room not in lost.stderr


def test_on_a_terminals_stdout_a_sender_to_a_room_says_no_ticket(two: Two, room: str) -> None:
    sent = two.start("send", "--room", "backups", two.file("a", 10))
    assert (sent.code, sent.stdout) == (0, b"")
    shown = two.send("--room", "backups", two.file("b", 10))
    assert shown.event(Stored).room == "backups"


def test_a_pipe_goes_through_a_room(two: Two, room: str) -> None:
    data = os.urandom(3 * MIB)
    sent = two.start("send", "-", "--name", "shop.sql", "--room", "backups", "--quiet", stdin=subprocess.PIPE)
    sent.feed(data)
    sent.hang_up()
    assert (sent.code, sent.stdout, sent.stderr) == (0, b"", "")
    fetched = two.start("fetch", "--room", "backups", "--latest", "-o", "-", "--quiet", env=two.there)
    assert (fetched.code, fetched.stdout) == (0, data), fetched.stderr
    assert labels(take(two)) == [], "that one was had"
    assert [item["size"] for item in said(two, "room", "show", "backups")["items"]] == [len(data)]
    doomed = post(two, two.file("doomed", 10)).event(TicketReady).job
    assert two.start("cancel", doomed).code == 0
    for expect, code, why in (
        ((), 0, "nothing new in the room can be fetched: 1 item expired, or cancelled"),
        (
            ("--error-on-nothing",),
            9,
            "nothing new in the room: what lies there was had, or is gone (2 items)",
        ),
    ):
        fetched = take(two, *expect)
        assert (fetched.code, end_of(fetched).nothing) == (code, why)
        assert (why in fetched.stderr) == bool(code)
    refused = two.start("fetch", "--room", "backups", "-o", "-", env=two.there)
    assert refused.code == 2
    assert "--latest" in refused.stderr


def test_what_cannot_be_written_does_not_keep_the_others(two: Two, room: str) -> None:
    for name in ("a", "b", "c"):
        post(two, two.file(name, 100))
    (two.out / "b").write_text("mine")
    fetched = take(two)
    assert fetched.code == 3
    assert [event.label for event in fetched.events if isinstance(event, ItemFailed)] == ["b"]
    assert "1 of 3 items could not be fetched" in fetched.stderr
    assert (two.out / "b").read_text() == "mine"
    alone = take(two)
    assert alone.code == 8, "only that one is left"
    elsewhere = take(two, "-o", two.tmp / "elsewhere")
    assert (elsewhere.code, labels(elsewhere)) == (0, ["b"]), "as the message said"
    assert (two.tmp / "elsewhere" / "b").read_bytes() == (two.tmp / "b").read_bytes()


@pytest.mark.parametrize("killed", ["sender", "receiver"])
def test_whoever_is_killed_goes_on_at_once_and_doubles_nothing(two: Two, room: str, killed: str) -> None:
    source = two.file("large", 24 * MIB)
    slowly = ("--bwlimit", "4M", "--concurrency", "1")
    if killed == "sender":
        first = two.send("--room", "backups", source, *slowly)
        first.moved(4 * MIB)
        first.signal(signal.SIGKILL)
        first.end()
    post(two, source)
    if killed == "receiver":
        begun = take(two, *slowly)
        begun.moved(4 * MIB)
        begun.signal(signal.SIGKILL)
        begun.end()
    fetched = take(two)
    assert (fetched.code, labels(fetched)) == (0, ["large"]), fetched.stderr
    assert (two.out / "large").read_bytes() == source.read_bytes()
    assert two.arrived == ["large"]
    assert end_of(take(two)).items == 0


def test_workers_share_a_room(two: Two, room: str, tmp_path: Path) -> None:
    names = [f"part{number}" for number in range(6)]
    for name in names:
        post(two, two.file(name, 1000))
    third = {**two.there, "XFER_HOME": str(tmp_path / "third")}
    assert two.start("room", "join", room, env=third).code == 0
    workers = [
        take(two, "--work", "-o", tmp_path / f"out{number}", env=env)
        for number, env in enumerate((two.there, two.there, third))
    ]
    assert [worker.code for worker in workers] == [0, 0, 0], workers[0].stderr
    assert sorted(label for worker in workers for label in labels(worker)) == names
    assert labels(take(two, "--work", "-o", tmp_path / "late")) == []


def test_a_follower_gets_what_comes_and_leaves_when_told(two: Two, room: str) -> None:
    follower = take(two, "--follow")
    for name in ("one", "two"):
        post(two, two.file(name, 100))
        follower.event(ItemBegun, lambda event, name=name: event.label == name)  # type: ignore[misc]
    third = post(two, two.file("three", 100))
    follower.event(ItemBegun, lambda event: event.number == third.event(Posted).number)
    assert take(two).code == 11, "one run on a host for one consumer"
    follower.signal(signal.SIGTERM)
    assert follower.code == 128 + signal.SIGTERM
    late = take(two)
    assert late.code == 0, late.stderr
    assert two.arrived == ["one", "three", "two"]


def test_what_was_done_is_said_to_a_terminal_and_a_script_hears_nothing(two: Two) -> None:
    made = ("--ticket-file", two.tmp / "room.txt")
    story = {
        ("new", "jobs", *made): "room jobs is made; whoever has its ticket may read and post: ",
        ("show", "jobs"): "nothing lies there\n",
        ("retry", "jobs"): "0 items will be tried again\n",
        ("leave", "jobs"): "left room jobs\n",
        ("join", *made): "joined room jobs: `xfer fetch --room jobs` fetches what lies there\n",
        ("leave", "jobs", "--as", "work"): "forgot what work has had\n",
        ("rm", "jobs"): "room jobs is removed\n",
        ("ls",): "no rooms\n",
    }
    for words, told in story.items():
        code, said = at_a_terminal("room", *words, env=two.here)
        assert (code, said.startswith(told)) == (0, True), said
    (two.tmp / "room.txt").unlink()
    code, said = at_a_terminal("room", "new", "jobs", *made, env=two.here, columns=80)
    assert (code, [len(line) < 80 for line in said.splitlines()]) == (0, [True, True]), said
    assert said.endswith(" `xfer room join TICKET`\n"), "what is to be copied is left whole"
    (two.tmp / "room.txt").unlink()
    for words in story:
        ended = two.start("room", *words, env=two.there)
        assert (ended.code, ended.stdout, ended.stderr) == (0, b"", ""), words


def test_a_wrong_ticket_is_told_at_once(two: Two, room: str) -> None:
    typo = two.start("room", "join", room[:-1] + ("q" if room[-1] != "q" else "p"), env=two.there)
    assert typo.code == 12
    from transfer.ticket import RoomTicket

    never = two.start("room", "join", str(RoomTicket.new()), env=two.there)
    assert never.code == 4
    mixed = two.start("fetch", room, env=two.there)
    assert mixed.code == 12
    assert "a room's ticket" in mixed.stderr
