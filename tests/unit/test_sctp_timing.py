"""Round trips, the search for larger packets, and patience with the silent: by the numbers of their RFCs."""

from __future__ import annotations

import pytest

from transfer.sctp.liveness import Liveness
from transfer.sctp.pmtu import PathMtu
from transfer.sctp.timing import Reordering, RoundTrip


def trips(*seconds: float) -> RoundTrip:
    """One a second."""
    trip = RoundTrip()
    for now, each in enumerate(seconds):
        trip.sample(each, now)
    return trip


@pytest.mark.parametrize(
    ("seconds", "smoothed", "variation", "timeout"),
    [
        ([], 0.0, 0.0, 0.5),
        ([0.1], 0.1, 0.05, 0.3),
        ([0.1, 0.2], 0.1125, 0.0625, 0.3625),
        ([0.1, 0.02], 0.09, 0.0575, 0.32),
        ([0.01], 0.01, 0.005, 0.2),
        ([5.0], 5.0, 2.5, 10.0),
    ],
)
def test_the_timeout_is_that_of_rfc_6298_from_200_ms_to_10_s(
    seconds: list[float], smoothed: float, variation: float, timeout: float
) -> None:
    trip = trips(*seconds)
    assert (trip.smoothed, trip.variation) == pytest.approx((smoothed, variation))
    assert trip.timeout == pytest.approx(timeout)


def test_the_probe_goes_after_two_round_trips_and_the_peers_delay_but_before_the_timeout() -> None:
    assert trips().probe_after(0.02) == 0.5
    assert trips(0.1).probe_after(0.02) == pytest.approx(0.22)
    assert trips(0.1).probe_after(5.0) == pytest.approx(0.3)


def test_the_shortest_round_trip_counts_for_ten_seconds_after_it_was_last_seen() -> None:
    trip = RoundTrip()
    assert trip.shortest == float("inf")
    for now, seconds, shortest in (
        (0.0, 0.1, 0.1),
        (5.0, 0.1, 0.1),
        (15.0, 0.3, 0.1),
        (15.1, 0.2, 0.2),
        (16.0, 0.05, 0.05),
    ):
        trip.sample(seconds, now)
        assert (trip.shortest, trip.latest) == (shortest, seconds)


def test_what_was_overtaken_may_come_for_a_quarter_round_trip_and_longer_where_that_was_too_short() -> None:
    assert Reordering().window(trips()) == 0.5, "without a round trip: the timeout"
    reordering, steady = Reordering(), trips(0.1)
    windows = [reordering.window(steady)]
    for _ in range(4):
        reordering.too_short()
        windows.append(reordering.window(steady))
    assert windows == pytest.approx([0.0255, 0.051, 0.0765, 0.1, 0.1]), "at most the smoothed round trip"
    for _ in range(50):
        reordering.too_short()
    wavering = trips(0.004, 1.0)
    assert reordering.window(wavering) == pytest.approx(16 * 0.0015), "at most sixteen times as long"
    assert reordering.window(trips(0.0004)) == pytest.approx(0.0006), "and half a millisecond always"


def test_a_larger_packet_is_tried_three_times_and_then_given_up() -> None:
    path = PathMtu(16384)
    assert path.due() == 0.0
    assert path.probe(0.0, 0.1) == 1356
    assert path.probe(0.2, 0.1) is None
    assert path.due() == 0.25, "its answer may take a quarter of a second"
    assert path.probe(0.25, 1.0) == 1356
    assert path.due() == 1.25, "or as long as the path is known to take"
    assert path.probe(1.25, 1.0) == 1356
    assert path.probe(2.0, 1.0) is None
    assert path.due() == 2.25
    assert path.probe(2.25, 1.0) is None
    assert (path.due(), path.size) == (None, 1188)


def test_each_size_that_is_answered_is_used_and_the_next_is_tried_as_often() -> None:
    path = PathMtu(1432)
    for size in (1356, 1412, 1432):
        for now in (0.0, 10.0, 20.0):
            assert path.probe(now, 0.0) == size
        path.answered(size - 1)
        assert path.size < size, "no answer to it"
        path.answered(size)
        assert path.size == size
        assert path.due() == (0.0 if size < 1432 else None)
    path.answered(1432)
    assert path.size == 1432


@pytest.mark.parametrize(
    ("largest", "found"), [(1355, 1188), (1356, 1356), (1431, 1412), (9000, 8932), (16384, 16384)]
)
def test_nothing_larger_is_tried_than_the_peer_takes(largest: int, found: int) -> None:
    path = PathMtu(largest)
    while (size := path.probe(0.0, 0.0)) is not None:
        path.answered(size)
    assert path.size == found


def test_when_found_sizes_are_lost_for_good_it_is_back_at_the_least_and_stays() -> None:
    path = PathMtu(16384)
    assert (path.lost(), path.shrank, path.due()) == (False, False, None)
    path = PathMtu(16384)
    path.answered(1356)
    assert (path.lost(), path.size, path.shrank, path.due()) == (True, 1188, True, None)
    assert (path.lost(), path.shrank) == (False, True)


def test_a_silent_peer_is_asked_after_600_ms_and_then_every_150_ms() -> None:
    liveness = Liveness()
    assert liveness.due() == 0.6
    assert not liveness.asks(0.59)
    assert liveness.asks(0.6)
    assert liveness.due() == pytest.approx(0.75)
    assert not liveness.asks(0.74)
    assert liveness.asks(0.75)
    liveness.heard = 0.8
    assert liveness.due() == pytest.approx(1.4)


def test_a_silent_peer_is_lost_after_exactly_2400_ms() -> None:
    liveness = Liveness()
    for tenths in range(24):
        assert not liveness.lost(tenths / 10)
        liveness.asks(tenths / 10)
    assert liveness.asks(2.39)
    assert liveness.due() == 2.4
    assert liveness.lost(2.4)


def test_who_comes_more_than_half_a_second_late_has_slept() -> None:
    awake, slept, heard = Liveness(), Liveness(), Liveness()
    for each in (awake, slept, heard):
        each.lost(0.0)
    awake.lost(1.1)
    slept.lost(1.2)
    heard.heard = 1.0
    heard.lost(1.2)
    assert (awake.heard, slept.heard, heard.heard) == (0.0, pytest.approx(0.6), 1.0)
