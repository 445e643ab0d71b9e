"""The library's examples run as they stand: the README's, and those of the page about the public API."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import MIB, SOON, Two
from stand import ROOT, Stand

import transfer
from transfer.broker_client import BrokerClient
from transfer.events import Event, RouteChosen, TicketReady
from transfer.mailbox import Mailbox

if TYPE_CHECKING:
    from tests.conftest import Servers

PAGE = (ROOT / "transfer" / "README.md").read_text(encoding="utf-8")


def examples(text: str) -> dict[str, str]:
    """The programs of a page, by the headings that they stand below."""
    chapters = [chapter.split("\n", 1) for chapter in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]]
    found = {heading: re.findall(r"```python\n(.*?)```", below, re.DOTALL) for heading, below in chapters}
    return {heading: programs[0] for heading, programs in found.items() if programs}


def test_the_library_example_runs_as_it_stands(servers: Servers, tmp_path: Path) -> None:
    program = next(iter(examples((ROOT / "README.md").read_text(encoding="utf-8")).values()))
    (tmp_path / "report.pdf").write_bytes(b"a report")
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=servers.env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("8 ")
    assert (tmp_path / "inbox/report.pdf").read_bytes() == b"a report"


def test_the_examples_of_the_api_run_as_they_stand(stand: Stand) -> None:
    """One after the other on one host, as a reader would try them."""
    env = {**stand.env("host"), "PYTHONPATH": str(ROOT), "XFER_QUIET": "1"}
    stand.well(f"xfer room join --name backups --ticket-file {stand.ticket}", env)
    where = stand.tmp / "examples"
    where.mkdir()
    (where / "report.pdf").write_bytes(b"a report")
    (where / "disk.img").write_bytes(bytes(3 * MIB))
    said: dict[str, list[str]] = {}
    for heading, program in examples(PAGE).items():
        ran = subprocess.run(
            [sys.executable, "-P", "-c", program],
            env=env,
            cwd=where,
            capture_output=True,
            text=True,
            timeout=SOON,
        )
        assert (ran.returncode, ran.stderr) == (0, ""), heading
        said[heading] = ran.stdout.splitlines()
    assert said.pop("Send and fetch")[-1] == f"fetched ['{where}/inbox/report.pdf']"
    assert said.pop("Streams") == ["1,ann", "made by a command"]
    assert said.pop("Directly, to somebody who is there") == ["receipt webrtc"]
    typed, gone = said.pop("Errors")
    assert typed == "that was typed wrong"
    assert gone.endswith(": ask the sender for a new ticket (4)")
    assert said.pop("Stop, and go on later") == [f"send disk.img {3 * MIB}", "stored"]
    *states, status, after = said.pop("Jobs, and watching one")
    assert states[-1] == f"stored {3 * MIB}"
    assert (status.split()[0], after) == ("stored", "['void']")
    assert said.pop("Rooms") == ["1 items", "0 items"]
    assert not said, "an example that nothing is said about"
    for folder in ("inbox", "direct", "archive"):
        assert (where / folder / "report.pdf").read_bytes() == b"a report"


async def test_a_new_job_is_announced_and_begun_at_the_same_time(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round trips that do not need each other are made together: here each waits until the other one is under way."""
    for name, value in two.here.items():
        monkeypatch.setenv(name, value)
    begun, opened = asyncio.Event(), asyncio.Event()
    begin, open_ = BrokerClient.begin, Mailbox.open

    async def begin_late(client: BrokerClient, job: str, segment: int) -> str:
        begun.set()
        await opened.wait()
        return await begin(client, job, segment)

    async def open_late(mailbox: Mailbox) -> None:
        opened.set()
        await begun.wait()
        await open_(mailbox)

    monkeypatch.setattr(BrokerClient, "begin", begin_late)
    monkeypatch.setattr(Mailbox, "open", open_late)
    events: list[Event] = []
    async with asyncio.timeout(SOON):
        sent = await transfer.send([two.file("f", 1000)], wait=0, on_event=events.append)
    assert sent.outcome == "stored"
    assert isinstance(events[0], TicketReady), "nothing is said before the ticket"
    assert two.fetch(str(events[0].ticket)).code == 0


async def test_a_listener_that_fails_leaves_nothing_running(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in two.here.items():
        monkeypatch.setenv(name, value)

    def fail(event: Event) -> None:
        if isinstance(event, RouteChosen):
            raise LookupError("not a transfer's business")

    before = asyncio.all_tasks()
    with pytest.raises(LookupError):
        await transfer.send([two.file("f", 1000)], wait=0, on_event=fail)
    assert asyncio.all_tasks() == before


def test_the_page_names_what_the_package_exports() -> None:
    first = PAGE.split("\n## ", 1)[0]
    assert {*re.findall(r"transfer\.(\w+)\(", first)} == {*transfer.__all__}
