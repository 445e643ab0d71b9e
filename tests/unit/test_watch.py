"""What a watcher makes of announcements: gaps, bars, an end; and how jobs are listed for people."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cli import ls, status, table, watch
from transfer.announce import Announcement
from transfer.api import JobLine, JobState, JobStatus
from transfer.errors import JobCancelled, SourceChanged
from transfer.events import Event, Notice, Progress, RouteChosen, Stored, Waiting
from transfer.watch import Heard, _failure, missed

JOB = "q" * 16
SAID = Announcement(job=JOB, run="a", total=100, files=1, route="s3", state="moving")


def story(lasting: list[bool]) -> list[tuple[Announcement, bool]]:
    """A run's announcements, of which these last."""
    kept = itertools.accumulate(lasting)
    return [
        (replace(SAID, seq=seq, kept=count), lasts)
        for seq, (count, lasts) in enumerate(zip(kept, lasting, strict=True))
    ]


def gaps(told: list[tuple[Announcement, bool]], *, from_start: bool = True) -> list[int]:
    before, found = None, []
    for said, lasting in told:
        if missed(before, said, lasting=lasting, from_start=from_start):
            found.append(said.seq)
        before = said
    return found


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.data())
def test_a_gap_is_told_if_and_only_if_something_that_should_have_lasted_is_missing(
    lasting: list[bool], data: st.DataObject
) -> None:
    told = story([True, *lasting])
    faded = [one for one in told if one[1] or data.draw(st.booleans())]
    assert gaps(faded) == []
    lost = data.draw(st.sampled_from([seq for seq, (_, lasts) in enumerate(told[:-1]) if lasts]))
    left = [one for one in faded if one[0].seq != lost]
    after = [said.seq for said, _ in left if said.seq > lost]
    assert gaps(left) == after[:1]


def test_who_asks_from_a_later_sequence_on_is_told_of_no_gap_before_it() -> None:
    assert gaps(story([True] * 5)[3:], from_start=False) == []
    assert gaps(story([True] * 5)[3:]) == [3]


def test_the_beginning_of_another_run_is_missed_too() -> None:
    first, second = story([True] * 2), [(replace(said, run="b"), lasts) for said, lasts in story([True] * 3)]
    assert gaps([*first, *second]) == []
    assert gaps([*first, *second[1:]]) == [1]


def told_of(*heard: Heard) -> list[Event]:
    told: list[Event] = []
    teller = watch._Teller(told.append)
    for one in heard:
        teller(one)
    return told


def test_a_watcher_shows_what_the_sender_shows() -> None:
    moving = replace(SAID, done=50, wire=40)
    stored = replace(moving, event="end", state="stored", segments=1, expires=9.0, done=100)
    told = told_of(
        Heard(replace(SAID, state="waiting", waiting="receiver", left=7.0, route=None)),
        Heard(moving, 5, True),
        Heard(replace(moving, state="paused", waiting="owner")),
        Heard(stored),
    )
    assert [type(event) for event in told] == [
        Progress, Waiting, Notice, RouteChosen, Progress, Waiting, Progress, Stored,
    ]  # fmt: skip
    assert told[1] == Waiting(what="its sender waits for a receiver", left=7.0, on="receiver")
    assert told[5] == Waiting(what=f"paused by its owner; `xfer resume {JOB}` goes on", on="owner")
    summary = watch.summary_of(replace(stored, time=12.0), since=2.0)
    assert (summary.outcome, summary.bytes, summary.seconds) == ("stored", 100, 10.0)
    assert watch.summary_of(replace(stored, receipts=1), since=None).outcome == "receipt"
    assert watch.summary_of(None, since=None).outcome == "stored"


def test_only_what_is_seen_as_it_happens_counts_for_the_speed() -> None:
    def moved(*heard: Heard) -> list[int]:
        return [e.done + e.under_way - e.kept for e in told_of(*heard) if isinstance(e, Progress)]

    replayed = [Heard(replace(SAID, done=done), number) for number, done in enumerate((10, 30), start=5)]
    live = [Heard(replace(SAID, done=done, under_way=1)) for done in (50, 52)]
    anew = [Heard(replace(SAID, run="b", done=done)) for done in (40, 45)]
    assert moved(*replayed, *live) == [0, 0, 0, 2]
    assert moved(*live, *anew) == [0, 2, 0, 5]


def test_a_run_that_ended_badly_is_waited_for_and_another_one_is_said() -> None:
    failed = replace(SAID, event="end", state="failed", code=5, kind="BusUnreachable")
    told = told_of(Heard(failed), Heard(replace(SAID, run="b")))
    assert Waiting(what="its sender ended with exit code 5; waiting for it to go on", on="sender") in told
    assert Notice(text="another run goes on with it") in told


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (None, JobCancelled),
        (replace(SAID, event="end", state="failed", code=6, kind="SourceChanged"), SourceChanged),
        (replace(SAID, event="end", state="failed", code=1, kind="Exception"), JobCancelled),
        (replace(SAID, event="end", state="failed", code=1, kind="annotations"), JobCancelled),
        (replace(SAID, event="end", state="interrupted", kind="Interrupted"), JobCancelled),
        (replace(SAID, state="moving", kind="SourceChanged"), JobCancelled),
    ],
)
def test_a_void_job_ends_its_watcher_as_it_ended_its_sender(last: Announcement | None, kind: type) -> None:
    assert type(_failure(last)) is kind


@given(
    st.integers(0, 1 << 50) | st.none(), st.floats(0, 1e9), st.integers(0, 1000), st.integers(1, 1000) | st.none()
)  # fmt: skip
def test_every_line_of_the_list_fits_80_columns(
    size: int | None, age: float, fetched: int, fetches: int | None
) -> None:
    line = JobLine(
        job=JOB, state=JobState.DELIVERED, size=size, created=0.0, expires=2 * age, fetched=fetched, fetches=fetches
    )  # fmt: skip
    what = "what was sent, at some length, and in many words.tar"
    shown = table.table(ls.HEADINGS, [ls.row(line, what)], 80, age, numbers=("SIZE",), whole=("JOB",))
    assert max(map(len, shown)) <= 80
    assert shown[1].startswith(JOB), "nothing had to be cut"


def test_a_status_says_what_matters_in_its_state() -> None:
    found = JobStatus(
        JobState.PAUSED, [0, 1], 700_000.0, [], {}, 5_000_000, 0.0, 86_400.0, 3, ["r1"], 4_000_000
    )
    told = dict(status.told(JOB, found, 7200.0))
    assert (told["state"], told["stored"], told["then kept"]) == ("paused", "4.0 MB in 2 segments", "24 h")
    assert (told["fetched"], told["by"]) == ("1 of 3", "r1")
    settled = dict(status.told(JOB, replace(found, state=JobState.VOID), 7200.0))
    assert settled["stored"] == "nothing any more"
    assert "then kept" not in settled
