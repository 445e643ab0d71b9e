"""URLs that live three seconds, a store that asks for patience, servers that are away: the same run ends well."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from helpers import MIB, Background, Two
from proofs import SWEPT_WITHIN
from stage import SERVERS, Stage
from wires import Way

from tests.orphans import orphans_within
from transfer.events import Waiting

if TYPE_CHECKING:
    from tests.conftest import Servers

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and SIGSTOP"),
]
LIFE = 3
"""Seconds."""


@pytest.fixture(scope="module")
def brief(
    tmp_path_factory: pytest.TempPathFactory,
    start_servers: Callable[..., Servers],
    stop_servers: Callable[[Servers], int],
) -> Iterator[Stage]:
    """Servers whose broker signs for three seconds."""
    made = Stage(tmp_path_factory.mktemp("brief"), start_servers, stop_servers, XFER_URL_LIFE=str(LIFE))
    yield made
    made.close()


@pytest.fixture
def pair(brief: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    brief.refreshed()
    tmp = tmp_path_factory.mktemp("pair")
    (tmp / "out").mkdir()
    here, there = (brief.environment(side, tmp / f"home-{side}") for side in ("sender", "receiver"))
    made = Two(tmp=tmp, here=here, there=there, out=tmp / "out", started=[])
    yield made
    made.close()
    brief.mend()


class Answers:
    """Counts the store's answers by their status; the first `busy` of them become a 503 with a Retry-After.

    rests: seconds between each of these and the next request for the same bytes.
    """

    def __init__(self, busy: int = 0, after: int = 2) -> None:
        self.seen: dict[bytes, int] = {}
        self.rests: list[float] = []
        self._refused: dict[bytes, float] = {}
        self._busy, self._after = busy, after

    def connected(self) -> tuple[Way, Way]:
        asked = b""

        def request(data: bytes) -> bytes:
            """Heads come in one piece here."""
            nonlocal asked
            if head := re.match(rb"(?:PUT|GET) \S+/(\S+?)\?(\S*)", data):
                part = re.search(rb"partNumber=\d+", head[2]) or re.search(rb"bytes=\S+", data)
                asked = head[1] + (part[0] if part else b"")
                if asked in self._refused:
                    self.rests.append(time.monotonic() - self._refused.pop(asked))
            return data

        def answer(data: bytes) -> bytes:
            if (head := re.match(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n", data)) is None:
                return data
            status = head[1]
            if self._busy:
                self._busy -= 1
                self._refused[asked] = time.monotonic()
                status = b"503"
                data = b"HTTP/1.1 503 Slow Down\r\nRetry-After: %d\r\n" % self._after + data[head.end() :]
            self.seen[status] = self.seen.get(status, 0) + 1
            return data

        return request, answer


def arrived(pair: Two, name: str) -> bool:
    return subprocess.run(["cmp", pair.tmp / name, pair.out / name], check=False).returncode == 0


def paused(process: Background, seconds: float) -> None:
    process.signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.signal(signal.SIGCONT)


def test_a_source_slower_than_any_url_lives_is_sent_and_fetched_while_it_grows(
    pair: Two, brief: Stage
) -> None:
    slowly = "for i in 1 2 3 4 5 6 7 8 9; do head -c 3000000 /dev/urandom; sleep 1; done"
    sending = pair.send("--from-command", slowly, "--name", "grown")
    got = pair.fetch(sending.ticket)
    assert sending.summary.bytes == got.summary.bytes == 27_000_000
    assert sending.summary.seconds > 2 * LIFE
    assert got.summary.digest == sending.summary.digest


def test_parts_that_take_longer_than_their_url_lives_are_stored_and_read(pair: Two, brief: Stage) -> None:
    """8 MiB at a time, four at once, at 5 MB/s together."""
    source = pair.file("slow", 50 * MIB)
    for side in ("sender", "receiver"):
        brief.wires[side, "store"].rate = 5_000_000.0
    sending = pair.send("--wait", "0", source)
    assert sending.summary.seconds > 3 * LIFE
    got = pair.fetch(sending.ticket)
    assert got.summary.seconds > 2 * LIFE
    assert arrived(pair, "slow")


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_whoever_was_paused_for_longer_than_its_urls_live_goes_on(pair: Two, brief: Stage, side: str) -> None:
    source = pair.file("paused", 200 * MIB)
    wire = brief.wires[side, "store"]
    wire.rate = 25_000_000.0
    wire.tap = answers = Answers()
    sending = pair.send("--wait", "0", source)
    if side == "receiver":
        assert sending.summary.outcome == "stored"
        at_work = pair.fetch(sending.ticket)
    else:
        at_work = sending
    for share in (0.2, 0.5):
        at_work.moved(int(share * 200 * MIB))
        paused(at_work, LIFE + 2)
    at_work.end(60)
    assert at_work.summary.bytes == 200 * MIB
    if side == "sender":
        pair.fetch(sending.ticket).end(60)
    assert arrived(pair, "paused")
    refused = sum(count for status, count in answers.seen.items() if status in (b"400", b"403"))
    assert refused <= 16 * 2, "each request is signed again once, not over and over"


def test_a_url_that_was_kept_for_too_long_is_signed_again_once(pair: Two, brief: Stage) -> None:
    """A receiver asks for many URLs at a time, and comes to use the last of them when they have expired."""
    source = pair.file("kept", 100 * MIB)
    sending = pair.send("--wait", "0", source)
    assert sending.summary.outcome == "stored"
    wire = brief.wires["receiver", "store"]
    wire.rate = 10_000_000.0
    wire.tap = answers = Answers()
    got = pair.fetch(sending.ticket)
    assert got.end(60).summary.seconds > 2 * LIFE
    assert arrived(pair, "kept")
    assert answers.seen[b"403"] >= 1
    assert answers.seen[b"403"] <= 16


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_store_that_asks_for_patience_gets_it_and_it_is_said_what_is_waited_for(
    pair: Two, brief: Stage, side: str
) -> None:
    source = pair.file("asked", 40 * MIB)
    wire = brief.wires[side, "store"]
    wire.tap = answers = Answers(busy=3, after=2)
    sending = pair.send("--wait", "0", source)
    got = pair.fetch(sending.ticket) if sending.summary.outcome == "stored" else None
    assert got is not None
    assert got.summary.bytes == 40 * MIB
    assert arrived(pair, "asked")
    assert answers.seen[b"503"] == 3
    at_work = sending if side == "sender" else got
    waited = [event for event in at_work.events if isinstance(event, Waiting) and event.on == "store"]
    assert waited
    assert "503" in waited[0].what
    assert len(answers.rests) == 3
    assert min(answers.rests) >= 2


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_away_for_a_while_costs_time_and_nothing_else(
    pair: Two, brief: Stage, name: str
) -> None:
    """The supervisor starts it again and again, later each time; it is killed again until the time is over."""
    source = pair.file("ridden", 200 * MIB)
    for side in ("sender", "receiver"):
        brief.wires[side, "store"].rate = 20_000_000.0
    sending = pair.send("--via", "s3", source)
    got = pair.fetch(sending.ticket)
    got.moved(40 * MIB)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        brief.signal(name, signal.SIGKILL)
        time.sleep(0.1)
    for process in (sending, got):
        process.end(120)
        assert process.summary.bytes == 200 * MIB
    waited = {event.on for event in sending.events if isinstance(event, Waiting)}
    assert waited & {"bus", "broker", "store"}, "it was said what is waited for"
    assert arrived(pair, "ridden")
    assert orphans_within(brief.servers, SWEPT_WITHIN) == []
