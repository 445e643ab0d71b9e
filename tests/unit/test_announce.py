"""What is announced of a transfer, and when; on a clock that moves by hand."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest

from transfer import events
from transfer.announce import EVERY, KEPT_RARELY, TTL, Announcement, Story
from transfer.events import Progress, Waiting
from transfer.meter import Meter
from transfer.model import FrameId, Kind

START = 1000.0
Told = list[tuple[float, Announcement, bool]]


class Bus:
    """Says what is due as soon as it may be said; `away` takes nothing."""

    def __init__(self) -> None:
        self.now = START
        self.story = Story(self.now)
        self.told: Told = []
        self.away = False

    def pass_time(self, seconds: float) -> None:
        """Time moves in steps of an announcement's least distance, or less."""
        end = self.now + seconds
        while True:
            due = self.story.due(self.now)
            if due == 0 and not self.away:
                announcement, keep = self.story.next(self.now)
                self.told.append((self.now, announcement, keep))
                self.story.said(announcement, keep, self.now)
                continue
            step = min(EVERY if due is None or self.away else due, end - self.now)
            if step <= 0:
                return
            self.now += step

    @property
    def last(self) -> Announcement:
        return self.told[-1][1]

    @property
    def kept(self) -> Told:
        return [told for told in self.told if told[2]]


@pytest.fixture
def bus() -> Bus:
    return Bus()


def at(done: int, total: int | None = None) -> Progress:
    return Progress(done=done, total=total, wire=done, files=1, route="s3")


def test_a_burst_of_events_is_told_at_most_five_times_a_second_and_the_newest_wins(bus: Bus) -> None:
    for done in range(10_000):
        bus.story.note(at(done))
        bus.pass_time(0.001)
    bus.pass_time(1)
    times = [when for when, _, _ in bus.told]
    assert all(b - a >= EVERY - 1e-9 for a, b in itertools.pairwise(times))
    assert 45 <= len(times) <= 10 / EVERY + 2
    assert bus.last.done == 9999
    assert [a.seq for _, a, _ in bus.told] == list(range(len(bus.told)))


def test_what_is_news_is_told_within_that_time(bus: Bus) -> None:
    bus.pass_time(10)
    for done in range(1, 300):
        bus.story.note(at(done))
        since = bus.now
        bus.pass_time(EVERY)
        assert bus.last.done == done
        assert bus.told[-1][0] - since <= EVERY


def test_an_hour_leaves_some_hundred_announcements_and_the_last_minutes_in_full(bus: Bus) -> None:
    meter = Meter(bus.story.note, clock=lambda: bus.now)
    meter.total = 3600 * 50
    while bus.now < START + 3600:
        meter.moved(FrameId(Kind.CHUNK, 0), 1)
        bus.pass_time(0.02)
    bus.story.end("stored")
    bus.pass_time(0)
    assert 15_000 <= len(bus.told) <= 18_001
    assert 400 <= len(bus.kept) <= 500
    in_the_stream = [t for t in bus.told if t[2] or t[0] > bus.now - TTL]
    assert len(in_the_stream) <= 1200
    assert [a.kept for _, a, _ in bus.kept] == list(range(1, len(bus.kept) + 1))
    shares = [a.done / meter.total for _, a, _ in bus.kept]
    assert max(b - a for a, b in itertools.pairwise(shares)) <= 0.0101


def test_days_are_kept_by_the_minute(bus: Bus) -> None:
    for minute in range(3 * 24 * 60):
        bus.story.note(at(minute))
        bus.pass_time(60)
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(bus.kept)]
    assert max(gaps) <= 2 * KEPT_RARELY
    assert len(bus.kept) < 4500


def test_the_state_in_which_nothing_happens_any_more_is_kept(bus: Bus) -> None:
    for done in range(500):
        bus.story.note(at(done))
        bus.pass_time(0.2)
    bus.story.note(Waiting(what="waiting for the receipt", left=None, on="receipt"))
    bus.pass_time(7200)
    assert bus.told[-1][2]
    assert (bus.last.state, bus.last.waiting, bus.last.done) == ("waiting", "receipt", 499)
    assert bus.story.due(bus.now) is None


def test_while_the_bus_is_away_nothing_piles_up_and_then_the_newest_is_told(bus: Bus) -> None:
    bus.pass_time(1)
    before = len(bus.told)
    bus.away = True
    for done in range(1, 1000):
        bus.story.note(at(done))
        bus.pass_time(0.1)
    bus.away = False
    bus.pass_time(0)
    assert len(bus.told) == before + 1
    assert (bus.last.done, bus.last.seq) == (999, before)


def test_what_becomes_news_while_it_is_said_is_said_next(bus: Bus) -> None:
    announcement, keep = bus.story.next(bus.now)
    bus.story.note(at(5))
    bus.story.said(announcement, keep, bus.now)
    bus.pass_time(EVERY)
    assert (bus.last.done, bus.last.seq) == (5, 1)


def test_the_end_is_told_at_once_and_kept(bus: Bus) -> None:
    bus.story.note(at(5))
    bus.pass_time(0.05)
    bus.story.end("failed", code=5, kind="StoreUnreachable")
    bus.pass_time(0)
    assert bus.told[-1][2]
    assert (bus.last.event, bus.last.state, bus.last.code, bus.last.kind) == (
        "end", "failed", 5, "StoreUnreachable",
    )  # fmt: skip
    assert bus.story.due(bus.now) is None


def test_the_state_follows_the_transfer(bus: Bus) -> None:
    told = []
    for event in (
        events.TicketReady(job="j", ticket="xfer1secret"),
        Waiting(what="waiting for a receiver", left=9.0, on="receiver"),
        events.RouteChosen(route="s3", reason="no receiver came in time"),
        at(5, 10),
        Waiting(what="the store at h:1 cannot serve now (503 SlowDown)", left=600.0, on="store"),
        at(5, 10),
        at(10, 10),
        events.Stored(job="j", segments=2, expires=7.0),
        Waiting(what="stored; waiting for the receipt", left=None, on="receipt"),
        events.Receipt(job="j", receiver="r", digest="d"),
    ):
        bus.story.note(event)
        told.append((bus.story.state.state, bus.story.state.waiting))
    assert told == [
        ("starting", None), ("waiting", "receiver"), ("waiting", "receiver"), ("moving", None), ("waiting", "store"),
        ("waiting", "store"), ("moving", None), ("stored", None), ("stored", "receipt"), ("stored", "receipt"),
    ]  # fmt: skip
    state = bus.story.state
    assert (state.route, state.segments, state.expires, state.receipts) == ("s3", 2, 7.0, 1)


def test_an_announcement_holds_numbers_and_fixed_words_only(bus: Bus) -> None:
    secrets = ("xfer1secret", "payroll.xls", "deadbeef", "alice-laptop", "10.0.0.7")
    for event in (
        events.TicketReady(job="j", ticket=secrets[0]),
        events.Notice(text=secrets[1]),
        Waiting(what=f"the store at {secrets[4]} does not answer", left=1.0, on="store"),
        events.RouteChosen(route="s3", reason=secrets[4]),
        events.Receipt(job="j", receiver=secrets[3], digest=secrets[2]),
        events.Stored(job="j", segments=1, expires=math.pi),
        events.Failure(code=5, kind="PeerLost", message=secrets[4], next=secrets[1]),
    ):
        bus.story.note(event)
    bus.story.end("failed", code=5, kind="PeerLost")
    bus.pass_time(1)
    said = msgspec.json.encode(bus.last).decode()
    assert not any(secret in said for secret in secrets)
