"""`--bwlimit` by the hour: which rate holds when, and that a transfer that runs follows it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.units import parse_limit
from transfer.bwlimit import MOST, BwLimit
from transfer.errors import UsageError
from transfer.timetable import DAYS, Timetable


def read(text: str) -> Timetable:
    table = parse_limit(text, option="--bwlimit", command="send")
    assert isinstance(table, Timetable)
    return table


def at(text: str, day: int, clock: str) -> float | None:
    """day: 0 is Monday."""
    hour, minute = map(int, clock.split(":"))
    return read(text).at(time.struct_time((2024, 1, 1 + day, hour, minute, 0, day, 1 + day, 0)))


OFFICE = "08:00,2M 19:00,off"


@pytest.mark.parametrize(
    ("clock", "rate"),
    [("07:59", None), ("08:00", 2e6), ("18:59", 2e6), ("19:00", None), ("00:00", None), ("23:59", None)],
)
def test_an_entry_without_a_day_holds_every_day_until_the_next(clock: str, rate: float | None) -> None:
    assert {at(OFFICE, day, clock) for day in range(7)} == {rate}


WEEK = "Mon-00:00,512k Fri-23:59,10M saturday-10:00,1M Sun-20:00,off"


@pytest.mark.parametrize(
    ("day", "clock", "rate"),
    [
        (0, "00:00", 512e3),
        (4, "23:58", 512e3),
        (4, "23:59", 10e6),
        (5, "09:59", 10e6),
        (5, "10:00", 1e6),
        (6, "19:59", 1e6),
        (6, "20:00", None),
    ],
)
def test_an_entry_with_a_day_holds_until_the_next_one_of_the_week(
    day: int, clock: str, rate: float | None
) -> None:
    assert at(WEEK, day, clock) == rate


def test_the_last_of_the_week_holds_on_into_the_next() -> None:
    assert at("Wed-12:00,3M Fri-12:00,off", 0, "00:00") is None
    assert at("Wed-12:00,3M", 2, "11:59") == 3e6


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1439)), min_size=1, max_size=9, unique=True),
    st.integers(0, 7 * 1440 - 1),
)
def test_what_holds_is_what_was_said_last(entries: list[tuple[int, int]], now: int) -> None:
    text = " ".join(
        f"{DAYS[day][:3]}-{minute // 60:02}:{minute % 60:02},{1000 + number}"
        for number, (day, minute) in enumerate(entries)
    )
    passed = [(now - (day * 1440 + minute)) % (7 * 1440) for day, minute in entries]
    expected = 1000 + passed.index(min(passed))
    assert at(text, now // 1440, f"{now % 1440 // 60}:{now % 60}") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("24:00,1M", "12:60,1M", "08:00", "08:00,", ",1M", "Mo-08:00,1M", "Someday-08:00,1M", "08:00,1M:1M"),
        *("08:00,1M 8:00,2M", "Mon-08:00,1M 08:00,2M", "٠8:00,1M", ":", "08:00,1M;19:00,off"),
    ],
)
def test_what_is_no_timetable_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(text)
    assert refused.value.what.startswith("--bwlimit ")
    assert refused.value.exit_code == 2


def test_a_rate_in_it_is_held_to_what_a_plain_rate_is() -> None:
    with pytest.raises(UsageError, match="would take for ever"):
        read("08:00,1")


def test_a_plain_rate_stays_one() -> None:
    assert parse_limit("20M", option="--bwlimit", command="send") == 20e6
    assert parse_limit("off", option="--bwlimit", command="send") is None
    assert parse_limit(None, option="--bwlimit", command="send") is None


def test_it_is_local_time_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XST-5")  # five hours ahead of UTC
    time.tzset()
    try:
        noon = 12 * 3600.0
        table = Timetable({day * 1440 + 17 * 60: None for day in range(7)} | {0: 1e6}, lambda: noon)
        assert table() is None  # 17:00 there
    finally:
        monkeypatch.undo()
        time.tzset()


class Hours:
    """A rate that is changed by hand, and a clock that moves by hand."""

    def __init__(self, rate: float | None) -> None:
        self.rate, self.now = rate, 100.0

    def limit(self) -> BwLimit:
        return BwLimit(lambda: self.rate, lambda: self.now)


def test_a_change_holds_from_the_next_piece_on_and_what_is_owed_is_paid_at_the_new_rate() -> None:
    hours = Hours(1000.0)
    limit = hours.limit()
    assert limit.debt(5000) == 0.0
    assert limit.debt(0) == 5.0
    hours.rate = 50_000.0
    assert limit.debt(5000) == pytest.approx(0.1)
    assert limit.piece == 2500
    hours.rate = 1000.0
    assert limit.debt(0) == pytest.approx(10.0)


def test_while_there_is_no_limit_nothing_waits_and_nothing_is_owed_afterwards() -> None:
    hours = Hours(1000.0)
    limit = hours.limit()
    limit.debt(5000)
    hours.rate = None
    assert limit.debt(10**12) == 0.0
    assert limit.piece == MOST
    hours.rate = 1000.0
    assert limit.debt(1000) == 0.0
    assert limit.debt(0) == 1.0


@given(st.lists(st.tuples(st.sampled_from([1e3, 1e4, 1e6]), st.integers(1, 5000)), min_size=1, max_size=30))
def test_however_it_changes_each_byte_is_paid_at_a_rate_that_held_since_it_was_taken(
    takes: list[tuple[float, int]],
) -> None:
    hours = Hours(takes[0][0])
    limit = hours.limit()
    least = most = 0.0
    for rate, length in takes:
        hours.rate = rate
        hours.now += limit.debt(length)
        least, most = least + length / 1e6, most + length / 1e3
    hours.now += limit.debt(0)
    assert least * 0.999 <= hours.now - 100.0 <= most * 1.001
