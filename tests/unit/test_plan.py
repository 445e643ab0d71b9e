"""Parts and segments: sizes, moments, and where everything lies in the object."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.model import Frame, FrameId, IndexedFrame, Kind
from transfer.plan import (
    FULL_SEGMENT,
    MIB,
    MIN_PART,
    RIPE,
    RIPE_SECONDS,
    SEGMENT_FRAMES,
    SEGMENT_SECONDS,
    Part,
    SegmentBuilder,
    ripe_size,
    segment_size,
)

GB, TB = 10**9, 10**12
SMALLEST_PART_OF_S3 = 5 * MIB
ZEROS = bytes(17 * MIB)
NEVER, NOW = 1 << 60, 0.0
"""Bytes that no segment has, for those that are not to close because they are ripe."""


def frame(index: int, length: int) -> Frame:
    return Frame(FrameId(Kind.CHUNK, index), ZEROS[:length])


def digest(index: int) -> bytes:
    return index.to_bytes(32, "big")


def seal(rows: list[IndexedFrame]) -> bytes:
    return b"I" * (10 + len(rows))


def fill(builder: SegmentBuilder, lengths: list[int], first: int = 0) -> tuple[list[Part], int]:
    """All parts of a segment with frames of these lengths, and the bytes of its index."""
    parts = []
    for number, length in enumerate(lengths, first):
        part = builder.add(frame(number, length), digest(number), NOW)
        parts += [part] if part else []
    last, index = builder.close(seal)
    return [*parts, last], index


def segments_for(total: int, *, known: bool) -> int:
    """How many segments a job of incompressible data has, by size alone."""
    stored = 0
    for number in itertools.count():
        if stored >= total:
            return number
        stored += segment_size(number, stored, total if known else None)
    raise AssertionError


@pytest.mark.parametrize("total", [None, 1, 50 * GB])
def test_segments_ramp_from_8_to_64_mib(total: int | None) -> None:
    sizes = [segment_size(n, sum(8 * MIB << k for k in range(n)), total) // MIB for n in range(4)]
    assert sizes == [8, 16, 32, 64]


def test_every_segment_of_a_large_job_is_a_two_thousandth_of_it() -> None:
    assert segment_size(5, 0, 2 * TB) == GB


def test_a_job_of_up_to_128_gb_has_segments_of_64_mib() -> None:
    assert {segment_size(n, n * FULL_SEGMENT, 128 * GB) for n in range(3, 2500)} == {FULL_SEGMENT}


@pytest.mark.parametrize("total", [2 * TB, 20 * TB])
def test_a_job_of_terabytes_stays_near_2000_segments(total: int) -> None:
    assert 1990 <= segments_for(total, known=True) <= 2010


def test_a_job_of_unknown_length_reaches_17_tb_in_2000_segments() -> None:
    assert segments_for(17 * TB, known=False) <= 2000


def test_a_segment_number_beyond_any_real_one_is_no_trouble() -> None:
    assert segment_size(10**6, 0, None) == FULL_SEGMENT


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.integers(1, 2 * MIB) | st.sampled_from([MIN_PART - 1, MIN_PART, 17 * MIB]), min_size=1, max_size=30
    )
)
def test_parts_are_whole_frames_and_large_enough_but_for_the_last(lengths: list[int]) -> None:
    builder = SegmentBuilder(0, 1 << 40, NEVER, 0.0)
    parts, index = fill(builder, lengths)
    assert [p.number for p in parts] == list(range(1, len(parts) + 1))
    assert all(p.length >= MIN_PART > SMALLEST_PART_OF_S3 for p in parts[:-1])
    rows = [row for p in parts for row in p.frames]
    assert [(r.index, r.length, r.digest) for r in rows] == [
        (n, ln, digest(n)) for n, ln in enumerate(lengths)
    ]
    assert all(p.length == sum(f.length for f in p.frames) for p in parts[:-1])
    assert parts[-1].length == sum(f.length for f in parts[-1].frames) + index
    assert parts[-1].pieces[-1] == seal(rows)
    assert builder.bytes == sum(lengths)


def test_the_index_lists_the_frames_in_the_order_of_the_bytes() -> None:
    seen: list[list[IndexedFrame]] = []
    builder = SegmentBuilder(0, 1 << 40, NEVER, 0.0)
    given_frames = [Frame(FrameId(Kind.CHUNK, n), bytes([n]) * (3 * MIB + n)) for n in range(9)]
    parts = [p for f in given_frames if (p := builder.add(f, digest(f.id.index), NOW))]

    def remember(rows: list[IndexedFrame]) -> bytes:
        seen.append(list(rows))
        return b"index"

    last, length = builder.close(remember)
    whole = b"".join(piece for p in [*parts, last] for piece in p.pieces)
    at = 0
    for row, given_frame in zip(seen[0], given_frames, strict=True):
        assert whole[at : at + row.length] == given_frame.data
        at += row.length
    assert whole[at:] == b"index"
    assert length == 5


def test_a_segment_is_full_at_its_size_and_keeps_the_rest_for_the_last_part() -> None:
    builder = SegmentBuilder(0, 8 * MIB, NEVER, 0.0)
    full = []
    for number in range(2):
        assert builder.add(frame(number, 4 * MIB), digest(number), NOW) is None  # the last part takes it all
        full.append(builder.full)
    assert full == [False, True]
    last, index = builder.close(seal)
    assert (last.number, last.length) == (1, 8 * MIB + index)


def test_a_segment_is_full_at_256_frames() -> None:
    builder = SegmentBuilder(0, 1 << 40, NEVER, 0.0)
    for number in range(256):
        assert not builder.full
        builder.add(frame(number, 50_000), digest(number), NOW)
    assert builder.full


def test_a_segment_is_due_five_seconds_after_it_was_opened() -> None:
    assert SegmentBuilder(0, 1, NEVER, 100.0).due() == 100.0 + SEGMENT_SECONDS == 105.0


def test_a_segment_closes_half_full_when_it_was_open_for_a_while_and_its_last_part_is_no_short_one() -> None:
    builder = SegmentBuilder(5, FULL_SEGMENT, RIPE, 100.0)
    late = 100.0 + RIPE_SECONDS
    assert builder.add(frame(0, MIN_PART), digest(0), late) is not None
    assert not builder.full  # late, but short
    assert builder.add(frame(1, MIN_PART), digest(1), late - 0.01) is not None
    assert not builder.full  # long enough, but early
    assert builder.add(frame(2, MIN_PART - 1), digest(2), late) is None
    assert not builder.full  # its last part would be too short to be worth a request
    assert builder.add(frame(3, 1), digest(3), late) is None
    assert builder.full
    last, index = builder.close(seal)
    assert last.length == MIN_PART + index


def test_a_segment_is_ripe_after_half_a_second_with_exactly_its_ripe_bytes() -> None:
    for late, ripe in ((0.5, True), (0.4, False)):
        builder = SegmentBuilder(5, FULL_SEGMENT, RIPE, 100.0)
        for number in range(2):
            builder.add(frame(number, RIPE // 2), digest(number), 100.0 + late)
        assert builder.full is ripe


@pytest.mark.parametrize(("stored", "total"), [(0, 32 * TB), (4 * TB, None)])
def test_a_large_jobs_segments_are_ripe_no_sooner_than_full(stored: int, total: int | None) -> None:
    assert ripe_size(stored, total) == segment_size(100, stored, total)


def test_a_job_of_up_to_32_gb_has_ripe_segments_of_16_mib() -> None:
    assert ripe_size(0, 32 * GB) == RIPE == 16 * MIB < ripe_size(0, 34 * GB)


def test_a_new_segment_is_empty_until_its_first_frame() -> None:
    used = SegmentBuilder(0, 1, NEVER, 0.0)
    used.add(frame(0, 1), digest(0), NOW)
    assert (SegmentBuilder(0, 1, NEVER, 0.0).empty, used.empty) == (True, False)


def test_parts_of_an_earlier_run_keep_their_place_and_new_ones_follow() -> None:
    first = SegmentBuilder(3, 1 << 40, NEVER, 0.0)
    before = [p for n in range(5) if (p := first.add(frame(n, 4 * MIB), digest(n), NOW))]
    assert len(before) == 2  # frames 0 to 3; frame 4 was pending and died with that run
    kept = [p._replace(pieces=()) for p in before]

    second = SegmentBuilder(3, 1 << 40, NEVER, 9.0, kept)
    second.skip_numbers(5)  # parts 3 to 5 were announced but never stored
    assert not second.empty
    assert second.bytes == 16 * MIB
    rows: list[IndexedFrame] = []

    def remember(frames: list[IndexedFrame]) -> bytes:
        rows.extend(frames)
        return b"index"

    new = second.add(frame(4, MIN_PART), digest(4), NOW)
    second.add(frame(5, 7), digest(5), NOW)
    last, _ = second.close(remember)
    assert new is not None
    assert [p.number for p in (new, last)] == [6, 7]
    assert [r.index for r in rows] == [0, 1, 2, 3, 4, 5]
    offsets = list(itertools.accumulate((r.length for r in rows), initial=0))
    assert offsets == [0, 4 * MIB, 8 * MIB, 12 * MIB, 16 * MIB, 24 * MIB, 24 * MIB + 7]
    assert sum(p.length for p in (*before, new, last)) == offsets[-1] + len(b"index")


def test_parts_of_an_earlier_run_count_towards_full() -> None:
    rows = tuple(IndexedFrame(Kind.CHUNK, n, 40_000, digest(n)) for n in range(SEGMENT_FRAMES))
    assert SegmentBuilder(0, 1 << 40, NEVER, 0.0, [Part(1, (), rows)]).full
    assert SegmentBuilder(0, 40_000 * SEGMENT_FRAMES, NEVER, 0.0, [Part(1, (), rows[:-1])]).full is False
    assert SegmentBuilder(0, 40_000, NEVER, 0.0, [Part(1, (), rows[:1])]).full


def test_numbers_that_were_used_are_never_used_again_nor_lowered() -> None:
    builder = SegmentBuilder(0, 1 << 40, NEVER, 0.0, [Part(4, (), ())])
    builder.skip_numbers(2)
    assert builder.close(seal)[0].number == 5
