"""Files whole and in part, counted from chunks in any order: as a count of every extent would have it."""

from __future__ import annotations

import time
from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from transfer.chunks import CHUNK_SIZES, make_manifest
from transfer.events import Event, FileProgress, Progress
from transfer.fileparts import SHOWN, FileParts
from transfer.meter import Meter
from transfer.model import Entry, EntryKind, FrameId, Kind

SIZE = CHUNK_SIZES[0]


def file(size: int | None, path: bytes = b"f") -> Entry:
    return Entry(path, EntryKind.FILE, size, 0o644, 0)


@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 3), st.integers(SIZE - 2, SIZE + 2), st.integers(0, 4 * SIZE)), max_size=12
    ),
    order=st.randoms(use_true_random=False),
)
def test_what_is_counted_is_what_the_extents_say(sizes: list[int], order: Random) -> None:
    folder = Entry(b"d", EntryKind.DIRECTORY, 0, 0o755, 0)
    manifest = make_manifest([folder, *(file(size, b"%d" % n) for n, size in enumerate(sizes))])
    parts = FileParts(manifest)
    chunks = list(range(manifest.chunks or 0))
    order.shuffle(chunks)
    held = Counter({0: 0})
    for chunk in chunks:
        parts.add(chunk)
        for extent in manifest.extents(chunk):
            held[extent.entry] += extent.length
        assert parts.whole == sum(held[n + 1] == size for n, size in enumerate(sizes))
        for told in parts.newest():
            number = int(told.path) + 1
            assert (told.done, told.size) == (held[number], sizes[number - 1])
            assert 0 < told.done < told.size
    assert (parts.whole, parts.newest()) == (len(sizes), [])


def test_the_few_that_grew_last_are_told_the_newest_first() -> None:
    manifest = make_manifest([file(2 * SIZE, b"%d" % n) for n in range(6)])
    parts = FileParts(manifest)
    for chunk in (0, 2, 4, 6, 8):
        parts.add(chunk)
    assert [told.path for told in parts.newest()] == ["4", "3", "2"]
    assert len(parts.newest()) == SHOWN
    parts.add(9)
    assert [told.path for told in parts.newest()] == ["3", "2", "1"]
    assert parts.whole == 1


def test_a_name_that_is_no_text_is_told_as_it_is() -> None:
    parts = FileParts(make_manifest([file(2 * SIZE, b"caf\xe9")]))
    parts.add(0)
    assert parts.newest() == [FileProgress("caf\udce9", SIZE, 2 * SIZE)]


def test_half_a_million_files_cost_a_look_up_a_chunk() -> None:
    manifest = make_manifest([file(200, b"%d" % n) for n in range(500_000)])
    parts = FileParts(manifest)
    began = time.process_time()
    for chunk in range(manifest.chunks or 0):
        parts.add(chunk)
    assert time.process_time() - began < 0.1  # milliseconds; a look at every file would be half a second
    assert parts.whole == 500_000


def test_the_meter_tells_of_files_five_times_a_second_and_not_for_every_chunk() -> None:
    events: list[Event] = []
    now = 100.0
    meter = Meter(events.append, clock=lambda: now)
    manifest = make_manifest([file(SIZE // 2 + 1, b"%d" % n) for n in range(150)])
    meter.learn(manifest)
    for chunk in range(manifest.chunks or 0):
        now += 0.01
        length = manifest.chunk_length(chunk) or 0
        frame = FrameId(Kind.CHUNK, chunk)
        if chunk < 10:
            meter.found(frame, length)
        else:
            meter.moved(frame, length)
    told = [event for event in events if isinstance(event, Progress)]
    assert len(told) <= 6
    meter.tell()
    last = events[-1]
    assert isinstance(last, Progress)
    assert (last.files_done, last.files, last.moving) == (150, 150, [])
    assert (last.kept, last.done) == (10 * SIZE, manifest.total)
    assert all(len(event.moving) == 1 for event in told[:-1])


def test_a_single_file_and_a_stream_name_none() -> None:
    events: list[Event] = []
    for size in (2 * SIZE, None):
        meter = Meter(events.append, clock=lambda: 0.0)
        meter.learn(make_manifest([file(size)]))
        meter.moved(FrameId(Kind.CHUNK, 0), SIZE)
        meter.tell()
    one, stream = (event for event in events if isinstance(event, Progress))
    assert (one.files_done, one.moving) == (0, [])
    assert (stream.files_done, stream.moving) == (None, [])
