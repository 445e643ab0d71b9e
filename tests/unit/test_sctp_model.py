"""The model of a path by itself, a round trip at a time: what it takes for rate and queue, and when it does what.

Unless a test says otherwise, the path carries 1 MB/s with a round trip of 0.1 s: it holds 100 kB.
"""

from __future__ import annotations

import pytest

from transfer.sctp.congestion import LOCAL, Adaptive
from transfer.sctp.cubic import Cubic
from transfer.sctp.model import MOST, Model, Phase
from transfer.sctp.sending import Sample
from transfer.sctp.timing import RoundTrip

PIECE = 1000
RATE, TRIP, CONTENT = 1e6, 0.1, 100_000
SPARE = 16 * PIECE
PLENTY = 1 << 30


class Driven(Model):
    """Each word of `told` is a round trip of its own, unless it says otherwise."""

    def __init__(self, window: int = 32 * PIECE) -> None:
        super().__init__(PIECE, window)
        self.now = 0.0
        self._count = 0

    def told(
        self,
        acked: int = 1000,
        *,
        after: float = 0.0,
        lost: int = 0,
        rate: float = RATE,
        trip: float = TRIP,
        flight: int = 0,
        before: int = 0,
        limited: bool = False,
        within: bool = False,
    ) -> Phase:
        """The phase then. after: seconds since the last word. flight, before: bytes on their way after it and before.

        within: it belongs to the round of the last word.
        """
        self.now += after
        sample = Sample(before)
        sample.acked, sample.lost, sample.rate, sample.trip, sample.limited = acked, lost, rate, trip, limited
        sample.before = self._count - 1 if within else self._count
        self._count += 0 if within or not acked else 10
        sample.delivered = self._count
        self.sacked(sample, RoundTrip(), flight, self.now)
        return self.phase


def cruising(rate: float = RATE, trip: float = TRIP) -> Driven:
    """One whose start is over: the rate did not grow for three rounds."""
    model = Driven()
    for _ in range(4):
        model.told(rate=rate, trip=trip)
    assert model.phase is Phase.CRUISE
    return model


def trying() -> Driven:
    """One that has just begun to try for more."""
    model = cruising()
    assert model.told(after=2.1) is Phase.UP
    return model


# --- what it takes for the path


def test_without_any_rate_it_grows_by_what_arrives_and_paces_nothing() -> None:
    model = Driven()
    assert (model.window, model.rate, model.content, model.phase) == (32_000, 0.0, 0.0, Phase.STARTUP)
    model.told(3000, rate=0.0)
    assert (model.window, model.rate) == (35_000, 0.0)
    model.told(PLENTY, rate=0.0)
    assert model.window == MOST == 16 << 20


def test_the_rate_is_the_best_of_ten_rounds() -> None:
    model = Driven()
    rates = [3e6, 1e6, 2e6, 1.5e6, *[1e6] * 12]
    found = []
    for rate in rates:
        model.told(rate=rate)
        found.append(model.bandwidth)
    assert found == [3e6] * 11 + [2e6] * 2 + [1.5e6] + [1e6] * 2
    model.told(rate=4e6)
    assert model.bandwidth == 4e6
    assert len(model._rates) == 1, "what is below it is never asked for again"


def test_a_rate_that_the_sender_limited_counts_only_if_it_is_higher() -> None:
    model = Driven()
    model.told(rate=2e6)
    for _ in range(12):
        model.told(rate=1e6, limited=True)
    assert model.bandwidth == 2e6
    model.told(rate=3e6, limited=True)
    assert model.bandwidth == 3e6
    for _ in range(10):
        model.told(rate=3e6, limited=True)
    model.told(rate=1e6)
    assert model.bandwidth == 1e6, "the same again is no news"


def test_content_is_rate_times_shortest_trip() -> None:
    model = Driven()
    model.told(trip=0.3)
    model.told(trip=0.1)
    model.told(trip=0.2)
    model.told(trip=0.0)
    assert (model.shortest, model.content) == (0.1, pytest.approx(CONTENT))


def test_a_word_of_losses_alone_ends_no_round_and_moves_nothing() -> None:
    model = Driven()
    model.told(0, lost=5000, rate=0.0, trip=0.0)
    assert (model.window, model._rounds) == (32_000, 0)


# --- the start


def test_the_start_paces_at_nearly_three_times_the_rate_and_never_slower_than_before() -> None:
    model = Driven()
    model.told()
    assert model.rate == pytest.approx(2.77 * RATE)
    model.told(rate=1.2e6)
    assert model.rate == pytest.approx(2.77 * 1.2e6)
    for _ in range(11):
        model.told(rate=RATE, limited=True)
    assert model.rate == pytest.approx(2.77 * 1.2e6)
    first = Driven(320 * PIECE)
    first.told()
    assert first.rate == pytest.approx(2.77 * 320_000 / TRIP), (
        "the first window at once says little of the path"
    )


def test_in_the_start_the_window_grows_by_what_arrives_up_to_nearly_three_times_the_content() -> None:
    model = Driven()
    model.told(500_000)
    assert model.window == 532_000, "in the first round whatever it is"
    model.told(1000)
    assert model.window == 532_000
    low = Driven()
    low.told(1000)
    low.told(246_000)
    assert low.window == 279_000
    low.told(2000, within=True)
    assert low.window == 281_000
    low.told(2000, within=True)
    assert low.window == 281_000


def test_the_start_ends_after_three_rounds_without_a_quarter_more() -> None:
    model = Driven()
    phases = [model.told(rate=rate, flight=PLENTY) for rate in (1e6, 1.25e6, 1.5e6, 1.5e6, 1.5e6, 1.5e6)]
    assert phases == [Phase.STARTUP] * 4 + [Phase.DRAIN] * 2
    model = Driven()
    phases = [model.told(rate=1e6 * 1.25**at, flight=PLENTY) for at in range(20)]
    assert phases == [Phase.STARTUP] * 20
    model = Driven()
    phases = [model.told(rate=rate, flight=PLENTY) for rate in (1e6, 1e6, 1e6, 1.3e6, 1.3e6, 1.3e6, 1.3e6)]
    assert phases == [Phase.STARTUP] * 6 + [Phase.DRAIN], "growth begins the count anew"


def test_what_the_sender_limited_does_not_end_the_start() -> None:
    model = Driven()
    assert {model.told(limited=True) for _ in range(9)} == {Phase.STARTUP}
    assert {model.told(within=True) for _ in range(9)} == {Phase.STARTUP}, "nor does what is no new round"


@pytest.mark.parametrize(
    ("trip", "slower"), [(0.1, 0.0125), (0.016, 0.004), (0.4, 0.05)], ids=["an eighth", "least", "far"]
)
def test_the_start_ends_when_eight_packets_of_a_round_were_all_slower(trip: float, slower: float) -> None:
    for wait, phase in ((slower - 1e-4, Phase.STARTUP), (slower + 1e-4, Phase.DRAIN)):
        model = Driven()
        model.told(trip=trip, flight=PLENTY)
        phases = [model.told(trip=trip + wait, within=True, flight=PLENTY) for _ in range(8)]
        assert phases == [Phase.STARTUP] * 7 + [phase]
    model = Driven()
    model.told(trip=trip)
    model.told(trip=trip, within=True)
    assert {model.told(trip=9.0, within=True) for _ in range(20)} == {Phase.STARTUP}, "one was not"


def test_a_start_that_loses_more_than_a_quarter_ends_with_what_the_path_holds_as_ceiling() -> None:
    model = Driven()
    assert model.told(3000, lost=1000, flight=PLENTY) is Phase.STARTUP
    assert model.told(2999, lost=1000, flight=PLENTY) is Phase.DRAIN
    assert model._ceiling == pytest.approx(CONTENT)
    small = Driven()
    small.told(2999, lost=1000, rate=1000.0, flight=PLENTY)
    assert small._ceiling == 4 * PIECE


def test_a_start_that_fills_a_queue_until_it_loses_ends_after_its_third_round() -> None:
    model = Driven()
    phases, rate = [], RATE
    for _ in range(5):
        phases.append(
            model.told(10_000, lost=500, rate=rate, trip=TRIP if rate == RATE else 0.2, flight=PLENTY)
        )
        rate *= 1.3
    assert phases == [Phase.STARTUP] * 3 + [Phase.DRAIN] * 2
    # The ceiling is lowered in each round, but not below 0.8 of what the path was known to hold by then.
    assert model._ceiling == pytest.approx(0.8 * RATE * 1.3**4 * TRIP, rel=1e-3)


def test_the_drain_paces_at_a_third_until_the_queue_is_gone_or_for_four_round_trips() -> None:
    model = Driven()
    for _ in range(4):
        model.told(flight=PLENTY)
    assert (model.phase, model.rate) == (Phase.DRAIN, pytest.approx(0.35 * RATE))
    assert model.told(flight=CONTENT + 1) is Phase.DRAIN
    assert model.told(flight=CONTENT) is Phase.CRUISE
    slow = Driven()
    for _ in range(4):
        slow.told(flight=PLENTY)
    assert slow.told(after=0.49, flight=PLENTY) is Phase.DRAIN
    assert slow.told(after=0.02, flight=PLENTY) is Phase.CRUISE


# --- cruising, and trying for more


def test_cruising_keeps_to_the_rate_and_to_twice_the_content_and_sixteen_packets() -> None:
    model = cruising()
    assert (model.window, model.rate) == (36_000, RATE)
    model.told(1000)
    assert model.window == 37_000
    model.told(PLENTY)
    assert model.window == 2 * CONTENT + SPARE


def test_where_a_queue_stands_the_window_keeps_to_the_content_and_a_fair_part_of_a_queue() -> None:
    """It stands once the shortest trip of a round is longer by a tenth and 3 ms."""
    for trip, window in ((0.1129, 2 * CONTENT + SPARE), (0.1131, 1.1 * CONTENT + SPARE)):
        model = cruising()
        model.told(PLENTY, trip=trip)
        assert model.window == pytest.approx(window, abs=1)
    for gone in (TRIP, 0.0):
        model.told(PLENTY, trip=0.2)
        model.told(PLENTY, trip=gone)
        assert model.window == 2 * CONTENT + SPARE, "as soon as it is gone, or nothing was measured"


def test_fast_paths_have_more_to_spare_and_yield_less() -> None:
    for rate, spare, shared in ((30e6, SPARE, 1.1), (30.1e6, 196_608, 1.25)):
        model = cruising(rate=rate)
        model.told(PLENTY, rate=rate)
        assert model.window == pytest.approx(2 * rate * TRIP + spare, abs=1)
        model.told(PLENTY, rate=rate, trip=0.2)
        assert model.window == pytest.approx(shared * rate * TRIP + spare, abs=1)


def test_a_window_has_eight_packets_at_least_and_its_rate_moves_four_in_two_trips() -> None:
    model = cruising(rate=1000.0)
    model.told(PLENTY, rate=1000.0)
    assert (model.window, model.rate) == (200 + SPARE, 4 * PIECE / TRIP / 2)
    model.window = 1
    model.told(1, rate=1000.0)
    assert model.window == 8 * PIECE
    near = cruising(rate=1000.0, trip=0.002)
    assert near.rate == 4 * PIECE / 0.01 / 2, "a shorter trip than 10 ms counts as that"


def test_no_window_is_larger_than_any_receivers() -> None:
    model = cruising(rate=1e9)
    model.told(PLENTY, rate=1e9)
    assert model.window == MOST


@pytest.mark.parametrize(("trip", "seconds"), [(0.1, 0.8), (0.01, 0.2), (1.0, 2.0)])
def test_after_eight_round_trips_more_is_tried(trip: float, seconds: float) -> None:
    """But after 0.2 s at least, and after 2 s at most."""
    model = cruising(trip=trip)
    assert model.told(after=seconds - 0.001, trip=trip) is Phase.CRUISE
    assert model.told(after=0.002, trip=trip) is Phase.UP
    assert model.rate == 1.25 * RATE


def test_a_try_ends_once_it_fills_the_path_a_queue_stands_or_three_round_trips_are_over() -> None:
    model = trying()
    assert model.told(after=0.099, flight=PLENTY) is Phase.UP, "not within its first round trip"
    assert model.told(after=0.002, flight=125_000 - 1) is Phase.UP
    assert model.told(flight=125_000) is Phase.DOWN
    assert model.rate == 0.85 * RATE
    standing = trying()
    assert standing.told(after=0.101, trip=0.15) is Phase.DOWN
    waiting = trying()
    assert waiting.told(after=0.299) is Phase.UP
    assert waiting.told(after=0.002) is Phase.DOWN


def test_what_was_tried_is_drained_for_three_round_trips_at_most() -> None:
    model = trying()
    assert model.told(after=0.101, flight=PLENTY) is Phase.DOWN
    assert model.told(flight=95_001) is Phase.DOWN
    assert model.told(flight=95_000) is Phase.CRUISE
    slow = trying()
    slow.told(after=0.101, flight=PLENTY)
    assert slow.told(after=0.299, flight=PLENTY) is Phase.DOWN
    assert slow.told(after=0.002, flight=PLENTY) is Phase.CRUISE


# --- losses


def crowded(before: int) -> Driven:
    """One that lost a tenth while a queue stood, with so many bytes on their way."""
    model = cruising()
    model.told(9000, lost=1000, trip=0.2, before=before)
    return model


def test_a_round_that_loses_while_a_queue_stands_lowers_the_ceiling_by_a_fifth() -> None:
    model = crowded(before=150_000)
    assert model._ceiling == pytest.approx(120_000)
    model.told(PLENTY)
    assert model.window == 120_000 + SPARE
    model.told(9000, lost=1000, trip=0.2, before=150_000)
    assert model._ceiling == pytest.approx(96_000), "a fifth of what it was"
    assert crowded(before=1000)._ceiling == pytest.approx(80_000), "of what the path holds at least"


def test_a_ceiling_leaves_what_the_path_holds_and_the_packets_to_spare() -> None:
    model = crowded(before=150_000)
    for _ in range(9):
        model.told(9000, lost=1000, trip=0.2, before=150_000)
    assert model._ceiling == pytest.approx(0.8 * CONTENT)
    model.told(PLENTY)
    assert model.window == CONTENT + SPARE


def test_losses_without_a_queue_change_nothing_and_are_learned_as_the_paths_own() -> None:
    model = cruising()
    for _ in range(60):
        model.told(9000, lost=1000)
    assert model._ceiling == float("inf")
    assert model._own_loss == pytest.approx(0.1, rel=1e-3)
    model.told(8400, lost=1600, trip=0.2)
    assert model._ceiling == float("inf"), "half more than its own, and two in a hundred, are no sign"
    model.told(8200, lost=1800, trip=0.2)
    assert model._ceiling < float("inf")


def test_the_paths_own_loss_is_learned_by_eighths_and_up_to_three_tenths() -> None:
    model = cruising()
    model.told(9000, lost=1000)
    assert model._own_loss == pytest.approx(0.1 / 8)
    model.told(1000, lost=9000)
    assert model._own_loss == pytest.approx(0.1 / 8 + (0.3 - 0.1 / 8) / 8)
    learned = model._own_loss
    model.told(9000, lost=1000, trip=0.2)
    assert model._own_loss == learned, "a queue stood"
    model.told(9000, lost=1000, within=True)
    model.told(0, lost=1000, rate=0.0, trip=0.0)
    model.told(9000)
    assert model._own_loss == pytest.approx(learned + (2000 / 20_000 - learned) / 8), "of the whole round"
    start = Driven()
    start.told(9000, lost=1000)
    assert start._own_loss == 0.0, "the start's own overshoot is not the path's"


def test_a_try_that_meets_no_queue_lifts_the_ceiling_and_then_takes_it_away() -> None:
    model = crowded(before=150_000)
    model.told()
    assert model.told(after=2.1, flight=0) is Phase.UP
    assert model.told(after=0.101, flight=119_999) is Phase.UP
    assert model.told(flight=120_000) is Phase.DOWN, "the ceiling was reached"
    assert model._ceiling == pytest.approx(180_000), "half more"
    model.told()
    model.told(after=2.1)
    model.told(after=0.101, flight=250_000)
    assert model._ceiling == float("inf"), "two and a half times what the path holds is none"
    high = crowded(before=150_000)
    high.told()
    high.told(after=2.1)
    high.told(after=0.101, flight=200_000)
    assert high._ceiling == 200_000, "what was on its way"


def test_a_try_that_meets_a_queue_leaves_the_ceiling_as_it_is() -> None:
    model = crowded(before=150_000)
    model.told()
    model.told(after=2.1)
    assert model.told(after=0.101, trip=0.2, flight=PLENTY) is Phase.DOWN
    assert model._ceiling == pytest.approx(120_000)


def test_after_a_timeout_four_packets_go_until_something_arrives() -> None:
    model = cruising()
    model.told(PLENTY)
    for _ in range(2):
        model.timed_out(0, 0.0)
        assert model.window == 4 * PIECE
    model.told(0, lost=1000, rate=0.0, trip=0.0)
    assert model.window == 4 * PIECE
    model.told(1)
    assert model.window == 2 * CONTENT + SPARE
    model.window = 50_000
    model.told(1)
    assert model.window == 50_001, "that was done once"
    model.timed_out(0, 0.0)
    model.told(1)
    assert model.window == 50_002, "and is done again the next time"


# --- the shortest round trip


def looking() -> Driven:
    """One that has just begun to look for the shortest round trip anew: for ten seconds none was as short."""
    model = cruising()
    model.told(PLENTY)
    assert model.told(after=10.0, trip=0.11) is not Phase.LOOK
    model._enter(Phase.CRUISE, model.now)
    assert model.told(after=0.001, trip=0.11) is Phase.LOOK
    return model


def test_a_shortest_trip_that_was_not_seen_for_ten_seconds_is_looked_for_with_half_the_content() -> None:
    model = looking()
    assert (model.window, model.rate) == (CONTENT // 2, RATE)
    assert model.told(after=0.109, trip=0.11) is Phase.LOOK
    assert model.shortest == TRIP, "it was sent before"
    assert model.told(after=0.002, trip=0.11) is Phase.LOOK
    assert model.shortest == 0.11
    assert model.told(after=0.19, trip=0.12) is Phase.LOOK
    assert model.shortest == 0.11, "it was found"
    assert model.told(after=0.02, trip=0.11) is Phase.CRUISE


def test_a_shortest_trip_that_was_seen_again_is_not_looked_for() -> None:
    model = cruising()
    model.told(after=9.0)
    model._enter(Phase.CRUISE, model.now + 2.0)
    assert model.told(after=2.0, trip=0.11) is Phase.CRUISE


def test_a_look_ends_after_a_fifth_of_a_second_and_a_trip_and_ten_seconds_count_anew() -> None:
    model = looking()
    assert model.told(after=0.299, trip=0.0) is Phase.LOOK
    assert model.told(after=0.002, trip=0.0) is Phase.CRUISE
    model._enter(Phase.CRUISE, model.now + 9.9)
    assert model.told(after=9.99, trip=0.0) is Phase.CRUISE
    assert model.told(after=0.02, trip=0.0) is Phase.LOOK


def test_a_look_leaves_four_packets() -> None:
    model = looking()
    model.bandwidth = 10.0
    model._rates.clear()
    model.told(1, rate=10.0, trip=0.2)
    assert model.window == 8 * PIECE


# --- which controller


def test_a_short_trip_is_left_to_cubic_and_a_longer_one_is_modelled_with_the_same_window() -> None:
    one, trip, sample = Adaptive(PIECE), RoundTrip(), Sample(0)
    assert LOCAL == 0.0015
    kinds, windows = [type(one._active)], [one.window]
    for shortest in (float("inf"), 0.00149, 0.0015, 0.2, 0.001, 0.003):
        trip.shortest = shortest
        one.sacked(sample, trip, 0, 0.0)
        kinds.append(type(one._active))
        windows.append(one.window)
    assert kinds == [Cubic, Cubic, Cubic, Model, Model, Cubic, Model]
    assert set(windows) == {32 * PIECE}


def test_what_is_chosen_is_told_everything_and_asked_for_everything() -> None:
    one, trip, sample = Adaptive(PIECE), RoundTrip(), Sample(0)
    trip.shortest, sample.acked, sample.rate, sample.trip = 0.1, 500, RATE, TRIP
    one.piece = 1200
    one.sacked(sample, trip, 0, 0.0)
    assert one._active.piece == 1200
    assert (one.window, one.rate) == (32_500, pytest.approx(2.77 * RATE))
    one.piece = 900
    one.sacked(sample, trip, 0, 0.0)
    one.timed_out(0, 0.0)
    assert one.window == 4 * 900
