"""The rules' quota, and the law of a user's page in the book."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.broker.account import check, resets
from transfer.broker.borrowing import Borrower
from transfer.broker.job import Refusal
from transfer.broker.limits import Amount, Count, Limits
from transfer.broker.rules import read
from transfer.broker.tally import Tally, fresh, of_bytes, settled
from transfer.errors import UsageError

NOON = 1_800_014_400.0
DAY = 86_400.0


def test_what_a_user_has_no_exception_for_is_what_everybody_has() -> None:
    quota = read(
        b"""
        [quota]
        bytes_per_day = "10GB"
        stored_bytes = 5
        open_jobs = 7
        [quota.total]
        bytes_per_month = "1.5TiB"
        [quota.users.ann]
        bytes_per_day = "unlimited"
        open_jobs = 9
        requests_per_minute = 60
        """
    ).quota
    assert quota.of("bob") == Limits(Amount(10 * 10**9), None, Amount(5), Count(7), None)
    assert quota.of("ann") == Limits(None, None, Amount(5), Count(9), Count(60))
    assert quota.total.limits() == Limits(None, Amount(3 << 39), None, None, None)
    assert read(b"").quota.of("bob") == Limits()


@pytest.mark.parametrize(
    "text",
    [
        "bytes_per_day = -1",
        'bytes_per_day = "much"',
        "bytes_per_day = true",
        "bytes_per_day = 1.5",
        'open_jobs = "1k"',
        "bytes_per_week = 1",
        "total = 5",
        "[quota.total]\nrequests_per_minute = 1",
        "[quota.users.ann]\nbytes = 1",
    ],
)
def test_a_quota_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="make no sense"):
        read(f"[quota]\n{text}".encode())


def test_sums_of_different_days_keep_the_later_one() -> None:
    today, tomorrow = of_bytes(5, NOON, jobs=1), of_bytes(7, NOON + DAY, jobs=1)
    assert today.plus(tomorrow).counts == (7, 12, 12, 2)
    assert tomorrow.minus(today).counts == (7, 2, 2, 0)
    assert today.at(NOON + DAY).counts == (0, 5, 5, 1)
    assert today.at(NOON + 40 * DAY).counts == (0, 0, 5, 1)


tallies = st.builds(Tally, st.integers(0, 3), st.integers(0, 2), *[st.integers(0, 100) for _ in range(4)])


@given(st.lists(tallies, max_size=6))
def test_what_was_added_and_taken_away_leaves_nothing(several: list[Tally]) -> None:
    total = Tally()
    for one in several:
        total = total.plus(one)
    for one in several:
        total = total.minus(one)
    assert total.counts == (0, 0, 0, 0)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.booleans())
def test_a_job_that_ends_holds_what_it_moved(reserved: int, moved: int, stored: bool) -> None:
    held = settled(of_bytes(reserved, NOON, jobs=1), moved, stored=stored)
    assert held.counts == (moved, moved, moved if stored else 0, 0)
    assert settled(held, moved, stored=stored) == held
    assert settled(held, moved, stored=False).counts == (moved, moved, 0, 0)


def test_days_and_months_end_in_utc() -> None:
    assert resets(NOON) == (1_800_057_600.0, 1_801_440_000.0)  # 2027-01-16, 2027-02-01
    december = 1_797_000_000.0  # 2026-12-11
    assert resets(december)[1] == 1_798_761_600.0  # 2027-01-01
    assert fresh(resets(december)[1]).month == fresh(december).month + 1


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (
            Limits(bytes_per_day=Amount(10 * 10**9)),
            "over quota: 9.20 GB of 10.00 GB used today, 800.0 MB left, this needs 2.00 GB; "
            "it resets at 00:00 UTC (in 12 h 00 min)",
        ),
        (
            Limits(bytes_per_month=Amount(10 * 10**9)),
            "over quota: 9.20 GB of 10.00 GB used this month, 800.0 MB left, this needs 2.00 GB; "
            "it resets on the 1st at 00:00 UTC (in 16 days)",
        ),
        (
            Limits(stored_bytes=Amount(10 * 10**9)),
            "over quota: 9.20 GB of 10.00 GB stored, 800.0 MB left, this needs 2.00 GB; "
            "it falls when a transfer is void, expires or has had its last fetch",
        ),
        (Limits(open_jobs=Count(1)), "over quota: 1 of 1 jobs are open; another can begin when one ends"),
    ],
)
def test_over_quota_says_what_is_used_what_is_left_and_when_it_resets(limits: Limits, sentence: str) -> None:
    used, more = of_bytes(9_200_000_000, NOON, jobs=1), of_bytes(2 * 10**9, NOON, jobs=1)
    with pytest.raises(Refusal) as refused:
        check(limits, used, more, NOON)
    assert refused.value.what == sentence


class ShelfInMemory:
    """As `book.Shelf`: one value a key, each with its revision."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes | None, int]] = {}

    async def read(self, key: str) -> tuple[bytes | None, int]:
        return self.values.get(key, (None, 0))

    async def write(self, key: str, value: bytes, revision: int) -> int | None:
        if self.values.get(key, (None, 0))[1] != revision:
            return None
        self.values[key] = value, revision + 1
        return revision + 1


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            'stored_bytes = "10GB"',
            "what all may store is used up but for less than the {} that this needs; "
            "it falls when a transfer is void, expires or has had its last fetch",
        ),
        (
            'bytes_per_day = "10GB"',
            "what all may send today is used up but for less than the {} that this needs; "
            "it resets at 00:00 UTC (in 12 h 00 min)",
        ),
        ("open_jobs = 0", "no more jobs may be open just now; another can begin when one ends"),
    ],
)
async def test_a_refusal_of_the_total_names_the_asking_users_figures_and_no_others(
    rule: str, sentence: str
) -> None:
    """Neither what all use, nor what another user asked for whose refusal is remembered."""
    limits = read(f"[quota.total]\n{rule}".encode()).quota.total.limits()
    shelf = ShelfInMemory()
    loans = Borrower(shelf, lambda: limits, lambda: NOON)  # type: ignore[arg-type]
    if "open_jobs" not in rule:
        await loans.take(of_bytes(9_200_000_000, NOON, jobs=1))
    for size, shown in ((1_230_000_000, "1.23 GB"), (4_560_000_000, "4.56 GB")):  # the second is remembered
        before = dict(shelf.values)
        with pytest.raises(Refusal) as refused:
            await loans.take(of_bytes(size, NOON, jobs=1))
        assert refused.value.what == f"over quota of all users together: {sentence.format(shown)}"
    assert shelf.values == before
