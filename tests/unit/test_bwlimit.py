"""`--bwlimit`: over any stretch of time no more than the rate and one piece, whoever takes it."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.bwlimit import MOST, PIECES, BwLimit


class Clock:
    """Moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def over(moved: list[tuple[float, int]], rate: float) -> float:
    """Bytes, at most, by which any stretch of time had more than the rate and its last piece."""
    moved = sorted(moved)
    worst = 0.0
    for first, _ in enumerate(moved):
        together = 0
        for at, length in moved[first:]:
            worst = max(worst, together - rate * (at - moved[first][0]))
            together += length
    return worst


takes = st.lists(st.tuples(st.integers(0, 50_000), st.floats(0, 3) | st.just(0.0)), min_size=1, max_size=40)


@given(st.floats(1000, 1e9), takes)
def test_no_stretch_of_time_has_more_than_the_rate_and_one_piece(
    rate: float, plan: list[tuple[int, float]]
) -> None:
    clock = Clock()
    limit = BwLimit(rate, clock)
    moved = []
    for length, pause in plan:
        moved.append((clock.now + limit.debt(length), length))
        clock.now += pause
    assert over(moved, rate) <= 1 + rate * 1e-6
    assert moved == sorted(moved, key=lambda m: m[0])


@given(st.floats(1000, 1e9), takes)
def test_what_is_not_taken_for_a_while_is_not_saved_up(rate: float, plan: list[tuple[int, float]]) -> None:
    clock = Clock()
    limit = BwLimit(rate, clock)
    for length, pause in plan:
        limit.debt(length)
        clock.now += pause
    clock.now += sum(length for length, _ in plan) / rate + 3600
    assert limit.debt(10_000) == 0
    assert limit.debt(10_000) == pytest.approx(10_000 / rate)


@given(st.floats(1000, 1e9), takes)
def test_who_always_takes_gets_the_whole_rate(rate: float, plan: list[tuple[int, float]]) -> None:
    clock = Clock()
    limit = BwLimit(rate, clock)
    for length, _ in plan:
        clock.now += limit.debt(length)
    assert clock.now - 100.0 == pytest.approx(sum(length for length, _ in plan[:-1]) / rate, abs=1e-6)


def test_threads_share_one_rate() -> None:
    clock = Clock()
    limit = BwLimit(1e6, clock)
    moved: list[tuple[float, int]] = []
    lock = threading.Lock()

    def take(seed: int) -> None:
        mine = [(100.0 + limit.debt(length), length) for length in range(seed, 30_000, 17)]
        with lock:
            moved.extend(mine)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(take, range(6)))
    finally:
        sys.setswitchinterval(before)
    last, length = max(moved)
    assert last - 100.0 == pytest.approx((sum(size for _, size in moved) - length) / 1e6)


async def test_tasks_share_one_rate_with_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    limit = BwLimit(1e6, Clock())
    limit.debt(20_000)
    for _ in range(3):
        await limit.wait(20_000)
    assert waits == pytest.approx([0.02, 0.04, 0.06])


@pytest.mark.parametrize("rate", [1000, 20_000, 1e6, 1e7, 1e12])
def test_a_piece_is_a_small_share_of_a_second_and_of_memory(rate: float) -> None:
    piece = BwLimit(rate).piece
    assert 1 <= piece <= min(MOST, rate / PIECES)
    assert all(BwLimit(slow).piece == 1 for slow in (0.5, 1, 19))
