"""SCTP packets as bytes: what is written can be read, and what makes no sense is refused."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from google_crc32c import value

from transfer.sctp import packet as wire
from transfer.sctp.packet import HEADER, Header, Init, Malformed, Parameter, Type

INIT = Init(tag=7, window=1 << 20, outbound=9, inbound=8, tsn=0xFFFFFFFF)


def test_the_checksum_is_crc32c_and_little_endian() -> None:
    assert (
        value(b"123456789") == 0xE3069283
    )  # RFC 9260 appendix A has the polynomial, RFC 3720 B.4 such vectors
    made = Header(5000, 5001, 0x01020304).packet(wire.chunk(Type.COOKIE_ACK))
    bare = made[:8] + bytes(4) + made[12:]
    assert made[8:12] == struct.pack("<I", value(bare))
    assert made[:8] == bytes.fromhex("1388138901020304")


def test_a_header_admits_its_own_packets_only() -> None:
    header = Header(5000, 5000, 99)
    made = header.packet(wire.chunk(Type.HEARTBEAT, b"abc"))
    assert header.admits(made)
    assert not Header(5000, 5000, 98).admits(made)
    assert not Header(5000, 5001, 99).admits(made)
    for at in range(len(made)):
        assert not header.admits(made[:at] + bytes([made[at] ^ 1]) + made[at + 1 :])


def test_chunks_are_padded_and_found_again() -> None:
    made = Header(1, 2, 3).packet(*(wire.chunk(Type.HEARTBEAT, b"x" * n, n) for n in range(9)))
    assert len(made) % 4 == 0
    assert list(wire.chunks(made)) == [(Type.HEARTBEAT, n, b"x" * n) for n in range(9)]


@pytest.mark.parametrize("tail", [b"\x04", b"\x04\0\0\x03", b"\x04\0\0\x20abc", b"\x04\0\xff\xff"])
def test_chunks_end_where_the_rest_makes_no_sense(tail: bytes) -> None:
    made = bytes(HEADER) + wire.chunk(Type.HEARTBEAT, b"good") + tail
    assert list(wire.chunks(made)) == [(Type.HEARTBEAT, 0, b"good")]


def test_init_carries_its_cookie() -> None:
    assert wire.unpack_init(wire.pack_init(INIT)) == INIT
    assert wire.unpack_init(wire.pack_init(INIT._replace(cookie=b"biscuit"))).cookie == b"biscuit"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        bytes(15),
        wire.pack_init(INIT._replace(tag=0)),
        wire.pack_init(INIT._replace(outbound=0)),
        wire.pack_init(INIT._replace(inbound=0)),
    ],
)
def test_an_init_that_makes_no_sense_is_refused(value: bytes) -> None:
    with pytest.raises(Malformed):
        wire.unpack_init(value)


def test_parameters_are_found_again() -> None:
    data = wire.parameter(Parameter.COOKIE, b"abcde") + wire.parameter(Parameter.EXTENSIONS, b"\x82")
    assert list(wire.parameters(data + b"\0\1\0\2")) == [(7, b"abcde"), (0x8008, b"\x82")]


def test_parameters_of_any_length_are_found_again_and_end_where_the_rest_makes_no_sense() -> None:
    data = b"".join(wire.parameter(at, b"x" * at) for at in range(1, 10))
    for tail in (b"", b"\0\1\0", b"\0\1\0\3", b"\0\1\0\x09long"):
        assert list(wire.parameters(data + tail)) == [(at, b"x" * at) for at in range(1, 10)]


def test_a_sack_states_its_gaps_relative_to_what_came_whole() -> None:
    base = (1 << 32) + 5
    packed = wire.pack_sack(base, 4096, [(base + 2, base + 3), (base + 9, base + 9)], [base, base - 1], 1000)
    assert wire.unpack_sack(packed[4:]) == wire.Sack(5, 4096, ((2, 3), (9, 9)), 2)


def test_a_sack_leaves_out_what_has_no_room_and_what_is_too_far() -> None:
    gaps = [(2 * n, 2 * n) for n in range(1, 1000)]
    packed = wire.pack_sack(0, 0, gaps, [], 400)
    assert len(packed) <= 400
    assert wire.unpack_sack(packed[4:]).gaps == tuple(gaps[: len(wire.unpack_sack(packed[4:]).gaps)])
    assert wire.unpack_sack(wire.pack_sack(0, 0, [(2, 2), (4, 70_000)], [], 400)[4:]).gaps == ((2, 2),)


@pytest.mark.parametrize("gaps", [[(1, 2)], [(3, 2)], [(2, 4), (5, 6)], [(5, 6), (2, 3)], [(0, 0)]])
def test_a_sack_with_gaps_out_of_order_is_refused(gaps: list[tuple[int, int]]) -> None:
    body = struct.pack("!IIHH", 0, 0, len(gaps), 0) + b"".join(struct.pack("!HH", *gap) for gap in gaps)
    with pytest.raises(Malformed):
        wire.unpack_sack(body)


@pytest.mark.parametrize("cut", [0, 5, 11, 13])
def test_a_sack_that_is_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(Malformed):
        wire.unpack_sack(wire.pack_sack(0, 0, [(2, 2)], [], 400)[4:][:cut])


def test_numbers_count_on_over_the_wrap() -> None:
    near = (5 << 32) + 3
    for distance in (0, 1, -1, 1000, -1000, (1 << 31) - 1, -(1 << 31) + 1, -(1 << 31)):
        assert wire.unwrap((near + distance) & wire.WORD, near) == near + distance


def test_garbage_is_read_without_an_error() -> None:
    seeded = random.Random(7)
    for _ in range(3000):
        junk = seeded.randbytes(seeded.randrange(80))
        list(wire.chunks(bytes(HEADER) + junk))
        list(wire.parameters(junk))
        for read in (wire.unpack_init, wire.unpack_sack):
            with contextlib.suppress(Malformed):
                read(junk)


def test_a_sack_fills_its_room_with_gaps_and_eight_duplicates() -> None:
    gaps = [(2 * n, 2 * n) for n in range(1, 1000)]
    packed = wire.pack_sack(
        1 << 32, 7, [(a + (1 << 32), b + (1 << 32)) for a, b in gaps], [5 << 32] * 20, 400
    )
    assert len(packed) == 400
    assert struct.unpack_from("!BBH", packed) == (Type.SACK, 0, 400)
    assert wire.unpack_sack(packed[4:]) == wire.Sack(0, 7, tuple(gaps[:88]), 8)
    assert packed[-32:] == bytes(32)


def test_a_gap_is_stated_up_to_65535_ahead() -> None:
    packed = wire.pack_sack(0, 0, [(2, 65_535), (3, 65_536)], [], 400)
    assert wire.unpack_sack(packed[4:]).gaps == ((2, 65_535),)


def test_the_least_init_has_sixteen_bytes_and_no_cookie() -> None:
    value = struct.pack("!IIHHI", 1, 2, 1, 1, 5)
    assert wire.unpack_init(value) == Init(1, 2, 1, 1, 5, b"")
    offered = dict(wire.parameters(wire.pack_init(INIT)[16:]))
    assert offered == {Parameter.EXTENSIONS: bytes([Type.RE_CONFIG])}


def test_a_chunk_states_its_length_without_the_padding() -> None:
    assert wire.chunk(3, b"abc", 2) == bytes([3, 2, 0, 7]) + b"abc\0"
    assert wire.parameter(7, b"abc") == bytes([0, 7, 0, 7]) + b"abc\0"
    assert list(wire.chunks(bytes(HEADER) + b"\1\2\0\4")) == [(1, 2, b"")]
    assert list(wire.parameters(b"\0\1\0\4")) == [(1, b"")]


def test_a_sack_of_nothing_but_its_head_is_read_and_gaps_begin_at_two() -> None:
    assert wire.unpack_sack(struct.pack("!IIHH", 5, 6, 0, 0)) == wire.Sack(5, 6, ())
    assert wire.unpack_sack(struct.pack("!IIHHHHHH", 5, 6, 2, 0, 2, 2, 4, 4)).gaps == ((2, 2), (4, 4))


def test_chunks_and_parameters_bear_the_numbers_of_their_rfcs() -> None:
    """RFC 9260 section 3.2, RFC 6525 sections 3 and 4, RFC 4820 section 3, RFC 5061 section 4.2.7."""
    assert {kind.name: kind.value for kind in Type} == {
        "DATA": 0,
        "INIT": 1,
        "INIT_ACK": 2,
        "SACK": 3,
        "HEARTBEAT": 4,
        "HEARTBEAT_ACK": 5,
        "ABORT": 6,
        "SHUTDOWN": 7,
        "SHUTDOWN_ACK": 8,
        "ERROR": 9,
        "COOKIE_ECHO": 10,
        "COOKIE_ACK": 11,
        "SHUTDOWN_COMPLETE": 14,
        "RE_CONFIG": 130,
        "PAD": 132,
    }
    assert {kind.name: kind.value for kind in Parameter} == {
        "COOKIE": 7,
        "RESET_OUTGOING": 13,
        "RESET_RESPONSE": 16,
        "EXTENSIONS": 0x8008,
    }
    assert wire.chunk(Type.COOKIE_ACK) == bytes([11, 0, 0, 4])
