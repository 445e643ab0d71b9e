"""The meter: counts once, tells at most five times a second."""

from __future__ import annotations

import time

import pytest

from transfer.events import Event, Notice, Progress, RouteChosen, Waiting
from transfer.meter import EVERY, Meter
from transfer.model import TRAILER, FrameId, Kind

CHUNK = FrameId(Kind.CHUNK, 0)


class Watched:
    """A meter on a clock that moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.events: list[Event] = []
        self.meter = Meter(self.events.append, clock=lambda: self.now)

    def told(self, kind: type[Event] = Progress) -> list[Event]:
        return [e for e in self.events if isinstance(e, kind)]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_chunk_that_crossed_in_this_run_was_not_kept_from_an_earlier_one(watched: Watched) -> None:
    watched.meter.crossed(CHUNK, 10)
    for frame in (CHUNK, FrameId(Kind.CHUNK, 1), FrameId(Kind.MANIFEST, 0), TRAILER):
        watched.meter.found(frame, 5)
    assert watched.meter.kept == 1


def test_progress_is_told_at_most_five_times_a_second(watched: Watched) -> None:
    for _ in range(1000):
        watched.now += 0.01
        watched.meter.moved(CHUNK, 1)
    assert 45 <= len(watched.told()) <= 10 / EVERY
    assert watched.meter.done == 1000


def test_a_chunk_that_crosses_twice_is_resent_and_other_frames_are_not(watched: Watched) -> None:
    for frame in (CHUNK, FrameId(Kind.CHUNK, 1), CHUNK, CHUNK, TRAILER, TRAILER):
        watched.meter.crossed(frame, 10)
    assert (watched.meter.resent, watched.meter.wire) == (2, 60)


def test_what_is_waited_for_is_told_when_it_changes_and_once_a_second(watched: Watched) -> None:
    for tenth in range(30):
        watched.now = 100 + tenth / 10
        watched.meter.waiting("a receiver", 60 - tenth / 10)
    watched.meter.waiting("the broker", 5)
    assert [getattr(e, "what", "") for e in watched.told(Waiting)] == ["a receiver"] * 3 + ["the broker"]


def test_before_a_wait_the_last_progress_is_told(watched: Watched) -> None:
    watched.meter.moved(CHUNK, 5)
    watched.meter.moved(CHUNK, 7)
    watched.meter.waiting("a receiver", None)
    assert [type(e) for e in watched.events[-2:]] == [Progress, Waiting]
    assert getattr(watched.told()[-1], "done", 0) == 12
    watched.now += 2
    watched.meter.waiting("a receiver", None)
    assert [type(e) for e in watched.events[-2:]] == [Waiting, Waiting]


def test_progress_says_all_that_is_known(watched: Watched) -> None:
    meter = watched.meter
    meter.total, meter.files = 10, 2
    meter.choose("s3", "it is large")
    meter.crossed(CHUNK, 4)
    meter.moved(CHUNK, 6)
    meter.tell()
    meter.notice("a pipe is left out")
    assert watched.told()[-1] == Progress(done=6, total=10, wire=4, files=2, route="s3")
    assert watched.told(RouteChosen) == [RouteChosen(route="s3", reason="it is large")]
    assert watched.told(Notice) == [Notice(text="a pipe is left out")]


def test_how_it_goes_is_told_where_it_means_something(watched: Watched) -> None:
    """Requests at once and zstd's level: of the store's route."""
    watched.meter.tell()
    watched.meter.concurrency, watched.meter.level = 6, 0
    watched.meter.tell()
    assert watched.told() == [
        Progress(done=0, total=None, wire=0, files=0, route=None),
        Progress(done=0, total=None, wire=0, files=0, route=None, concurrency=6, level=0),
    ]


def test_many_chunks_that_cross_with_gaps_between_are_counted_at_once(watched: Watched) -> None:
    began = time.process_time()
    for index in range(0, 60_000, 2):
        watched.meter.crossed(FrameId(Kind.CHUNK, index), 1)
    assert (watched.meter.resent, watched.meter.wire) == (0, 30_000)
    assert time.process_time() - began < 3  # tenths of a second; in quadratic time it would be a minute


def test_seconds_count_from_the_start(watched: Watched) -> None:
    watched.now += 2.5
    assert watched.meter.seconds == 2.5


def test_what_is_under_way_is_told_as_it_grows_and_never_twice(watched: Watched) -> None:
    meter, gone = watched.meter, [(0, 0)]
    meter.under_way = lambda: gone[0]
    meter.tell()
    for raw in (0, 4, 9, 3):  # the last had to begin anew: nothing that is worth a word of its own
        watched.now += 1
        gone[0] = raw, raw // 2
        meter.look()
    gone[0] = 0, 0
    watched.now += 1
    meter.moved(CHUNK, 10)
    told = [(e.done, e.under_way, e.wire) for e in watched.told() if isinstance(e, Progress)]
    assert told == [(0, 0, 0), (0, 4, 2), (0, 9, 4), (10, 0, 4)]  # what has crossed the network stays so


def test_what_an_earlier_run_moved_is_not_told_piece_by_piece(watched: Watched) -> None:
    for number in range(5):
        watched.now += 1
        watched.meter.found(FrameId(Kind.CHUNK, number), 7)
    assert watched.told() == []
    watched.meter.look()
    assert watched.told() == [Progress(done=35, total=None, wire=0, files=0, route=None, kept=35)]
    assert watched.meter.kept == 5


def test_a_part_that_is_stored_is_told_of_in_one_step_and_nothing_goes_back(watched: Watched) -> None:
    """Its bytes were under way; then they are safe: neither what is shown nor the wire takes a step down in between."""
    way = (30, 33)
    watched.meter.under_way = lambda: way
    watched.meter.tell()
    way = (0, 0)
    with watched.meter.together():
        for index in range(3):
            watched.now += 1
            watched.meter.crossed(FrameId(Kind.CHUNK, index), 11)
            watched.meter.moved(FrameId(Kind.CHUNK, index), 10)
    way = (5, 5)
    watched.meter.tell()
    way = (0, 0)  # it is sent once more
    watched.meter.tell()
    told = [event for event in watched.events if isinstance(event, Progress)]
    assert [(e.done + e.under_way, e.wire) for e in told] == [(30, 33), (30, 33), (35, 38), (30, 38)]
