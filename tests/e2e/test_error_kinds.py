"""Errors as the command line ends with them: kind, exit code, one sentence and a next step. Those that no other test reaches.

`tests/unit/test_errors.py` says which test reaches which.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from helpers import MIB, Two, complaint

from transfer.bech32m import ALPHABET, check_of
from transfer.events import Notice
from transfer.ticket import RoomTicket, Ticket

Xfer = Callable[..., subprocess.CompletedProcess[str]]


def newer(ticket: Ticket) -> str:
    """The same, as a version to come might write it: its first symbol is another, and its check fits."""
    head = f"{Ticket.PREFIX}1"
    symbols = [ALPHABET.index(letter) for letter in str(ticket).removeprefix(head)]
    body = [symbols[0] + 1, *symbols[1:-6]]
    return head + "".join(ALPHABET[symbol] for symbol in (*body, *check_of(Ticket.PREFIX, body)))


def test_what_needs_no_server_to_be_refused(
    xfer: Xfer, configured: Mapping[str, str], tmp_path: Path
) -> None:
    ticket = Ticket.new()
    for args, code, kind in (
        (("fetch", f"{str(ticket)[:-1]}{'p' if str(ticket)[-1] == 'q' else 'q'}"), 12, "MistypedTicket"),
        (("fetch", newer(ticket)), 1, "UnsupportedVersion"),
        (("resume", "--error-on-nothing"), 9, "NothingToDo"),
    ):
        run = xfer(*args, "--json", env=configured)
        [event] = [json.loads(line) for line in run.stdout.splitlines()]
        assert (run.returncode, event["event"], event["code"], event["kind"]) == (code, "error", code, kind)
        assert f"xfer: {event['message']}; {event['next']}\n" == run.stderr


def test_what_is_not_there_not_there_any_more_or_there_already(two: Two) -> None:
    """A story of one file: fetched twice, cancelled; a stranger's ticket; a room that is no more, one with a twin in it."""
    file = two.file("f", 1000)
    ticket = two.store(file)
    assert two.fetch(ticket).code == 0
    said = complaint(two.fetch(ticket))
    assert (said.code, said.kind) == (8, "DestinationExists")
    assert "--overwrite" in said.next

    assert two.start("cancel", Ticket.parse(ticket).job).code == 0
    said = complaint(two.fetch(ticket, "-o", two.tmp / "late"))
    assert (said.code, said.kind) == (4, "JobCancelled")
    said = complaint(two.fetch(str(Ticket.new())))
    assert (said.code, said.kind) == (4, "JobGone")

    made = two.start("room", "new", "night")
    assert made.code == 0, made.stderr
    room = {"XFER_ROOM": made.stdout.decode().strip()}
    for name in ("f", "g"):
        assert two.send("--room", "night", two.file(name, 100)).code == 0
    take = two.start("fetch", "--json", "-o", two.out, env={**two.there, **room})
    said = complaint(take)
    assert (said.code, said.kind) == (3, "PartialDelivery")
    assert two.arrived == ["f", "g"]
    gone = {"XFER_ROOM": str(RoomTicket.new())}
    said = complaint(two.start("fetch", "--json", "-o", two.out, env={**two.there, **gone}))
    assert (said.code, said.kind) == (4, "RoomGone")


def test_a_peer_that_is_lost_is_told_and_waited_for(two: Two) -> None:
    """It ends the command once nobody has come in its place."""
    sending = two.send(two.file("f", 3 * MIB), "--via", "webrtc", "--bwlimit", "1MiB", "--wait", "2s")
    got = two.fetch(sending.ticket)
    got.moved(1)
    got.signal(signal.SIGKILL)
    lost = sending.event(
        Notice, lambda notice: notice.text.endswith("; waiting for the receiver to come back")
    )
    assert lost.text.startswith(("the peer ", "the connection to the peer "))
    said = complaint(sending)
    assert (said.code, said.kind) == (5, "PeerLost")
    assert said.message.endswith(", and the receiver did not come back in time")
