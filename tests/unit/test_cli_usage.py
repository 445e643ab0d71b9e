"""What `xfer usage` shows fits a terminal of 80 columns."""

from __future__ import annotations

import pytest

from cli.table import table
from cli.usage import COLUMNS, _page, _rows
from transfer.api import Used, UserUsage

NOW = 1_800_000_000.0
MOST = 999_000_000_000


def somebody(used: int, limit: int | None, left_of_the_day: float = 86_000) -> UserUsage:
    day, month = (Used(used, limit, NOW + seconds) for seconds in (left_of_the_day, 30 * 86_400))
    rest = Used(used, limit, None)
    return UserUsage("ann", day, month, rest, Used(min(used, 99_999), limit and 99_999, None), 600)


@pytest.mark.parametrize(
    ("used", "limit"), [(0, None), (0, 0), (1, MOST), (MOST, MOST), (MOST, 1), (MOST, None)]
)
def test_usage_fits_eighty_columns_at_any_time_of_the_day(used: int, limit: int | None) -> None:
    lines = table(COLUMNS, _rows([somebody(used, limit)]), 80, NOW, numbers=COLUMNS[1:])
    for left_of_the_day in range(1, 86_400, 30):
        lines += _page(somebody(used, limit, left_of_the_day), NOW)
    longest = max(lines, key=len)
    assert len(longest) <= 80


def test_the_unit_stands_once_where_both_have_it() -> None:
    shown = [_rows([somebody(used, 10**9)])[0][1] for used in (5 * 10**8, 10**9)]
    assert shown == ["500.0 MB/1.00 GB", "1.00/1.00 GB"]


def test_a_bar_is_full_when_nothing_is_left_and_never_empty_when_something_was_used() -> None:
    full, little, none = (_page(somebody(used, 100), NOW)[1] for used in (100, 1, 0))
    bars = [sum(line.count(mark) for mark in "█#") for line in (full, little, none)]
    assert bars == [8, 1, 0]
    assert "0 B left" in full
    assert "resets in 24 h" in full


def test_where_there_is_no_limit_nothing_is_said_to_be_left_or_to_reset() -> None:
    assert _page(somebody(5, None), NOW)[1].split() == ["today", "5", "B", "no", "limit"]
