"""CUBIC by itself, acknowledgement by acknowledgement: how the window begins, grows, ends its slow start and shrinks."""

from __future__ import annotations

import pytest

from transfer.sctp.cubic import BETA, FIRST_WINDOW, FRIENDLY, LEAST_WINDOW, MOST, Cubic
from transfer.sctp.sending import Sample
from transfer.sctp.timing import RoundTrip

PIECE = 1000


class Driven(Cubic):
    """Told of whole rounds: what was on its way is what the window allows, unless the test says otherwise."""

    def told(
        self,
        acked: int = 0,
        *,
        lost: int = 0,
        flight: int | None = None,
        after: int = 0,
        before: int = 1 << 30,
        delivered: int = 1 << 30,
        trip: float = 0.0,
        smoothed: float = 1.0,
        now: float = 0.0,
    ) -> int:
        """The window then. after: bytes on their way after it. The other arguments are those of a sample."""
        sample, trips = Sample(self.window if flight is None else flight), RoundTrip()
        sample.acked, sample.lost, sample.trip = acked, lost, trip
        sample.before, sample.delivered = before, delivered
        trips.smoothed = smoothed
        self.sacked(sample, trips, after, now)
        return self.window


def reduced(window: int = 100 * PIECE) -> Driven:
    """One that has just lost something of a window of 100 packets."""
    cubic = Driven(PIECE, window)
    cubic.told(lost=PIECE, before=0, delivered=0)
    return cubic


def test_it_begins_with_32_packets_or_what_another_left_and_paces_nothing() -> None:
    assert (Cubic(PIECE).window, Cubic(PIECE, 5 * PIECE).window, Cubic(PIECE).rate) == (32_000, 5000, 0.0)
    assert FIRST_WINDOW == 32


def test_in_slow_start_the_window_grows_by_what_arrives() -> None:
    cubic = Driven(PIECE)
    assert cubic.told(3000) == 35_000
    assert cubic.told(35_000) == 70_000
    assert cubic.told(0) == 70_000


def test_a_window_that_was_not_used_does_not_grow() -> None:
    """RFC 9438 section 5.8. Four fifths of it are used, but for two packets that may be on their way to us."""
    assert Driven(PIECE, 100_000).told(1000, flight=78_000) == 101_000
    assert Driven(PIECE, 100_000).told(1000, flight=77_999) == 100_000


def test_a_window_is_never_larger_than_any_receivers() -> None:
    assert Driven(PIECE, MOST - 10).told(1000) == MOST == 16 << 20
    cubic = reduced(MOST)
    cubic.window = MOST - 10
    assert cubic.told(MOST, now=1000.0) == MOST


def test_a_loss_takes_three_tenths_of_the_window_once_a_round() -> None:
    cubic = Driven(PIECE, 100_000)
    assert cubic.told(1000, lost=1000, before=0, delivered=5000, after=90_000) == 70_000
    assert cubic.told(1000, lost=1000, before=94_999) == 70_000, "of the same round"
    assert cubic.told(1000, before=94_999, now=100.0) == 70_000, "no growth before it is over"
    assert cubic.told(0, lost=1000, before=95_000) == 49_000
    assert BETA == 0.7


def test_four_packets_are_left_after_any_loss() -> None:
    cubic = Driven(PIECE, 5 * PIECE)
    assert cubic.told(lost=1, before=0, delivered=0) == LEAST_WINDOW * PIECE == 4000


def test_a_timeout_leaves_four_packets_and_slow_start_up_to_half_of_what_was() -> None:
    cubic = Driven(PIECE, 100_000)
    cubic.timed_out(0, 0.0)
    assert cubic.window == 4000
    assert cubic.told(45_999) == 49_999
    assert cubic.told(10_000) == 59_999, "below the half: the last one that doubles"
    assert cubic.told(10_000, smoothed=0.0) < 60_999
    small = Driven(PIECE, 10 * PIECE)
    small.timed_out(0, 0.0)
    assert small.told(4000) == 8000
    assert small.told(3000, smoothed=0.0) < 9500, "but of eight packets at least"


# W(t) = 0.4 (t - K)^3 + W_max packets, K = ((W_max - W) / 0.4)^(1/3): RFC 9438 section 4.2, with t a round trip on.
K = (30 / 0.4) ** (1 / 3)


@pytest.mark.parametrize(("smoothed", "now"), [(1.0, 10.0), (2.0, 10.0), (1.0, 11.5), (0.5, 14.0)])
def test_after_a_loss_the_window_follows_the_cubic_curve(smoothed: float, now: float) -> None:
    cubic = reduced()
    assert cubic.told(1, smoothed=0.0, now=10.0) == 70_000, "its time begins"
    wanted = 100_000 + 0.4 * (now - 10 + smoothed - K) ** 3 * PIECE
    assert cubic.told(70_000, smoothed=smoothed, now=now) == pytest.approx(wanted, abs=1)


def test_a_curve_that_falls_because_the_path_became_shorter_takes_nothing_away() -> None:
    cubic = reduced()
    cubic.told(1, smoothed=0.0, now=10.0)
    window = cubic.told(70_000, smoothed=3.0, now=10.0)
    assert window > 95_000
    assert cubic.told(10, smoothed=0.1, now=10.1) == window


def test_what_arrives_of_a_window_brings_it_as_much_of_the_way() -> None:
    whole, part = reduced(), reduced()
    grown = whole.told(70_000, now=10.0) - 70_000
    assert part.told(7000, now=10.0) - 70_000 == pytest.approx(grown / 10, abs=1)


def test_the_window_grows_by_half_of_what_arrives_at_most() -> None:
    cubic = reduced()
    cubic.told(1, smoothed=0.0, now=10.0)
    assert cubic.told(1000, now=40.0) == 70_500


def test_each_loss_and_each_timeout_begins_a_new_curve() -> None:
    cubic = reduced()
    cubic.told(1, smoothed=0.0, now=10.0)
    cubic.told(lost=1, before=1 << 30, delivered=1 << 30)
    assert cubic.window == 49_000
    climb = (21 / 0.4) ** (1 / 3)
    assert cubic.told(49_000, now=50.0) == pytest.approx(70_000 + 0.4 * (1 - climb) ** 3 * PIECE, abs=1)
    cubic = reduced()
    cubic.told(1, smoothed=0.0, now=10.0)
    cubic.timed_out(0, 20.0)
    cubic.window = 70_000
    wanted = 100_000 + 0.4 * (1 - K) ** 3 * PIECE
    assert cubic.told(70_000, now=50.0) == pytest.approx(wanted, abs=1)


def test_where_the_curve_is_flat_it_grows_as_reno_would() -> None:
    """RFC 9438 section 4.3: by 3 (1 - 0.7) / (1 + 0.7) packets for each window that arrives."""
    assert pytest.approx(0.9 / 1.7) == FRIENDLY
    cubic = Driven(PIECE, 100_000)
    cubic._threshold = 100_000  # ended without a loss
    assert cubic.told(100_000, smoothed=0.0) == 100_529
    assert cubic.told(100_529, smoothed=0.0) == 101_058
    assert cubic.told(10, smoothed=0.0) == 101_058, "parts of a byte are kept for later"


def test_above_what_it_had_when_it_lost_the_curve_begins_where_it_is() -> None:
    cubic = reduced()
    cubic.window = 120_000
    assert cubic.told(120_000, smoothed=2.0) == 120_000 + 0.4 * 8 * PIECE


@pytest.mark.parametrize(
    ("before", "now", "ended"),
    [
        (0.1, 0.1124, False),
        (0.1, 0.1126, True),
        (0.02, 0.0239, False),
        (0.02, 0.0241, True),
        (0.4, 0.4159, False),
        (0.4, 0.4161, True),
    ],
)
def test_slow_start_ends_with_a_round_that_is_slower_by_an_eighth_from_4_to_16_ms(
    before: float, now: float, *, ended: bool
) -> None:
    """RFC 9406. The shortest trip of a round counts, and it is compared with the shortest before."""
    cubic = Driven(PIECE, 100_000)
    cubic.told(1000, trip=9.0, before=0, delivered=10)
    cubic.told(1000, trip=before, before=9, delivered=11)
    cubic.told(1000, trip=before + 5, before=10, delivered=20)
    cubic.told(1000, trip=now, before=19, delivered=21)
    grown = cubic.told(1000, trip=now + 5, before=20, delivered=30)
    assert grown == (pytest.approx(104_000, abs=9) if ended else 105_000)
    assert cubic.told(1000, before=29, delivered=30) == (pytest.approx(104_000, abs=19) if ended else 106_000)


def test_a_slow_round_does_not_hide_the_quickest_before_it() -> None:
    cubic = Driven(PIECE, 100_000)
    for number, trip in enumerate((0.1, 0.11, 0.12)):
        assert cubic._threshold == MOST
        cubic.told(1000, trip=trip, before=number, delivered=number + 1)
    assert cubic._threshold == 102_000
    cubic.window = 103_000
    cubic.told(1, trip=9.0, before=3, delivered=4, flight=0)
    assert cubic._threshold == 102_000, "it has ended"
