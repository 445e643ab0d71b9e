"""What `xfer usage` shows fits a terminal of 80 columns."""

from __future__ import annotations

import pytest

from cli.table import table
from cli.usage import COLUMNS, _page, _rows
from transfer.api import Used, UserUsage

NOW = 1_800_000_000.0
MOST = 999_900_000_000


def somebody(used: int, limit: int | None) -> UserUsage:
    day, month = (Used(used, limit, NOW + seconds) for seconds in (86_000, 30 * 86_400))
    rest = Used(used, limit, None)
    return UserUsage("ann", day, month, rest, Used(min(used, 99_999), limit and 99_999, None), 600)


@pytest.mark.parametrize(
    ("used", "limit"), [(0, None), (0, 0), (1, MOST), (MOST, MOST), (MOST, 1), (MOST, None)]
)
def test_usage_fits_eighty_columns(used: int, limit: int | None) -> None:
    lines = _page(somebody(used, limit), NOW)
    lines += table(COLUMNS, _rows([somebody(used, limit)]), 80, NOW, numbers=COLUMNS[1:])
    assert max(map(len, lines)) <= 80


def test_a_bar_is_full_when_nothing_is_left_and_never_empty_when_something_was_used() -> None:
    full, little, none = (_page(somebody(used, 100), NOW)[1] for used in (100, 1, 0))
    bars = [sum(line.count(mark) for mark in "█#") for line in (full, little, none)]
    assert bars == [10, 1, 0]
    assert "0 B left" in full
    assert "resets in 24 h" in full


def test_where_there_is_no_limit_nothing_is_said_to_be_left_or_to_reset() -> None:
    assert _page(somebody(5, None), NOW)[1].split() == ["today", "5", "B", "no", "limit"]
