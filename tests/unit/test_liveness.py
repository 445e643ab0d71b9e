"""When a silent peer is asked, when it is lost, and that our own sleep does not count."""

from __future__ import annotations

import itertools

from transfer.sctp.liveness import ASK_AGAIN, DEAD, LATE, QUIET, Liveness


def watched(until: float, step: float = 0.01) -> tuple[list[float], float | None]:
    """When it asks, and when it gives up, if nothing is ever heard."""
    asked: list[float] = []
    liveness, now = Liveness(), 0.0
    while now < until:
        if liveness.lost(now):
            return asked, now
        if liveness.asks(now):
            asked.append(now)
        now += step
    return asked, None


def test_a_silent_peer_is_asked_again_and_again_and_then_lost() -> None:
    asked, lost = watched(10)
    assert abs(asked[0] - QUIET) < 0.02
    assert all(abs(b - a - ASK_AGAIN) < 0.02 for a, b in itertools.pairwise(asked))
    assert lost is not None
    assert abs(lost - DEAD) < 0.02


def test_an_answer_puts_it_off() -> None:
    liveness, now = Liveness(), 0.0
    while now < 60:
        assert not liveness.lost(now)
        if liveness.asks(now):
            liveness.heard = now
        now += 0.05


def test_it_is_looked_at_in_time_without_a_busy_loop() -> None:
    liveness, now, looks = Liveness(), 0.0, 0
    while not liveness.lost(now):
        liveness.asks(now)
        assert liveness.due() > now
        now, looks = liveness.due(), looks + 1
    assert now <= DEAD + 0.01
    assert looks < 30


def test_who_slept_does_not_blame_the_peer() -> None:
    liveness = Liveness()
    assert not liveness.lost(0.0)
    wakes = QUIET + LATE + 100
    assert not liveness.lost(wakes)
    assert liveness.asks(wakes)
    assert not liveness.lost(wakes + DEAD - QUIET - 0.05)
