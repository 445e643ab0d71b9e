"""Digests kept close together behave as a dict of them does, and take hardly more memory than they have bytes."""

from __future__ import annotations

import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from transfer.digests import PAGE, SIZE, Digests
from transfer.model import INDEX_LIMIT, FrameId, Kind

frames = st.builds(
    FrameId,
    st.sampled_from(Kind),
    st.integers(0, 3 * PAGE) | st.sampled_from([PAGE - 1, PAGE, INDEX_LIMIT // 2, INDEX_LIMIT - 1]),
)
digests = st.binary(min_size=SIZE, max_size=SIZE).filter(any)


class DigestsMachine(RuleBasedStateMachine):
    """Every operation on Digests and on a dict; after each they hold the same."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = Digests()
        self.plain: dict[FrameId, bytes] = {}

    @rule(frame=frames, digest=digests)
    def put(self, frame: FrameId, digest: bytes) -> None:
        self.ours[frame] = self.plain[frame] = digest

    @rule(more=st.dictionaries(frames, digests, max_size=5))
    def put_many(self, more: dict[FrameId, bytes]) -> None:
        self.ours.update(more)
        self.plain.update(more)

    @rule(frame=frames)
    def forget(self, frame: FrameId) -> None:
        assert self.ours.pop(frame, None) == self.plain.pop(frame, None)
        with pytest.raises(KeyError):
            del self.ours[frame]

    @rule(frame=frames)
    def look(self, frame: FrameId) -> None:
        assert self.ours.get(frame) == self.plain.get(frame)
        assert (frame in self.ours) is (frame in self.plain)

    @invariant()
    def they_hold_the_same(self) -> None:
        assert self.ours == self.plain
        assert list(self.ours) == sorted(self.plain)
        assert len(self.ours) == len(self.plain)
        for kind in Kind:
            assert self.ours.count(kind) == sum(frame.kind is kind for frame in self.plain)


TestDigests = DigestsMachine.TestCase
TestDigests.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("wrong", [b"", bytes(SIZE - 1), b"x" * (SIZE - 1), b"x" * (SIZE + 1), bytes(SIZE)])
def test_what_is_no_digest_is_refused_and_changes_nothing(wrong: bytes) -> None:
    ours = Digests()
    ours[FrameId(Kind.CHUNK, 1)] = b"d" * SIZE
    for index in (0, 1):
        with pytest.raises(ValueError, match="no digest"):
            ours[FrameId(Kind.CHUNK, index)] = wrong
    assert ours == {FrameId(Kind.CHUNK, 1): b"d" * SIZE}


def test_a_digest_has_the_32_bytes_of_blake3() -> None:
    ours = Digests()
    ours[FrameId(Kind.CHUNK, 0)] = blake3(b"").digest()
    for length in (31, 33):
        with pytest.raises(ValueError, match="no digest"):
            ours[FrameId(Kind.CHUNK, 0)] = b"x" * length


def held(indices: range) -> int:
    """Bytes taken by the digests of these chunks."""
    tracemalloc.start()
    try:
        ours = Digests()
        for index in indices:
            ours[FrameId(Kind.CHUNK, index)] = b"d" * SIZE
        assert len(ours) == len(indices)
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_many_of_them_take_hardly_more_than_their_bytes() -> None:
    assert held(range(20_000)) < 1.3 * 20_000 * SIZE


def test_far_ones_take_no_more_than_a_dict_would_whatever_a_peer_numbers_them() -> None:
    """A chunk of zeros is some hundred bytes on the wire; its number is the sender's to choose in a stream."""
    assert held(range(0, INDEX_LIMIT, INDEX_LIMIT // 1000)) < 1001 * 4096


def test_threads_that_set_them_at_once_lose_none() -> None:
    ours = Digests()

    def put(first: int) -> None:
        for index in range(first, 24_000, 4):
            ours[FrameId(Kind.CHUNK, index)] = b"d" * SIZE

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(put, range(4)))
    finally:
        sys.setswitchinterval(before)
    assert len(ours) == ours.count(Kind.CHUNK) == len(list(ours)) == 24_000
