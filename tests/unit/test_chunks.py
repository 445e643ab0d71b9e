"""How bytes are cut and the manifest is told: exact for every list of sizes, suspicious of every claim."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.chunks import (
    CHUNK_SIZES,
    MIB,
    Extent,
    Manifest,
    chunk_size_for,
    encode_trailer,
    make_manifest,
    manifest_blocks,
    read_block,
    read_trailer,
    root_digest,
)
from transfer.errors import ProtocolError, UnsupportedVersion, XferError
from transfer.model import (
    FORMAT,
    INDEX_LIMIT,
    MAX_BLOCKS,
    MAX_ENTRIES,
    MAX_ENTRIES_IN_BLOCK,
    MAX_FILE,
    MAX_PATH,
    Entry,
    EntryKind,
    Head,
    ManifestBlock,
    Trailer,
)

SIZE = CHUNK_SIZES[0]
DEEP = b"\x91" * 5000


def file(size: int | None, path: bytes = b"f") -> Entry:
    return Entry(path, EntryKind.FILE, size, 0o644, 1_700_000_000_000_000_000)


def other(kind: EntryKind, size: int | None = 0) -> Entry:
    return Entry(b"d", kind, size, 0o755, 0, b"t" if kind is EntryKind.LINK else b"")


def head(entries: int, total: int | None, *, version: int = FORMAT, chunk_size: int = SIZE) -> Head:
    return Head(version, chunk_size, total, entries, max(1, -(-entries // MAX_ENTRIES_IN_BLOCK)))


def encode(block: object) -> bytes:
    return msgspec.msgpack.encode(block)


sizes = st.integers(0, 3) | st.integers(SIZE - 2, SIZE + 2) | st.integers(0, 4 * SIZE)
entries_of_any_kind = st.lists(
    st.builds(file, sizes) | st.sampled_from([other(EntryKind.DIRECTORY), other(EntryKind.LINK)]), max_size=30
)


# how the bytes are cut


@pytest.mark.parametrize(
    ("total", "mib"),
    [(0, 1), (100_000_000, 1), (100_000_001, 4), (10**12, 4), (10**12 + 1, 16), (None, 4)],
)
def test_chunks_are_1_mib_to_100_mb_4_mib_to_1_tb_and_16_mib_above(total: int | None, mib: int) -> None:
    assert chunk_size_for(total) == mib * 1_048_576


@given(entries_of_any_kind)
def test_the_extents_of_all_chunks_tile_the_files_exactly(entries: list[Entry]) -> None:
    manifest = make_manifest(entries)
    assert manifest.total is not None
    assert manifest.chunks is not None
    reached = dict.fromkeys(range(len(entries)), 0)
    order = []
    for index in range(manifest.chunks):
        extents = manifest.extents(index)
        length = manifest.chunk_length(index)
        assert length == sum(e.length for e in extents) > 0
        assert length == manifest.head.chunk_size or index == manifest.chunks - 1
        for extent in extents:
            assert extent.length > 0
            assert extent.start == reached[extent.entry]
            reached[extent.entry] += extent.length
            order.append(extent.entry)
    assert order == sorted(order)
    assert [reached[n] for n in range(len(entries))] == [entry.size for entry in entries]
    assert sum(reached.values()) == manifest.total
    assert manifest.files == sum(e.kind is EntryKind.FILE for e in entries)


@given(entries_of_any_kind)
def test_what_a_chunk_holds_of_its_files_is_what_its_extents_say(entries: list[Entry]) -> None:
    manifest = make_manifest(entries)
    assert manifest.filled == sum(bool(e.size) for e in entries)
    for index in range(manifest.chunks or 0):
        extents = manifest.extents(index)
        torn = [extent for extent in extents if extent.length < (entries[extent.entry].size or 0)]
        assert manifest.shares(index) == (len(extents) - len(torn), torn)


def test_files_that_end_where_a_chunk_does_are_whole_and_one_over_all_chunks_is_torn_in_each() -> None:
    exact = make_manifest([file(SIZE), file(SIZE - 1), file(1), file(SIZE)])
    assert [exact.shares(index) for index in range(3)] == [(1, []), (2, []), (1, [])]
    long = make_manifest([file(1), file(3 * SIZE), file(1)])
    assert [long.shares(index) for index in range(4)] == [
        (1, [Extent(1, 0, SIZE - 1)]),
        (0, [Extent(1, SIZE - 1, SIZE)]),
        (0, [Extent(1, 2 * SIZE - 1, SIZE)]),
        (1, [Extent(1, 3 * SIZE - 1, 1)]),
    ]


def test_there_are_no_shares_past_the_end_nor_of_a_stream() -> None:
    with pytest.raises(ProtocolError, match="there is no chunk 1 in this job"):
        make_manifest([file(SIZE)]).shares(1)
    with pytest.raises(ProtocolError, match="stream"):
        make_manifest([file(None)]).shares(0)


def test_a_chunk_past_the_end_is_refused() -> None:
    manifest = make_manifest([file(SIZE + 1)])
    assert manifest.chunk_length(1) == 1
    for index in (2, INDEX_LIMIT - 1):
        with pytest.raises(ProtocolError):
            manifest.chunk_length(index)
        with pytest.raises(ProtocolError):
            manifest.extents(index)


def test_empty_files_folders_and_links_have_no_extent() -> None:
    entries = [file(0), other(EntryKind.DIRECTORY), file(3), file(0), other(EntryKind.LINK), file(2), file(0)]
    assert make_manifest(entries).extents(0) == [Extent(2, 0, 3), Extent(5, 0, 2)]
    assert make_manifest([file(0)]).chunks == 0


def test_a_hundred_thousand_small_files_share_chunks() -> None:
    manifest = make_manifest([file(100, b"%d" % n) for n in range(100_000)])
    assert manifest.chunks == 10
    assert sum(len(manifest.extents(n)) for n in range(10)) < 100_010


def test_a_stream_has_chunks_of_any_number_and_length() -> None:
    manifest = make_manifest([file(None)])
    assert (manifest.total, manifest.chunks, manifest.chunk_length(10**6)) == (None, None, None)
    assert manifest.extents(3, 17) == [Extent(0, 3 * 4 * MIB, 17)]


# manifest blocks


def read_all(blocks: list[bytes]) -> Manifest:
    read = [read_block(raw, n) for n, raw in enumerate(blocks)]
    assert read[0].head is not None
    return Manifest(read[0].head, [entry for block in read for entry in block.entries])


@pytest.mark.parametrize("count", [0, 1, 4096, 4097, 100_000])
def test_a_manifest_of_that_many_entries_round_trips(count: int) -> None:
    entries = [Entry(b"dir/%d" % n, EntryKind.FILE, n % 7, 0o600, -n) for n in range(count)]
    manifest = make_manifest(entries)
    blocks = list(manifest_blocks(manifest))
    assert len(blocks) == manifest.head.blocks == max(1, -(-count // MAX_ENTRIES_IN_BLOCK))
    read = read_all(blocks)
    assert (read.head, read.entries) == (manifest.head, entries)
    assert list(manifest_blocks(read)) == blocks


@settings(max_examples=30)
@given(
    st.lists(
        st.builds(
            Entry,
            st.binary(min_size=1, max_size=50),
            st.just(EntryKind.FILE),
            st.integers(0, 10**6),
            st.integers(0, 0o777),
            st.integers(-(2**63), 2**63 - 1),
        ),
        max_size=8,
    )
)
def test_names_that_are_no_text_and_times_before_1970_round_trip(entries: list[Entry]) -> None:
    assert read_all(list(manifest_blocks(make_manifest(entries)))).entries == entries


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\xa5hello",
        encode([None]),
        encode([None, 3]),
        encode(ManifestBlock(None, [file(1)])) + b"\0",
        encode([None, [[b"x", 9, 0, 0, 0]]]),
        encode([None, [["text", 0, 0, 0, 0]]]),
        encode([None, [[b"x", 0, 1.5, 0, 0]]]),
        encode([[1, SIZE, 0, 0], []]),
        b"\x92\xc0\xdd\xff\xff\xff\xff",
        b"\x93\xc0\x90" + DEEP,
        b"\x92\xc0\xc6\xff\xff\xff\xff",
    ],
)
def test_what_is_no_block_is_refused(raw: bytes) -> None:
    for index in (0, 1):
        with pytest.raises(ProtocolError):
            read_block(raw, index)


def test_only_block_0_has_a_head_and_it_must() -> None:
    with_head, without = encode(ManifestBlock(head(0, 0), [])), encode(ManifestBlock(None, []))
    assert read_block(with_head, 0).head == head(0, 0)
    assert read_block(without, 1).head is None
    for raw, index in ((with_head, 1), (without, 0)):
        with pytest.raises(ProtocolError, match="well formed"):
            read_block(raw, index)


def test_a_block_number_no_manifest_reaches_is_refused() -> None:
    raw = encode(ManifestBlock(None, [file(1)]))
    assert read_block(raw, MAX_BLOCKS - 1).entries
    with pytest.raises(ProtocolError):
        read_block(raw, MAX_BLOCKS)


def test_a_block_of_too_many_entries_is_refused_before_they_are_made() -> None:
    entry = encode(file(1))
    raw = b"\x92\xc0\xdd" + (500_000).to_bytes(4, "big") + entry * 500_000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            read_block(raw, 1)
        assert tracemalloc.get_traced_memory()[1] < MIB // 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("entries", "blocks"),
    [
        (-1, 1),
        (MAX_ENTRIES + 1, -(-(MAX_ENTRIES + 1) // MAX_ENTRIES_IN_BLOCK)),
        (2**63, 2**51),
        (1, 0),
        (1, 2),
        (1, -1),
        (4097, 1),
    ],
)
def test_an_impossible_number_of_entries_or_blocks_is_refused(entries: int, blocks: int) -> None:
    with pytest.raises(ProtocolError):
        read_block(encode(ManifestBlock(Head(FORMAT, SIZE, 1, entries, blocks), [file(1)])), 0)


def test_a_newer_format_says_so() -> None:
    newer = head(1, 1, version=FORMAT + 1)
    with pytest.raises(UnsupportedVersion):
        read_block(encode(ManifestBlock(newer, [file(1)])), 0)
    with pytest.raises(UnsupportedVersion):
        Manifest(newer, [file(1)])
    with pytest.raises(UnsupportedVersion):
        read_trailer(encode(Trailer(FORMAT + 1, 0, 0, bytes(32))))


# hostile manifests


@pytest.mark.parametrize(
    ("stated", "entries"),
    [
        pytest.param(head(2, 1), [file(1)], id="more entries stated than there are"),
        pytest.param(head(0, 0), [file(0)], id="fewer entries stated than there are"),
        pytest.param(head(1, 2), [file(1)], id="a total above the sum"),
        pytest.param(head(1, 0), [file(1)], id="a total below the sum"),
        pytest.param(head(1, -1), [file(1)], id="a total below zero"),
        pytest.param(head(1, None), [file(1)], id="no total though there are sizes"),
        pytest.param(head(0, None), [], id="no total and no entries"),
        pytest.param(head(2, None), [file(None), file(None)], id="two streams"),
        pytest.param(head(2, None), [file(1), file(None)], id="a stream behind a file"),
        pytest.param(head(1, 0), [file(None)], id="a stream with a total"),
        pytest.param(head(2, 5), [file(5), file(None)], id="a stream among files"),
        pytest.param(head(1, None), [other(EntryKind.DIRECTORY, None)], id="a folder of unknown length"),
        pytest.param(head(1, 1), [other(EntryKind.DIRECTORY, 1)], id="a folder with bytes"),
        pytest.param(head(1, 1), [other(EntryKind.LINK, 1)], id="a link with bytes"),
        pytest.param(head(2, 0), [file(-1), file(1)], id="a size below zero"),
        pytest.param(head(1, MAX_FILE + 1), [file(MAX_FILE + 1)], id="a size beyond any file"),
        pytest.param(head(1, 1, chunk_size=0), [file(1)], id="chunks of nothing"),
        pytest.param(head(1, 1, chunk_size=1), [file(1)], id="chunks of a byte"),
        pytest.param(head(1, 1, chunk_size=-SIZE), [file(1)], id="chunks below zero"),
        pytest.param(head(1, 1, chunk_size=1 << 40), [file(1)], id="chunks of a tebibyte"),
        pytest.param(head(1, 1), [file(1, b"")], id="no name"),
        pytest.param(head(1, 1), [file(1, b"x" * (MAX_PATH + 1))], id="a name too long"),
        pytest.param(
            head(1, 0), [Entry(b"l", EntryKind.LINK, 0, 0, 0, b"t" * (MAX_PATH + 1))], id="a target too long"
        ),
        pytest.param(
            head(1, 0), [Entry(b"f", EntryKind.FILE, 0, 0, 1 << 63)], id="a time past the end of time"
        ),
        pytest.param(head(1, 0), [Entry(b"f", EntryKind.FILE, 0, 0, -(1 << 63) - 1)], id="a time before it"),
        pytest.param(
            head(5, 5 * MAX_FILE), [file(MAX_FILE)] * 5, id="more bytes than chunks can be numbered"
        ),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(stated: Head, entries: list[Entry]) -> None:
    with pytest.raises(ProtocolError):
        Manifest(stated, entries)


def test_the_largest_names_sizes_and_times_are_taken() -> None:
    entries = [Entry(b"x" * MAX_PATH, EntryKind.FILE, 1, 0, (1 << 63) - 1), other(EntryKind.DIRECTORY)]
    assert Manifest(head(2, 1), entries).chunks == 1


# trailer and root digest


@given(st.integers(0, 2**62), st.integers(0, INDEX_LIMIT), st.binary(min_size=32, max_size=32))
def test_a_trailer_round_trips(total: int, count: int, digest: bytes) -> None:
    assert read_trailer(encode_trailer(total, count, digest)) == Trailer(FORMAT, total, count, digest)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x90",
        encode([FORMAT, 0, 0]),
        encode(Trailer(FORMAT, -1, 0, bytes(32))),
        encode(Trailer(FORMAT, 0, -1, bytes(32))),
        encode(Trailer(FORMAT, 0, INDEX_LIMIT + 1, bytes(32))),
        encode(Trailer(FORMAT, 0, 0, bytes(31))),
        encode(Trailer(FORMAT, 0, 0, bytes(33))),
        encode(Trailer(FORMAT, 0, 0, bytes(32))) + b"\0",
        b"\x95\x01\x00\x00\xc4\x20" + bytes(32) + DEEP,
    ],
)
def test_what_is_no_trailer_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_trailer(raw)


def test_a_trailer_may_state_every_chunk_that_a_job_can_have() -> None:
    assert read_trailer(encode_trailer(1 << 50, 1 << 32, bytes(32))).chunks == 1 << 32


@pytest.mark.parametrize(
    "read", [lambda raw: read_block(raw, 0), lambda raw: read_block(raw, 1), read_trailer]
)
@given(raw=st.binary(max_size=200))
def test_any_bytes_at_all_are_read_or_refused_in_our_words(
    read: Callable[[bytes], object], raw: bytes
) -> None:
    try:
        read(raw)
    except XferError:
        return


def test_the_root_digest_depends_on_every_digest_its_order_and_its_kind() -> None:
    a, b, c = (blake3(x).digest() for x in (b"a", b"b", b"c"))
    roots = [
        root_digest(blocks, chunks)
        for blocks, chunks in (
            ([], []),
            ([a], [b, c]),
            ([a], [c, b]),
            ([a, b], [c]),
            ([a], [b]),
            ([b], [a, c]),
            ([a, b, c], []),
            ([], [a, b, c]),
        )
    ]
    assert len(set(roots)) == len(roots)
    assert {len(root) for root in roots} == {32}


# bounds, each on its inner side: what may just be


def test_the_largest_manifest_that_can_be_is_taken() -> None:
    size = 16 * MIB
    room = INDEX_LIMIT * size
    full = [file(room // 4)] * 4
    assert Manifest(head(4, room, chunk_size=size), full).chunks == INDEX_LIMIT
    with pytest.raises(ProtocolError, match="more bytes than a job"):
        Manifest(head(5, room + 1, chunk_size=size), [*full, file(1)])
    with pytest.raises(ProtocolError, match="file size"):
        Manifest(head(1, (1 << 60) + 1, chunk_size=size), [file((1 << 60) + 1)])
    with pytest.raises(ProtocolError, match="more bytes"):
        Manifest(head(1, 1 << 60, chunk_size=size), [file(1 << 60)])


def test_the_longest_target_and_the_earliest_time_are_taken() -> None:
    link = Entry(b"l", EntryKind.LINK, 0, 0, -(1 << 63), b"t" * MAX_PATH)
    assert Manifest(head(1, 0), [link]).chunks == 0


@pytest.mark.parametrize("count", [0, 1, MAX_ENTRIES_IN_BLOCK, MAX_ENTRIES_IN_BLOCK + 1, MAX_ENTRIES])
def test_a_head_states_as_many_blocks_as_its_entries_need_and_one_at_least(count: int) -> None:
    stated = Head(FORMAT, SIZE, 0, count, max(1, -(-count // MAX_ENTRIES_IN_BLOCK)))
    assert read_block(encode(ManifestBlock(stated, [])), 0).head == stated
    more = msgspec.structs.replace(stated, blocks=stated.blocks + 1)
    with pytest.raises(ProtocolError, match="number of entries"):
        read_block(encode(ManifestBlock(more, [])), 0)


def test_the_root_digest_is_blake3_over_the_digests_with_their_kinds_told_apart() -> None:
    a, b = (blake3(x).digest() for x in (b"a", b"b"))
    assert root_digest([a], [b]) == blake3(b"xfer/1 root" + a + b"chunks" + b).digest()


def test_a_stream_of_no_stated_length_has_an_extent_of_none() -> None:
    assert make_manifest([file(None)]).extents(2) == [Extent(0, 2 * 4 * MIB, 0)]
