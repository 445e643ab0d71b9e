"""Sizes and durations as people write them."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from cli.units import parse_duration, parse_rate, parse_since, parse_size, show_duration, show_size
from transfer.errors import UsageError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("500", 500),
        ("500B", 500),
        ("100MB", 100_000_000),
        ("100mb", 100_000_000),
        ("64MiB", 64 << 20),
        ("2G", 2_000_000_000),
        ("1.5k", 1500),
        (" 3 TiB ", 3 << 40),
    ],
)
def test_a_size_is_read_in_decimal_and_binary_units(text: str, count: int) -> None:
    assert parse_size(text, option="--threshold", command="send") == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("60", 60.0),
        ("60s", 60.0),
        ("10m", 600.0),
        ("24h", 86400.0),
        ("7d", 604800.0),
        ("1.5h", 5400.0),
    ],
)
def test_a_duration_is_read_in_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text, option="--wait", command="send") == seconds


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        (None, None),
        ("off", None),
        ("OFF", None),
        ("1k", 1000.0),
        ("1000", 1000.0),
        ("20M", 20e6),
        ("1.5MiB", 1.5 * (1 << 20)),
    ],
)
def test_a_rate_is_read_in_bytes_per_second(text: str | None, rate: float | None) -> None:
    assert parse_rate(text, option="--bwlimit", command="send") == rate


@pytest.mark.parametrize("text", ["0", "999", "0.9k", "999.9"])
def test_a_rate_at_which_nothing_would_arrive_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="would take for ever") as refused:
        parse_rate(text, option="--bwlimit", command="send")
    assert refused.value.what.startswith(f"--bwlimit {text!r}")
    assert "1k" in refused.value.next_step


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e9", "10 XB", "1_000", "٣", "0x10", "1MB2", "inf", "nan"])
def test_what_is_no_quantity_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as size:
        parse_size(text, option="--threshold", command="send")
    with pytest.raises(UsageError) as duration:
        parse_duration(text, option="--wait", command="fetch")
    with pytest.raises(UsageError) as rate:
        parse_rate(text, option="--bwlimit", command="send")
    assert rate.value.what == f"--bwlimit {text!r} is not a size"
    assert size.value.what.startswith(f"--threshold {text!r}")
    assert duration.value.what.startswith(f"--wait {text!r}")
    assert size.value.next_step.endswith("see `xfer send --help`")
    assert duration.value.next_step.endswith("see `xfer fetch --help`")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (3_000_000, "3.0 MB"),
        (999_600_000, "1.00 GB"),
        (1_073_741_824, "1.07 GB"),
        (5e12, "5.00 TB"),
    ],
)
def test_a_size_is_shown_with_its_unit(count: float, text: str) -> None:
    assert show_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_a_duration_is_shown_to_what_matters(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T18:00Z", 1_769_882_400.0),
        ("2026-01-31T18:00:00+02:00", 1_769_875_200.0),
        ("2026-01-31", datetime(2026, 1, 31).timestamp()),
    ],
)
def test_a_date_is_a_moment_local_unless_it_says_otherwise(text: str, moment: float) -> None:
    assert parse_since(text, option="--newer-than", command="batch") == moment


def test_a_duration_is_that_long_ago() -> None:
    before = time.time()
    moment = parse_since("1h", option="--newer-than", command="batch")
    assert before - 3600 <= moment <= time.time() - 3600


def test_what_is_neither_duration_nor_date_is_refused() -> None:
    with pytest.raises(UsageError, match="--newer-than 'yesterday' is neither a duration nor a date"):
        parse_since("yesterday", option="--newer-than", command="batch")
