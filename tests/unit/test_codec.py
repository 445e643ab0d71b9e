"""Encoded frames: exact bytes come back, whatever lies is refused before memory is taken for it."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import random
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer import codec as codec_module
from transfer.codec import (
    AS_IS,
    AUTO_LEVEL,
    HEADER,
    MAX_RAW,
    PURPOSE,
    SAMPLE,
    SAMPLES,
    WORTH,
    ZSTD,
    Codec,
    Room,
    Rooms,
    digest_of,
    max_encoded,
    room,
)
from transfer.errors import DamagedData
from transfer.model import TRAILER, Frame, FrameId, Kind
from transfer.seal import OVERHEAD, Purpose, Sealer, Suite
from transfer.ticket import Ticket

TICKET = Ticket("q" * 16, bytes(range(16)))
SEALER = Sealer(TICKET)
CODEC = Codec(SEALER)
FIRST = FrameId(Kind.CHUNK, 0)
MIB = 1 << 20
NOISE = random.Random(1).randbytes(3 * SAMPLE)

raws = st.binary(max_size=2000) | st.builds(
    lambda b, n: b * n, st.binary(max_size=20), st.integers(0, 20_000)
)


def sealed(codec: int, length: int, body: bytes, digest: bytes = bytes(32), frame: FrameId = FIRST) -> Frame:
    """A frame as a hostile holder of the ticket would make it: whatever it says, the seal is right."""
    plain = HEADER.pack(codec, length, digest) + body
    return Frame(frame, SEALER.seal(PURPOSE[frame.kind], frame.index, plain))


def codec_of(frame: Frame) -> int:
    return SEALER.open(PURPOSE[frame.id.kind], frame.id.index, frame.data)[0]


def peak_of_refusal(frame: Frame, expected: int | None = None) -> int:
    """Bytes at the peak while a frame is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(DamagedData):
            CODEC.decode(frame, expected)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(raws, st.sampled_from(["auto", "off", 1, 9]), st.sampled_from(list(Kind)), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_what_is_encoded_is_decoded(raw: bytes, compress: str | int, kind: Kind, index: int) -> None:
    raw = raw[: MAX_RAW[kind]]
    made = Codec(SEALER, compress).encode(FrameId(kind, index), raw)
    assert made.raw_length == len(raw)
    assert made.digest == digest_of(raw)
    assert len(made.frame.data) <= max_encoded(kind)
    for expected in (None, len(raw)):
        assert CODEC.decode(made.frame, expected) == (raw, made.digest)


@pytest.mark.parametrize("suite", Suite)
def test_any_flipped_bit_anywhere_in_a_frame_is_refused(suite: Suite) -> None:
    frame = Codec(Sealer(TICKET, suite)).encode(FIRST, b"abc" * 9).frame
    for bit in range(8 * len(frame.data)):
        altered = bytearray(frame.data)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedData):
            CODEC.decode(Frame(FIRST, bytes(altered)))


def test_a_frame_is_no_other_kind_index_or_jobs() -> None:
    frame = CODEC.encode(FrameId(Kind.CHUNK, 1), b"abc").frame
    others = [FrameId(kind, 1) for kind in Kind if kind is not Kind.CHUNK]
    for other in (*others, FrameId(Kind.CHUNK, 0), FrameId(Kind.CHUNK, 2)):
        with pytest.raises(DamagedData):
            CODEC.decode(Frame(other, frame.data))
    with pytest.raises(DamagedData):
        Codec(Sealer(Ticket("p" * 16, TICKET.secret))).decode(frame)
    for direction in (Purpose.TO_RECEIVER, Purpose.TO_SENDER, Purpose.RECEIPT):
        with pytest.raises(DamagedData):
            SEALER.open(direction, 1, frame.data)


def test_each_kind_has_a_key_of_its_own_and_a_bound() -> None:
    assert len(set(PURPOSE.values())) == len(PURPOSE) == len(MAX_RAW) == len(Kind)
    assert all(max_encoded(kind) == MAX_RAW[kind] + 37 + OVERHEAD for kind in Kind)


@pytest.mark.parametrize("level", ["auto", 1, 19])
def test_incompressible_data_is_stored_as_it_is(level: str | int) -> None:
    frame = Codec(SEALER, level).encode(FIRST, NOISE).frame
    assert codec_of(frame) == AS_IS
    assert len(frame.data) == len(NOISE) + HEADER.size + OVERHEAD


@pytest.mark.parametrize("size", [100, SAMPLE, 3 * SAMPLE])
def test_compressible_data_shrinks_unless_told_not_to(size: int) -> None:
    raw = b"what repeats " * (size // 13 + 1)
    assert codec_of(small := CODEC.encode(FIRST, raw).frame) == ZSTD
    assert len(small.data) < len(raw)
    assert codec_of(Codec(SEALER, "off").encode(FIRST, raw).frame) == AS_IS


def test_a_start_that_shrinks_before_noise_that_does_not_costs_nothing() -> None:
    raw = bytes(SAMPLE // 8) + NOISE
    assert codec_of(frame := CODEC.encode(FIRST, raw).frame) == AS_IS
    assert len(frame.data) <= len(raw) + HEADER.size + OVERHEAD
    assert WORTH < 1


def test_an_empty_frame_is_a_frame() -> None:
    assert CODEC.decode(CODEC.encode(TRAILER, b"").frame, 0).raw == b""


@pytest.mark.parametrize("kind", Kind)
def test_a_stated_length_beyond_the_kinds_bound_is_refused_without_allocating(kind: Kind) -> None:
    frame_id = FrameId(kind, 0)
    huge = MAX_RAW[kind] + 1
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(huge))
    for length in (huge, 2**32 - 1):
        for frame in (
            sealed(ZSTD, length, bomb, frame=frame_id),
            sealed(AS_IS, length, b"x", frame=frame_id),
        ):
            assert peak_of_refusal(frame) < MIB // 2


def test_a_bomb_that_says_less_than_it_holds_is_refused_without_allocating() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 * MIB))
    assert len(bomb) < 64 << 10
    assert peak_of_refusal(sealed(ZSTD, 1000, bomb)) < MIB // 2
    assert peak_of_refusal(sealed(ZSTD, 1000, bomb), expected=1000) < MIB // 2


def test_a_bomb_whose_zstd_header_lies_is_refused_without_allocating() -> None:
    """The frame's own content size says 1000, its blocks hold 64 MiB."""
    packer = zstandard.ZstdCompressor(level=1, write_content_size=True)
    honest, bomb = packer.compress(bytes(1000)), bytearray(packer.compress(bytes(64 * MIB)))
    assert zstandard.frame_content_size(honest) == 1000
    parameters = zstandard.get_frame_parameters(bytes(bomb))
    size_at = bytes(bomb).index(struct.pack("<I", 64 * MIB))
    bomb[size_at : size_at + 4] = struct.pack("<I", 1000)
    assert parameters.content_size == 64 * MIB
    assert zstandard.frame_content_size(bytes(bomb)) == 1000
    assert peak_of_refusal(sealed(ZSTD, 1000, bytes(bomb))) < MIB // 2


def test_a_bomb_of_unknown_size_is_refused_without_allocating() -> None:
    bomb = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(bytes(16 * MIB))
    assert zstandard.frame_content_size(bomb) == -1
    for length in (0, 1000, 16 * MIB):
        assert peak_of_refusal(sealed(ZSTD, length, bomb)) < MIB // 2


@pytest.mark.parametrize("second", [b"a", bytes(32 * MIB)], ids=["small", "huge"])
def test_a_second_zstd_frame_is_refused_without_allocating(second: bytes) -> None:
    pack = zstandard.ZstdCompressor(level=1).compress
    raw = b"first" * 100
    frame = sealed(ZSTD, len(raw), pack(raw) + pack(second), digest_of(raw))
    assert peak_of_refusal(frame) < MIB // 2


def test_garbage_where_zstd_should_be_is_refused() -> None:
    raw = b"first" * 100
    packed = zstandard.ZstdCompressor().compress(raw)
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip"
    for body in (b"", b"garbage", packed[:-1], packed + b"\0", packed[1:], skippable, skippable + packed):
        assert peak_of_refusal(sealed(ZSTD, len(raw), body, digest_of(raw))) < MIB // 2


@given(st.binary(max_size=200), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_no_body_under_a_right_seal_does_more_than_be_refused(body: bytes, codec: int, length: int) -> None:
    with pytest.raises(DamagedData):
        CODEC.decode(sealed(codec, length, body))


@pytest.mark.parametrize(("exponent", "error"), [(14, "another length"), (15, "not decompress")])
def test_a_frame_cut_short_takes_no_window_larger_than_a_chunk(exponent: int, error: str) -> None:
    """One that is whole is unpacked without any. Source: RFC 8878, 3.1.1.1.2, Window_Descriptor."""
    raw = b"a" * 70_000
    last_block = (len(raw) << 3 | 0b011).to_bytes(3, "little") + b"a"  # one byte, so many times
    head = b"\x28\xb5\x2f\xfd" + bytes([0x80, exponent << 3]) + len(raw).to_bytes(4, "little")
    assert CODEC.decode(sealed(ZSTD, len(raw), head + last_block, digest_of(raw))).raw == raw
    with pytest.raises(DamagedData, match=error):
        CODEC.decode(sealed(ZSTD, len(raw), head + last_block[:-1], digest_of(raw)))


def test_a_way_of_compressing_nobody_knows_is_refused() -> None:
    with pytest.raises(DamagedData, match="does not know"):
        CODEC.decode(sealed(2, 3, b"abc", digest_of(b"abc")))


def test_a_plain_text_shorter_than_its_header_is_refused() -> None:
    for length in (0, 1, HEADER.size - 1):
        with pytest.raises(DamagedData, match="own header"):
            CODEC.decode(Frame(FIRST, SEALER.seal(Purpose.CHUNK, 0, bytes(length))))


def test_another_length_than_expected_is_refused() -> None:
    frame = CODEC.encode(FIRST, b"abc").frame
    for expected in (0, 2, 4):
        with pytest.raises(DamagedData, match="cannot be"):
            CODEC.decode(frame, expected)


@pytest.mark.parametrize("codec", [AS_IS, ZSTD])
def test_a_digest_of_other_bytes_is_refused(codec: int) -> None:
    raw = os.urandom(100)
    body = raw if codec == AS_IS else zstandard.ZstdCompressor().compress(raw)
    with pytest.raises(DamagedData, match="digest"):
        CODEC.decode(sealed(codec, len(raw), body, digest_of(raw + b"!")))


def test_bytes_that_are_fewer_or_more_than_stated_are_refused() -> None:
    for body in (b"ab", b"abcd"):
        with pytest.raises(DamagedData):
            CODEC.decode(sealed(AS_IS, 3, body, digest_of(body)))


# memory that is used again

ROOM = 20_000


@given(
    st.lists(st.tuples(raws, st.sampled_from([0, 3]), st.sampled_from(["", "flipped", "cut"])), max_size=8),
    st.sampled_from(Suite),
)
@settings(deadline=None)
def test_rooms_used_again_decode_as_memory_of_ones_own_does(
    plan: list[tuple[bytes, int, str]], suite: Suite
) -> None:
    """Whatever lay there before, and whatever was refused before."""
    codec = Codec(Sealer(TICKET, suite))
    rooms, place = Rooms(ROOM), Room(ROOM)
    for index, (raw, level, damage) in enumerate(plan):
        raw = raw[:ROOM]
        codec.level = level
        place.raw(len(raw))[:] = raw
        made = codec.encode_in(place, FrameId(Kind.CHUNK, index), len(raw))
        assert (made.raw_length, made.digest) == (len(raw), digest_of(raw))
        if damage:
            data = bytearray(made.frame.data)
            data = data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1])
            with pytest.raises(DamagedData):
                codec.decode_in(rooms, Frame(made.frame.id, data), len(raw))
        assert codec.decode_in(rooms, made.frame, len(raw)) == codec.decode(made.frame) == (raw, made.digest)


def test_frames_that_were_made_in_one_room_after_another_are_all_their_own() -> None:
    place = Room(ROOM)
    raws = [b"first " * 3000, NOISE[:ROOM], b"", b"short", NOISE[7:ROOM]]
    made = []
    for index, raw in enumerate(raws):
        place.raw(len(raw))[:] = raw
        made.append(CODEC.encode_in(place, FrameId(Kind.CHUNK, index), len(raw)))
    assert [CODEC.decode(one.frame).raw for one in made] == raws


def test_a_frame_too_long_for_its_room_is_refused_and_one_that_only_unpacks_to_more_is_not() -> None:
    rooms = Rooms(ROOM)
    with pytest.raises(DamagedData, match="longer than frames of this transfer"):
        CODEC.decode_in(rooms, Codec(SEALER, "off").encode(FIRST, bytes(ROOM + 1)).frame)
    assert CODEC.decode_in(rooms, CODEC.encode(FIRST, bytes(ROOM + 1)).frame).raw == bytes(ROOM + 1)
    assert CODEC.decode_in(rooms, CODEC.encode(FIRST, b"x" * ROOM).frame).raw == b"x" * ROOM


@pytest.mark.parametrize("raw", [b"x" * ROOM, NOISE[:ROOM]], ids=["zstd", "as it is"])
def test_raw_bytes_begin_where_a_page_does(raw: bytes) -> None:
    """As direct I/O wants it."""
    rooms = Rooms(ROOM)
    decoded = CODEC.decode_in(rooms, CODEC.encode(FIRST, raw).frame).raw
    for view in (decoded, room(ROOM).raw(1)):
        assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % mmap.PAGESIZE == 0


def test_each_thread_has_a_room_of_its_own_for_each_size() -> None:
    together = Barrier(4)

    def mine(_: int) -> Room:
        together.wait(10)
        assert room(ROOM) is room(ROOM)
        assert room(ROOM) is not room(ROOM + 1)
        return room(ROOM)

    with ThreadPoolExecutor(4) as pool:
        assert len({id(r) for r in list(pool.map(mine, range(4)))}) == 4


def test_many_threads_encode_and_decode_at_once() -> None:
    def there_and_back(index: int) -> bool:
        raw = (bytes([index % 7]) * 9000 + NOISE[index : index + 5000])[: ROOM - index]
        place = room(ROOM)
        place.raw(len(raw))[:] = raw
        made = CODEC.encode_in(place, FrameId(Kind.CHUNK, index), len(raw))
        return CODEC.decode_in(Rooms(ROOM), made.frame, len(raw)).raw == raw

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(200)))


# when, and how hard, is compressed

LONG = SAMPLE * SAMPLES + 1000
LONG_NOISE = random.Random(2).randbytes(LONG)


class Counting:
    """What is given to zstd is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[tuple[int, int]] = []
        real = codec_module._compressor

        def counted(level: int) -> object:
            class Compressor:
                @staticmethod
                def compress(data: memoryview) -> bytes:
                    self.given.append((level, len(data)))
                    return real(level).compress(data)

            return Compressor

        monkeypatch.setattr(codec_module, "_compressor", counted)


def test_noise_costs_its_samples_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    noise = random.Random(3).randbytes(MIB)
    assert codec_of(Codec(SEALER, 9).encode(FIRST, noise).frame) == AS_IS
    assert counting.given == [(1, SAMPLE)] * SAMPLES


@pytest.mark.parametrize("place", range(SAMPLES))
def test_what_shrinks_anywhere_in_a_body_is_found(place: int) -> None:
    """A tar holds all kinds of files side by side."""
    at = place * (LONG - SAMPLE) // (SAMPLES - 1)
    raw = LONG_NOISE[:at] + bytes(SAMPLE) + LONG_NOISE[at + SAMPLE :]
    frame = CODEC.encode(FIRST, raw).frame
    assert codec_of(frame) == ZSTD
    assert len(frame.data) < 0.8 * len(raw)
    assert CODEC.decode(frame).raw == raw


def test_a_start_of_noise_hides_nothing_behind_it() -> None:
    raw = LONG_NOISE + b"what repeats " * LONG
    assert len((frame := CODEC.encode(FIRST, raw).frame).data) < len(LONG_NOISE) + LONG // 10
    assert CODEC.decode(frame).raw == raw


def test_a_long_body_that_hardly_shrinks_after_all_is_stored_as_it_is() -> None:
    step = (8 * LONG - SAMPLE) // (SAMPLES - 1)
    raw = bytearray(random.Random(4).randbytes(8 * LONG))
    raw[step : step + SAMPLE] = bytes(SAMPLE)  # just what is looked at
    assert codec_of(CODEC.encode(FIRST, raw).frame) == AS_IS


def test_only_auto_adapts_and_a_new_level_counts_from_the_next_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(c.adapts, c.level) for c in (Codec(SEALER, how) for how in ("auto", "off", 1, "19"))] == [
        (True, AUTO_LEVEL), (False, 0), (False, 1), (False, 19),
    ]  # fmt: skip
    counting = Counting(monkeypatch)
    codec, raw = Codec(SEALER), b"what repeats " * 1000
    for level in (3, 9, 0, 1):
        codec.level = level
        assert codec.decode(codec.encode(FIRST, raw).frame).raw == raw
    assert [level for level, _ in counting.given] == [3, 9, 1]


# bounds, by their values


def test_frames_hold_at_most_64_mib_of_manifest_16_mib_of_chunk_4_kib_of_trailer_64_kib_of_index() -> None:
    assert MAX_RAW == {
        Kind.MANIFEST: 67_108_864,
        Kind.CHUNK: 16_777_216,
        Kind.TRAILER: 4096,
        Kind.INDEX: 65_536,
    }
    assert max_encoded(Kind.TRAILER) == 4096 + 37 + 29, "a header, and a seal"


@pytest.mark.parametrize("codec", ["off", "auto"])
def test_the_largest_frame_of_its_kind_is_taken(codec: str) -> None:
    raw = bytes(MAX_RAW[TRAILER.kind])
    assert CODEC.decode(Codec(SEALER, codec).encode(TRAILER, raw).frame).raw == raw
    with pytest.raises(DamagedData, match="cannot be"):
        CODEC.decode(Codec(SEALER, codec).encode(TRAILER, raw + b"x").frame)


def test_a_frame_is_compressed_where_that_saves_more_than_a_twentieth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Compressor:
        length = 0

        @classmethod
        def compress(cls, data: memoryview) -> bytes:
            return bytes(cls.length)

    monkeypatch.setattr(codec_module, "_compressor", lambda level: Compressor)
    for Compressor.length, chosen in ((950, AS_IS), (949, ZSTD)):
        assert codec_of(CODEC.encode(FIRST, bytes(1000)).frame) == chosen


def test_a_body_of_65536_bytes_is_tried_whole_and_a_longer_one_by_four_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counting = Counting(monkeypatch)
    CODEC.encode(FIRST, bytes(65_536))
    assert counting.given == [(3, 65_536)], "at the level that suits most routes"
    counting.given.clear()
    CODEC.encode(FIRST, bytes(65_537))
    assert counting.given == [(1, 16_384)] * 4 + [(3, 65_537)]


def test_a_body_whose_samples_hardly_shrink_is_not_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    for each, tried in ((15_564, True), (15_565, False)):  # 62,258.8 bytes of all four are the bound
        calls: list[int] = []

        class Compressor:
            @staticmethod
            def compress(data: memoryview, each: int = each, calls: list[int] = calls) -> bytes:
                calls.append(len(data))
                return bytes(each)

        monkeypatch.setattr(codec_module, "_compressor", lambda level, made=Compressor: made)
        CODEC.encode(FIRST, bytes(100_000))
        assert (len(calls) == 5) is tried


def test_the_samples_are_spread_from_the_first_byte_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    given_: list[bytes] = []

    class Compressor:
        @staticmethod
        def compress(data: memoryview) -> bytes:
            given_.append(bytes(data))
            return bytes(len(data))

    monkeypatch.setattr(codec_module, "_compressor", lambda level: Compressor)
    raw = b"".join(n.to_bytes(4, "big") for n in range(30_000))[: SAMPLE + 3 * 34_538]
    CODEC.encode(FIRST, raw)
    places = [raw.index(sample) for sample in given_]
    assert (places[0], places[-1] + SAMPLE) == (0, len(raw))
    assert len({b - a for a, b in itertools.pairwise(places)}) == 1


def test_a_frame_that_fits_its_room_exactly_is_taken() -> None:
    rooms = Rooms(ROOM)
    frame = Codec(SEALER, "off").encode(FIRST, NOISE[:ROOM]).frame
    assert CODEC.decode_in(rooms, frame).raw == NOISE[:ROOM]


def test_a_frame_of_nothing_but_its_header_is_empty_and_a_room_for_nothing_can_be_made() -> None:
    assert CODEC.decode(sealed(AS_IS, 0, b"", digest_of(b""))).raw == b""
    assert len(Room(0).plain(0)) == HEADER.size == 37
    with pytest.raises(DamagedData, match="own header"):
        CODEC.decode(Frame(FIRST, SEALER.seal(Purpose.CHUNK, 0, bytes(36))))
