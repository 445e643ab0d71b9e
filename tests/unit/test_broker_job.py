"""The law of a job's record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.api import TRANSITIONS, ErrorCode, JobState
from transfer.broker.job import (
    AGAIN,
    MAX_FETCHES,
    MAX_OPEN,
    MAX_OWED,
    MAX_RECEIPTS,
    OPEN_LIFE,
    SETTLED_LIFE,
    WINDOW,
    JobRecord,
    Refusal,
    admit_holder,
    admit_owner,
)
from transfer.seal import hash_token

NOW = 1_000_000.0
WHEN: dict[str, Any] = {"now": NOW, "life": 100.0}


def job(**changes: object) -> JobRecord:
    fresh = JobRecord(
        job="q" * 16,
        owner="alice",
        token_hash=hash_token("secret"),
        size=None,
        created=NOW,
        expires=NOW + 100,
        expire=60.0,
        folder="30d/realm/" + "q" * 16,
    )
    return msgspec.structs.replace(fresh, **changes)


def stored(record: JobRecord, *segments: int) -> JobRecord:
    for segment in segments:
        record = record.begin(segment, f"u{segment}", **WHEN)
        record = record.complete(segment, f"u{segment}", **WHEN)
    return record


@given(st.permutations(range(12)))
def test_in_whatever_order_segments_complete_the_count_has_no_gap(order: list[int]) -> None:
    record = job()
    for done, segment in enumerate(order, 1):
        record = stored(record, segment)
        assert record.segments + len(record.ahead) == done
        assert all(record.has(n) for n in range(record.segments))
        assert not record.has(record.segments)
    assert (record.segments, record.ahead, record.uploads) == (12, (), {})


def test_progress_moves_the_expiry_of_an_unfinished_job() -> None:
    record = job().begin(0, "u", now=NOW + 10, life=200)
    assert record.expires == NOW + 210
    assert record.complete(0, "u", now=NOW + 20, life=300).expires == NOW + 320


def test_no_progress_keeps_a_job_open_for_ever() -> None:
    late = NOW + OPEN_LIFE - 50
    record = job().begin(0, "u", now=late, life=100)
    assert record.expires == record.complete(0, "u", now=late, life=200).expires == NOW + OPEN_LIFE


def test_completing_again_changes_nothing() -> None:
    record = stored(job(), 0)
    assert record.complete(0, "u0", **WHEN) is record


def test_only_the_open_upload_completes() -> None:
    record = job().begin(0, "old", **WHEN).begin(0, "new", **WHEN)
    with pytest.raises(Refusal):
        record.complete(0, "old", **WHEN)


def test_beginning_a_segment_beyond_the_gap_again_forgets_the_stored_one() -> None:
    record = stored(job(), 1).begin(1, "again", **WHEN)
    assert not record.has(1)
    assert record.uploads == {1: "again"}


def test_an_upload_that_is_replaced_is_owed() -> None:
    record = job().begin(0, "old", **WHEN)
    assert not record.in_debt
    assert record.begin(0, "old", **WHEN) == record
    record = record.begin(0, "new", **WHEN)
    assert (record.uploads, record.owed, record.in_debt) == ({0: "new"}, {"old": 0}, True)


def test_what_is_owed_has_a_bound() -> None:
    deep = job(owed={f"u{n}": 0 for n in range(MAX_OWED)})
    with pytest.raises(Refusal) as refused:
        deep.check_begin(0)
    assert refused.value.error.code is ErrorCode.BUSY
    assert refused.value.error.retry_after


def test_a_stored_job_owes_what_its_sender_left_open() -> None:
    record = stored(job(), 0).begin(1, "left", **WHEN).finish(JobState.STORED, 1, now=NOW)
    assert (record.uploads, record.owed) == ({}, {"left": 1})
    assert record.paid(record).owed == {}


@pytest.mark.parametrize("outcome", [JobState.VOID, JobState.DELIVERED])
def test_a_stored_job_is_looked_at_once_and_again_when_it_is_settled(outcome: JobState) -> None:
    record = stored(job(), 0).finish(JobState.STORED, 1, now=NOW)
    settled = record.finish(outcome, 1, now=NOW)
    assert (record.in_debt, record.paid(record).in_debt) == (True, False)
    assert record.paid(record).finish(outcome, 1, now=NOW).in_debt
    assert settled.paid(record).in_debt  # whoever paid for the stored one has not erased the settled one
    assert not settled.paid(settled).in_debt


def test_a_stored_job_that_expires_is_erased() -> None:
    record = stored(job(), 0).finish(JobState.STORED, 1, now=NOW)
    assert record.paid(record).void_expired(record.expires).in_debt


@pytest.mark.parametrize("outcome", [JobState.VOID, JobState.DELIVERED])
def test_a_settled_job_is_in_debt_until_it_is_erased(outcome: JobState) -> None:
    record = stored(job(), 0).begin(1, "u", **WHEN).finish(outcome, 0, now=NOW)
    assert (record.in_debt, record.uploads) == (True, {1: "u"})
    paid = record.paid(record)
    assert (paid.in_debt, paid.uploads, paid.cleared) == (False, {}, True)


def test_what_comes_too_late_is_owed_and_not_forgotten_by_whoever_pays_the_rest() -> None:
    debtor = job().begin(0, "u", **WHEN).finish(JobState.VOID, 0, now=NOW)
    late = debtor.complete(0, "u", **WHEN)
    assert late.owed == {"u": 0}
    assert late.paid(debtor).in_debt
    assert not late.paid(debtor).paid(late).in_debt


def test_a_segment_is_begun_neither_too_far_ahead_nor_with_too_many_open() -> None:
    job().check_begin(WINDOW - 1)
    with pytest.raises(Refusal):
        job().check_begin(WINDOW)
    full = job(uploads=dict.fromkeys(range(MAX_OPEN), "u"))
    full.check_begin(0)
    with pytest.raises(Refusal):
        full.check_begin(MAX_OPEN)


@pytest.mark.parametrize("state", [s for s in JobState if not s.unfinished])
def test_a_finished_job_takes_no_segment(state: JobState) -> None:
    with pytest.raises(Refusal) as refused:
        job(state=state).check_begin(0)
    assert refused.value.error.code is ErrorCode.CONFLICT


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("outcome", list(JobState))
def test_finish_follows_the_table(state: JobState, outcome: JobState) -> None:
    record = job(state=state, segments=1)
    overtaken = (state, outcome) == (JobState.DELIVERED, JobState.STORED)
    if not outcome.unfinished and (outcome is state or overtaken):
        assert record.finish(outcome, 1, now=NOW) is record
    elif not outcome.unfinished and outcome in TRANSITIONS[state]:
        assert record.finish(outcome, 1, now=NOW).state is outcome
    else:
        with pytest.raises(Refusal):
            record.finish(outcome, 1, now=NOW)


def sign_again_and_again(record: JobRecord, parts: dict[int, int], times: int, *, begin_anew: bool) -> None:
    """These parts of segment 0, which count once however often they are sent."""
    record = record.begin(0, "u", **WHEN)
    for count in range(times):
        if begin_anew:
            record = record.begin(0, f"u{count}", **WHEN)
            record = msgspec.structs.replace(record, owed={})  # dropped: what was sent is gone from the store
        record = record.sign(0, record.uploads[0], parts)
        assert record.claimed == sum(parts.values())


@pytest.mark.parametrize("begin_anew", [False, True], ids=["the same upload", "a new upload each time"])
def test_what_is_sent_again_and_again_is_bounded_by_what_the_job_has(begin_anew: bool) -> None:
    parts = {1: 8 << 20, 2: 5 << 20}
    together = sum(parts.values())
    for size, most in ((None, AGAIN), (together, AGAIN), (3 * together, 3 * AGAIN)):
        sign_again_and_again(job(size=size), parts, most, begin_anew=begin_anew)
        with pytest.raises(Refusal) as refused:
            sign_again_and_again(job(size=size), parts, most + 1, begin_anew=begin_anew)
        assert refused.value.error.code is ErrorCode.OVER_QUOTA


def test_what_was_stored_raises_what_may_be_sent_again() -> None:
    record = job()
    for segment in range(5):
        record = record.begin(segment, "u", **WHEN).sign(segment, "u", {1: 100})
        record = record.complete(segment, "u", size=100, **WHEN)
    assert (record.claimed, record.issued) == (500, 500)
    record = record.begin(5, "u", **WHEN)
    for _ in range(6 * AGAIN - 5):
        record = record.sign(5, "u", {1: 100})
    with pytest.raises(Refusal, match="send it anew"):
        record.sign(5, "u", {1: 100})
    assert record.sign(5, "u", {2: 100}).claimed == 700


@pytest.mark.parametrize("state", [JobState.OPEN, JobState.PAUSED, JobState.STORED])
def test_a_run_that_was_overtaken_ends_nothing_but_may_say_that_it_delivered(state: JobState) -> None:
    record = job(state=state, run="two", former=("one",))
    for run, outcome in (("one", JobState.VOID), ("one", JobState.STORED)):
        if (state, outcome) != (JobState.STORED, JobState.STORED):
            with pytest.raises(Refusal, match="another run"):
                record.check_end(outcome, run)
    for run in ("two", ""):
        record.check_end(JobState.VOID, run)
    record.check_end(JobState.DELIVERED, "one")


def test_expiry_counts_from_completion() -> None:
    assert stored(job(), 0).finish(JobState.STORED, 1, now=NOW + 50).expires == NOW + 50 + 60
    assert job().finish(JobState.VOID, 0, now=NOW + 50).expires == NOW + 50 + SETTLED_LIFE


@pytest.mark.parametrize(("have", "stated"), [((), 0), ((0,), 2), ((0, 1), 1), ((0, 2), 1), ((1,), 1)])
def test_stored_needs_exactly_its_segments(have: tuple[int, ...], stated: int) -> None:
    with pytest.raises(Refusal):
        stored(job(), *have).finish(JobState.STORED, stated, now=NOW)


def test_receipts_are_counted_once_a_receiver() -> None:
    record = job(fetches=2)
    record = record.receive("a", "x", now=NOW).receive("a", "y", now=NOW)
    assert (record.receipts, record.state) == ({"a": "x"}, JobState.OPEN)
    assert record.receive("b", "z", now=NOW).state is JobState.DELIVERED


def test_a_record_keeps_so_many_receipts_and_no_more() -> None:
    record, counted = job(), job(fetches=MAX_RECEIPTS + 5)
    for n in range(MAX_RECEIPTS + 4):
        record, counted = record.receive(f"r{n}", "s", now=NOW), counted.receive(f"r{n}", "s", now=NOW)
    assert len(record.receipts) == MAX_RECEIPTS
    assert len([s for s in counted.receipts.values() if s]) == MAX_RECEIPTS
    assert counted.state is JobState.OPEN
    assert counted.receive("last", "s", now=NOW).state is JobState.DELIVERED
    receipts = dict.fromkeys(map(str, range(MAX_FETCHES)), "s")
    crowded = job(fetches=MAX_FETCHES, state=JobState.DELIVERED, receipts=receipts)
    assert crowded.receive("more", "s", now=NOW) is crowded


def test_a_void_job_takes_no_receipt() -> None:
    with pytest.raises(Refusal):
        job(state=JobState.VOID).receive("a", "x", now=NOW)


def test_an_expired_job_becomes_void_and_stays_expired() -> None:
    assert job().void_expired(NOW) == job()
    late = job().void_expired(NOW + 100)
    assert (late.state, late.expired(NOW + 100)) == (JobState.VOID, True)
    delivered = job(state=JobState.DELIVERED)
    assert delivered.void_expired(NOW + 100) is delivered


def test_strangers_and_latecomers_are_told_the_same() -> None:
    told = []
    attempts: list[Callable[[], object]] = [
        lambda: admit_holder(None, "secret", NOW),
        lambda: admit_holder(job(), "wrong", NOW),
        lambda: admit_holder(job(), "", NOW),
        lambda: admit_holder(job(), "secret", NOW + 100),
        lambda: admit_owner(None, "alice", NOW),
        lambda: admit_owner(job(), "bob", NOW),
        lambda: admit_owner(job(), "alice", NOW + 100),
    ]
    for attempt in attempts:
        with pytest.raises(Refusal) as refused:
            attempt()
        told.append(refused.value.error)
    assert len(set(told)) == 1
    assert told[0].code is ErrorCode.NOT_FOUND


def test_the_rightful_are_admitted() -> None:
    assert admit_holder(job(), "secret", NOW) == job()
    assert admit_owner(job(), "alice", NOW) == job()


def test_the_hash_of_nothing_admits_nobody() -> None:
    with pytest.raises(Refusal):
        admit_holder(job(token_hash="0" * 64), "0" * 64, NOW)


def test_a_record_survives_its_way_to_disk() -> None:
    record = stored(job(fetches=3), 0, 2).begin(1, "u", **WHEN).receive("r", "s", now=NOW)
    assert msgspec.json.decode(msgspec.json.encode(record), type=JobRecord) == record
