"""Rooms as they are typed, or named by a variable: what contradicts itself is refused before anybody is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        (("room", "leave"), {"XFER_ROOM": ROOM}, "ROOM is missing"),
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
