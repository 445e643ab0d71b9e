"""What an owner may do to a job in which state; and that no order of events leaves the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from transfer.api import TRANSITIONS, ErrorCode, JobState
from transfer.broker.job import OPEN_LIFE, JobRecord, Refusal
from transfer.broker.keys import DAY, LIFETIMES
from transfer.seal import hash_token

NOW = 1_000_000.0
LIFE = 7 * DAY
WHEN: dict[str, Any] = {"now": NOW, "life": LIFE}


def job(state: JobState = JobState.OPEN, **changes: object) -> JobRecord:
    fresh = JobRecord(
        job="q" * 16,
        owner="alice",
        token_hash=hash_token("secret"),
        size=None,
        state=state,
        created=NOW,
        expires=NOW + 100,
        expire=60.0,
        segments=1,
        folder="30d/realm/" + "q" * 16,
    )
    return msgspec.structs.replace(fresh, **changes)


VERBS: dict[str, tuple[Callable[[JobRecord], JobRecord], JobState]] = {
    "pause": (lambda r: r.pause(True, **WHEN), JobState.PAUSED),
    "resume": (lambda r: r.pause(False, **WHEN), JobState.OPEN),
    "cancel": (lambda r: r.cancel(now=NOW), JobState.VOID),
    "stored": (lambda r: r.finish(JobState.STORED, 1, now=NOW), JobState.STORED),
    "delivered": (lambda r: r.finish(JobState.DELIVERED, 1, now=NOW), JobState.DELIVERED),
}


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_follows_the_table_in_every_state_and_repeating_it_changes_nothing(
    verb: str, state: JobState
) -> None:
    act, wanted = VERBS[verb]
    record = job(state)
    overtaken = (state, wanted) == (JobState.DELIVERED, JobState.STORED)
    if state is wanted or overtaken:
        assert act(record) is record
    elif wanted in TRANSITIONS[state]:
        after = act(record)
        assert after.state is wanted
        assert act(after) is after
    else:
        with pytest.raises(Refusal) as refused:
            act(record)
        assert refused.value.error.code is ErrorCode.CONFLICT
        assert state.value in refused.value.error.message


def test_the_table_knows_every_state_and_what_is_settled_stays_so() -> None:
    assert set(TRANSITIONS) == set(JobState)
    for state, following in TRANSITIONS.items():
        assert state not in following
        assert not (state.settled and following)
        assert not (state is JobState.STORED and any(s.unfinished for s in following))


def test_nothing_is_begun_during_a_pause_and_what_is_under_way_is_completed() -> None:
    record = job(segments=0).begin(0, "u", **WHEN).pause(True, **WHEN)
    asking: list[Callable[[], object]] = [lambda: record.check_begin(1), record.check_moving]
    for asked in asking:
        with pytest.raises(Refusal) as refused:
            asked()
        assert refused.value.error.code is ErrorCode.PAUSED
    done = record.complete(0, "u", **WHEN)
    assert (done.segments, done.state) == (1, JobState.PAUSED)
    done.pause(False, **WHEN).check_begin(1)


def test_a_paused_job_owes_nothing_and_expires_like_any_unfinished_one() -> None:
    record = job().begin(1, "u", **WHEN).pause(True, now=NOW + 50, life=LIFE)
    assert (record.in_debt, record.settled, record.expires) == (False, False, NOW + 50 + LIFE)
    assert job(created=NOW - OPEN_LIFE + 10).pause(True, **WHEN).expires == NOW + 10
    assert record.void_expired(record.expires).state is JobState.VOID


@pytest.mark.parametrize("state", list(JobState))
def test_removed_it_is_expired_in_whatever_state_it_was_and_its_objects_go(state: JobState) -> None:
    record = job(state, cleared=state.settled).remove(now=NOW)
    assert record.expired(NOW)
    assert record.settled
    assert record.in_debt is not state.settled
    assert record.remove(now=NOW + 9) == record


@pytest.mark.parametrize("state", list(JobState))
def test_extended_a_stored_job_counts_from_now_and_an_unfinished_one_from_its_completion(
    state: JobState,
) -> None:
    if state.settled:
        with pytest.raises(Refusal):
            job(state).extend(5 * DAY, now=NOW + 7)
        return
    after = job(state).extend(5 * DAY, now=NOW + 7)
    assert after.expire == 5 * DAY
    assert after.expires == (NOW + 7 + 5 * DAY if state is JobState.STORED else NOW + 100)
    if state.unfinished:
        assert after.finish(JobState.STORED, 1, now=NOW + 20).expires == NOW + 20 + 5 * DAY


@pytest.mark.parametrize("days", LIFETIMES)
def test_no_extension_outlives_what_the_buckets_rules_let_objects_live(days: int) -> None:
    fresh = job(folder=f"{days}d/realm/x")
    fresh.extend(days * DAY, now=NOW)
    with pytest.raises(Refusal) as refused:
        fresh.extend(days * DAY + 1, now=NOW)
    assert refused.value.error.code is ErrorCode.BAD_REQUEST
    assert f"{days} days" in refused.value.error.message
    stored = job(JobState.STORED, folder=f"{days}d/realm/x", created=NOW - 20 * DAY)
    most = days * DAY + OPEN_LIFE - 20 * DAY
    assert stored.extend(most, now=NOW).expires - stored.created == days * DAY + OPEN_LIFE
    with pytest.raises(Refusal):
        stored.extend(most + 1, now=NOW)


class Life(RuleBasedStateMachine):
    """A job's record under whatever its sender, its receivers, its owner and the sweeper do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.record = job(segments=0, fetches=2, expires=NOW + LIFE)
        self.uploads = 0

    def act(self, edit: Callable[[JobRecord], JobRecord]) -> None:
        before = self.record
        try:
            self.record = edit(before)
        except Refusal:
            return
        after = self.record
        assert after.state is before.state or after.state in TRANSITIONS[before.state]
        assert after.segments >= before.segments
        assert (after.job, after.owner, after.folder) == (before.job, before.owner, before.folder)
        if before.state is JobState.PAUSED:
            assert set(after.uploads) <= set(before.uploads)

    @rule(segment=st.integers(0, 5))
    def begin(self, segment: int) -> None:
        self.uploads += 1
        upload = f"u{self.uploads}"
        self.act(lambda r: r.begin(segment, upload, now=self.now, life=LIFE))

    @rule(segment=st.integers(0, 5))
    def complete(self, segment: int) -> None:
        upload = self.record.uploads.get(segment, "gone")
        self.act(lambda r: r.complete(segment, upload, now=self.now, life=LIFE))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.act(lambda r: r.pause(paused, now=self.now, life=LIFE))

    @rule(outcome=st.sampled_from(JobState), exact=st.booleans())
    def finish(self, outcome: JobState, exact: bool) -> None:
        segments = self.record.segments + (not exact)
        self.act(lambda r: r.finish(outcome, segments, now=self.now))

    @rule(receiver=st.sampled_from("abc"))
    def receive(self, receiver: str) -> None:
        self.act(lambda r: r.receive(receiver, "sealed", now=self.now))

    @rule(days=st.floats(0.1, 200))
    def extend(self, days: float) -> None:
        self.act(lambda r: r.extend(days * DAY, now=self.now))

    @rule()
    def cancel(self) -> None:
        self.act(lambda r: r.cancel(now=self.now))

    @rule()
    def remove(self) -> None:
        self.act(lambda r: r.remove(now=self.now))

    @rule()
    def pay(self) -> None:
        self.act(lambda r: r.paid(r))
        assert not self.record.in_debt

    @rule(days=st.floats(0, 10))
    def wait(self, days: float) -> None:
        self.now += days * DAY
        self.act(lambda r: r.void_expired(self.now))

    @invariant()
    def no_object_outlives_the_rules_of_the_bucket(self) -> None:
        assert self.record.expires <= self.record.created + 30 * DAY + OPEN_LIFE + DAY

    @invariant()
    def what_is_settled_has_no_promise_left(self) -> None:
        assert not (self.record.settled and self.record.state.unfinished)
        assert not (self.record.state is JobState.STORED and self.record.ahead)


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
