"""Rooms as they are typed, or named by a variable: what contradicts itself is refused before anybody is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from cli.room import _again, _look
from transfer.room import Member
from transfer.rooms_api import MAX_MARKED, ConsumerLine, RoomInfo
from transfer.ticket import RoomTicket, Ticket

ROOM, TICKET = str(RoomTicket("q" * 16, bytes(16))), str(Ticket.new())


@pytest.mark.parametrize(
    ("args", "variables", "told"),
    [
        (("fetch", "--room", ROOM, TICKET), {}, "drop --room or the ticket"),
        (("fetch",), {"XFER_ROOM": ROOM, "XFER_TICKET": TICKET}, "XFER_TICKET and XFER_ROOM are both set"),
        (
            ("fetch",),
            {"XFER_ROOM": ROOM, "XFER_TICKET_FILE": "t"},
            "XFER_TICKET_FILE and XFER_ROOM are both set",
        ),
        (("fetch", "--room", ROOM), {"XFER_TICKET": TICKET}, "nothing says where the servers are"),
        (("fetch", TICKET), {"XFER_ROOM": ROOM}, "nothing says where the servers are"),
        (("room", "rm"), {"XFER_ROOM": ROOM}, "ROOM is missing"),
        (("room", "join", ROOM, "--ticket-file", "t"), {}, "the ticket is given twice, as argument and with"),
        (
            ("room", "join", "--ticket-file", "t"),
            {"XFER_ROOM_TICKET": ROOM},
            "the ticket file 't' cannot be read",
        ),
        (("batch", ".", "--room", ROOM, "--room-file", "t"), {}, "the room is given twice, with --room and"),
        (("send", "f", "--room", ROOM), {"XFER_ROOM_FILE": "t"}, "nothing says where the servers are"),
        (("send", "f", "--room-file", "t"), {"XFER_ROOM": ROOM}, "the ticket file 't' cannot be read"),
        (("send", "f"), {"XFER_ROOM": ROOM, "XFER_ROOM_FILE": "t"}, "the ticket file 't' cannot be read"),
        (("room", "leave"), {"XFER_ROOM": ROOM}, "which room is meant is not typed"),
        (("room", "show"), {"XFER_ROOM": ROOM}, "nothing says where the servers are"),
    ],
)
def test_what_is_typed_goes_before_a_variable_and_two_of_either_are_refused(
    tmp_path: Path, args: tuple[str, ...], variables: dict[str, str], told: str
) -> None:
    env = {**os.environ, "XFER_HOME": str(tmp_path), "PYTHONPATH": os.getcwd(), **variables}
    command = [sys.executable, "-m", "cli", *args]
    run = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False
    )
    assert run.returncode == 2, run.stderr
    assert told in run.stderr


class Us:
    """A member of a room with one shared consumer; asked: which consumers' items were asked for."""

    user = "ann"

    def __init__(self, given_up: int) -> None:
        gone = dict.fromkeys(range(1, given_up + 1), "why")
        self.lines = [ConsumerLine(name="work", user="", left=0, held=[], given_up=gone, seen=0.0)]
        self.lines += [ConsumerLine(name="bobs", user="bob", left=0, held=[], given_up={}, seen=0.0)]
        self.asked: list[tuple[str, bool]] = []
        self.marked: list[list[int]] = []

    async def about(self) -> RoomInfo:
        return RoomInfo(room="r", owner="bob", name="", created=0.0, tries=5, items=0, consumers=self.lines)

    async def items(self, consumer: str, *, work: bool) -> AsyncIterator[Any]:
        self.asked.append((consumer, work))
        return
        yield

    async def mark(self, _consumer: str, _holder: str, *, work: bool, again: list[int]) -> None:
        assert work
        self.marked.append(again)


async def test_a_look_makes_no_consumer() -> None:
    us = Us(0)
    for name in (None, "work", "typo", "bobs"):
        await _look(cast(Member, cast(Any, us)), name)
    assert us.asked == [("", False), ("work", True), ("", False), ("", False)]


async def test_however_many_were_given_up_are_tried_again() -> None:
    us = Us(MAX_MARKED + 44)
    assert await _again(cast(Member, cast(Any, us)), "work", ()) == MAX_MARKED + 44
    assert [len(numbers) for numbers in us.marked] == [MAX_MARKED, 44]
    assert await _again(cast(Member, cast(Any, us)), "work", [7, 9999]) == 1
    assert us.marked[2:] == [[7]]
    assert await _again(cast(Member, cast(Any, us)), "other", ()) == 0
    assert len(us.marked) == 3, "asking makes no consumer"
