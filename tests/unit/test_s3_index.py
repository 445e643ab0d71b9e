"""Reading segments: an index is believed only if it fits its object, and only what is wanted is asked for."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.codec import Codec, max_encoded
from transfer.errors import DamagedData, UnsupportedVersion
from transfer.model import FORMAT, FrameId, FrameSet, IndexedFrame, Kind, SegmentIndex, SegmentRef
from transfer.plan import SEGMENT_FRAMES
from transfer.seal import Sealer
from transfer.ticket import Ticket
from transfer.transports.s3.inbound import READ_AT_ONCE, Run, read_index, runs

CODEC = Codec(Sealer(Ticket("q" * 16, bytes(16))))
DIGEST = bytes(32)


def row(index: int, length: int = 100, kind: Kind = Kind.CHUNK) -> IndexedFrame:
    return IndexedFrame(kind, index, length, DIGEST)


def sealed(content: object, segment: int = 3) -> bytes:
    return bytes(CODEC.encode(FrameId(Kind.INDEX, segment), msgspec.msgpack.encode(content)).frame.data)


def ref_for(index: bytes, payload: int, segment: int = 3) -> SegmentRef:
    return SegmentRef(segment, payload + len(index), len(index))


def whole(rows: list[IndexedFrame], *, version: int = FORMAT, segment: int = 3) -> SegmentIndex:
    return SegmentIndex(version, segment, rows)


ROWS = [row(0, 50, Kind.MANIFEST), row(0), row(1, 7), row(0, 60, Kind.TRAILER)]


def test_an_honest_index_is_read() -> None:
    index = bytes(sealed(whole(ROWS)))
    assert read_index(CODEC, ref_for(index, 217), index) == ROWS


def test_the_longest_index_there_can_be_is_read() -> None:
    rows = [row(2**32 - 1, max_encoded(Kind.CHUNK))] * SEGMENT_FRAMES
    index = sealed(whole(rows))
    assert len(index) <= max_encoded(Kind.INDEX)
    assert read_index(CODEC, ref_for(index, sum(r.length for r in rows)), index) == rows


@pytest.mark.parametrize("off", [-1, 1, 10**12])
def test_an_index_that_does_not_add_up_to_its_object_is_refused(off: int) -> None:
    index = bytes(sealed(whole(ROWS)))
    with pytest.raises(DamagedData, match="fit"):
        read_index(CODEC, ref_for(index, 217 + off), index)


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(whole(ROWS, version=FORMAT - 1), id="a version before the first"),
        pytest.param(whole(ROWS, segment=4), id="another segment"),
        pytest.param(whole([*ROWS[:-1], row(0, 60, Kind.INDEX)]), id="an index in the index"),
        pytest.param(whole([*ROWS, row(2, 0)]), id="a frame of no bytes"),
        pytest.param(whole([*ROWS, row(2, -5), row(3, 5)]), id="a frame of fewer than none"),
        pytest.param(
            whole([row(0, 217)] + [row(1, 0)] * SEGMENT_FRAMES), id="more frames than a segment has"
        ),
    ],
)
def test_an_index_that_lies_under_a_right_seal_is_refused(lie: SegmentIndex) -> None:
    index = sealed(lie)
    with pytest.raises(DamagedData, match="fit"):
        read_index(CODEC, ref_for(index, 217), index)


def test_an_index_of_a_later_version_is_refused_by_name() -> None:
    index = sealed(whole(ROWS, version=FORMAT + 1))
    with pytest.raises(UnsupportedVersion, match="a newer xfer"):
        read_index(CODEC, ref_for(index, 217), index)


def test_too_many_frames_are_refused_even_if_they_add_up() -> None:
    index = sealed(whole([row(n, 1) for n in range(SEGMENT_FRAMES + 1)]))
    with pytest.raises(DamagedData, match="fit"):
        read_index(CODEC, ref_for(index, SEGMENT_FRAMES + 1), index)


@pytest.mark.parametrize("kind", [Kind.MANIFEST, Kind.CHUNK, Kind.TRAILER])
def test_a_frame_longer_than_its_kind_can_be_is_refused(kind: Kind) -> None:
    for extra, fits in ((0, True), (1, False)):
        length = max_encoded(kind) + extra
        index = sealed(whole([row(0, length, kind)]))
        if fits:
            assert read_index(CODEC, ref_for(index, length), index)
        else:
            with pytest.raises(DamagedData, match="fit"):
                read_index(CODEC, ref_for(index, length), index)


@pytest.mark.parametrize(
    "content",
    [None, [], {}, "text", [FORMAT, 3], [FORMAT, 3, [[9, 0, 1, b""]]], [FORMAT, 3, [[1, 0, 1.5, b""]]]],
)
def test_what_is_no_index_is_refused(content: object) -> None:
    index = sealed(content)
    with pytest.raises(DamagedData, match="not readable"):
        read_index(CODEC, ref_for(index, 0), index)


def test_an_index_nested_without_end_is_refused() -> None:
    raw = b"\x94\x01\x03\x90" + b"\x91" * 5000
    index = bytes(CODEC.encode(FrameId(Kind.INDEX, 3), raw).frame.data)
    with pytest.raises(DamagedData, match="not readable"):
        read_index(CODEC, ref_for(index, 0), index)


def test_an_index_of_another_segment_does_not_open() -> None:
    index = bytes(sealed(whole(ROWS)))
    with pytest.raises(DamagedData):
        read_index(CODEC, ref_for(index, 217, segment=4), index)


def test_an_altered_or_cut_index_does_not_open() -> None:
    index = bytes(sealed(whole(ROWS)))
    for at in range(len(index)):
        altered = index[:at] + bytes([index[at] ^ 1]) + index[at + 1 :]
        for candidate in (altered, index[:at]):
            with pytest.raises(DamagedData):
                read_index(CODEC, ref_for(index, 217), candidate)


# what is asked for

kinds = st.sampled_from([Kind.MANIFEST, Kind.CHUNK])
lengths = st.integers(1, 50) | st.sampled_from([READ_AT_ONCE // 2, READ_AT_ONCE, READ_AT_ONCE + 1])


@given(
    st.lists(st.tuples(kinds, lengths), max_size=30),
    st.sets(st.tuples(kinds, st.integers(0, 30)), max_size=40),
)
def test_runs_cover_exactly_what_is_wanted_in_order(
    given_rows: list[tuple[Kind, int]], wanted_ids: set[tuple[Kind, int]]
) -> None:
    rows = [row(number, length, kind) for number, (kind, length) in enumerate(given_rows)]
    wanted = FrameSet((int(kind), index, index + 1) for kind, index in wanted_ids)
    found = runs(rows, wanted)
    asked = [r for run in found for r in run.frames]
    assert asked == [r for r in rows if FrameId(r.kind, r.index) in wanted]
    offset = {r.index: sum(other.length for other in rows[: r.index]) for r in rows}
    for run in found:
        at = run.start
        for each in run.frames:
            assert at == offset[each.index]
            at += each.length
        assert at - run.start == run.length
        assert run.length <= READ_AT_ONCE or len(run.frames) == 1


def test_neighbours_are_asked_for_together_and_a_gap_parts_them() -> None:
    rows = [row(n, 10) for n in range(6)]
    wanted = FrameSet([(Kind.CHUNK, 0, 2), (Kind.CHUNK, 3, 6)])
    assert runs(rows, wanted) == [Run(0, rows[:2]), Run(30, rows[3:])]


def test_nothing_wanted_asks_for_nothing() -> None:
    assert runs([row(0)], FrameSet()) == []
    assert runs([], FrameSet.everything()) == []


def test_neighbours_beyond_8_mib_are_asked_for_apart() -> None:
    rows = [row(n, READ_AT_ONCE // 4) for n in range(9)]
    assert [len(run.frames) for run in runs(rows, FrameSet.everything())] == [4, 4, 1]


def test_the_manifest_does_not_wait_for_the_chunks_that_come_with_it() -> None:
    rows = [row(0, kind=Kind.MANIFEST), row(1, kind=Kind.MANIFEST), row(0), row(1), row(0, kind=Kind.TRAILER)]
    found = runs(rows, FrameSet.everything())
    assert [(run.start, [r.kind for r in run.frames]) for run in found] == [
        (0, [Kind.MANIFEST, Kind.MANIFEST]),
        (200, [Kind.CHUNK, Kind.CHUNK]),
        (400, [Kind.TRAILER]),
    ]
