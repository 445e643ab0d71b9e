"""Frame sets: a set of ranges behaves as the set of its members."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from transfer.errors import ProtocolError
from transfer.model import INDEX_LIMIT, TRAILER, FrameId, FrameSet, Kind

KINDS = (Kind.MANIFEST, Kind.CHUNK, Kind.TRAILER)
TOP = 24
kinds = st.sampled_from(KINDS)
indices = st.integers(0, TOP - 1)
spans = st.tuples(indices, indices).map(lambda p: (min(p), max(p) + 1))


class FrameSetMachine(RuleBasedStateMachine):
    """Every operation on a FrameSet and on a plain set; after each they hold the same."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = FrameSet()
        self.plain: set[tuple[Kind, int]] = set()

    @rule(kind=kinds, span=spans)
    def add(self, kind: Kind, span: tuple[int, int]) -> None:
        self.ours.add(kind, *span)
        self.plain |= {(kind, index) for index in range(*span)}

    @rule(kind=kinds, index=indices)
    def discard(self, kind: Kind, index: int) -> None:
        self.ours.discard(FrameId(kind, index))
        self.plain.discard((kind, index))

    @rule(kind=kinds, count=st.integers(0, TOP))
    def clip(self, kind: Kind, count: int) -> None:
        self.ours.clip(kind, count)
        self.plain = {(k, i) for k, i in self.plain if k is not kind or i < count}

    @rule()
    def go_on_with_a_copy(self) -> None:
        kept, self.ours = self.ours, self.ours.copy()
        self.ours.add(Kind.CHUNK, TOP, TOP + 1)
        assert FrameId(Kind.CHUNK, TOP) not in kept
        self.ours = kept.copy()

    @rule()
    def go_over_the_wire(self) -> None:
        self.ours = FrameSet(self.ours.ranges())

    @invariant()
    def they_hold_the_same(self) -> None:
        assert list(self.ours) == sorted(self.plain)
        for kind in KINDS:
            for index in range(-1, TOP + 1):
                assert (FrameId(kind, index) in self.ours) is ((kind, index) in self.plain)
            assert self.ours.count(kind) == sum(k is kind for k, _ in self.plain)
        assert bool(self.ours) is bool(self.plain)

    @invariant()
    def ranges_are_sorted_disjoint_and_as_few_as_possible(self) -> None:
        ranges = self.ours.ranges()
        assert ranges == sorted(ranges)
        assert all(s < e for _, s, e in ranges)
        for (kind, _, end), (next_kind, start, _) in itertools.pairwise(ranges):
            assert kind != next_kind or end < start


TestFrameSet = FrameSetMachine.TestCase
TestFrameSet.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(st.lists(st.tuples(kinds, spans)))
def test_the_order_in_which_ranges_come_does_not_matter(
    given_ranges: list[tuple[Kind, tuple[int, int]]],
) -> None:
    ranges = [(int(kind), *span) for kind, span in given_ranges]
    assert FrameSet(ranges) == FrameSet(reversed(ranges))
    assert set(FrameSet(ranges)) == {FrameId(Kind(k), i) for k, s, e in ranges for i in range(s, e)}


def test_ranges_that_touch_or_overlap_become_one() -> None:
    for order in itertools.permutations([(1, 0, 2), (1, 2, 3), (1, 2, 5), (1, 7, 8)]):
        ours = FrameSet()
        for kind, start, end in order:
            ours.add(kind, start, end)
        assert ours.ranges() == [(1, 0, 5), (1, 7, 8)]


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [
        (1, 5, 5),
        (1, 6, 5),
        (1, -1, 5),
        (1, 0, INDEX_LIMIT + 1),
        (3, 0, 1),
        (4, 0, 1),
        (-1, 0, 1),
        (255, 0, 1),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(kind: int, start: int, end: int) -> None:
    with pytest.raises(ProtocolError):
        FrameSet([(kind, start, end)])


def test_everything_holds_any_frame_there_can_be_and_closes_when_clipped() -> None:
    every = FrameSet.everything()
    assert TRAILER in every
    assert FrameId(Kind.TRAILER, 1) not in every
    for kind in (Kind.MANIFEST, Kind.CHUNK):
        assert FrameId(kind, INDEX_LIMIT - 1) in every
        assert FrameId(kind, INDEX_LIMIT) not in every
    every.discard(FrameId(Kind.CHUNK, 5))
    every.clip(Kind.CHUNK, 7)
    every.clip(Kind.MANIFEST, 0)
    assert list(every) == [FrameId(Kind.CHUNK, i) for i in (0, 1, 2, 3, 4, 6)] + [TRAILER]


def test_a_segments_index_is_never_a_frame_to_ask_for() -> None:
    assert FrameId(Kind.INDEX, 0) not in FrameSet.everything()
    assert "not a frame" not in FrameSet.everything()


def test_a_million_chunks_cost_a_range_and_a_discard_costs_little() -> None:
    every = FrameSet([(Kind.CHUNK, 0, 1_000_000)])
    for index in range(0, 1000, 2):
        every.discard(FrameId(Kind.CHUNK, index))
    assert len(every.ranges()) == 500
    assert every.count(Kind.CHUNK) == 999_500


def test_iterating_goes_on_while_what_was_iterated_is_discarded() -> None:
    wanted = FrameSet([(Kind.MANIFEST, 0, 2), (Kind.CHUNK, 0, 50), (Kind.TRAILER, 0, 1)])
    seen = []
    for frame in wanted:
        seen.append(frame)
        wanted.discard(frame)
    assert len(seen) == 53
    assert not wanted


def test_frames_sort_manifest_first_and_trailer_last() -> None:
    frames = [TRAILER, FrameId(Kind.CHUNK, 3), FrameId(Kind.MANIFEST, 9), FrameId(Kind.CHUNK, 0)]
    assert sorted(frames) == [frames[2], frames[3], frames[1], TRAILER]


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)), st.integers(0, 45))
def test_what_two_sets_have_in_common_open_ranges_included(one: set[int], two: set[int], opened: int) -> None:
    left = FrameSet((Kind.CHUNK, n, n + 1) for n in one)
    right = FrameSet((Kind.CHUNK, n, n + 1) for n in two)
    right.add(Kind.CHUNK, opened, INDEX_LIMIT)
    both = one & (two | set(range(opened, 50)))
    assert {frame.index for frame in left.common(right)} == both
    assert left.common(right) == right.common(left)
    assert not left.common(FrameSet([(Kind.MANIFEST, 0, 50)]))
