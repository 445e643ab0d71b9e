"""Assembly of what is damaged, cut short, or says what cannot be."""

from __future__ import annotations

import msgspec
import pytest
from assembling import CHUNK, CODEC, FILES, FIRST, IN_ORDER, TOTAL, Receiver, chunk, encode, trailer

from transfer import assembly as assembly_module
from transfer.errors import CutShort, DamagedData, DestinationExists, ProtocolError, UnsafeName
from transfer.model import FORMAT, TRAILER, Entry, EntryKind, Frame, FrameId, Head, Kind, ManifestBlock


def damaged(frame: Frame) -> Frame:
    return Frame(frame.id, bytes(frame.data[:-1]) + bytes([frame.data[-1] ^ 1]))


# damage


@pytest.mark.parametrize("index", range(len(IN_ORDER)))
async def test_a_frame_damaged_once_stays_wanted_and_is_taken_when_it_comes_whole(
    receiver: Receiver, index: int
) -> None:
    frames = [damaged(f) if n == index else f for n, f in enumerate(IN_ORDER)]
    await receiver.take(frames)
    assert not receiver.complete()
    assert IN_ORDER[index].id in receiver.assembly.wanted
    assert receiver.assembly.damaged == {IN_ORDER[index].id}
    assert IN_ORDER[index].id not in receiver.acked
    await receiver.take(IN_ORDER)
    assert receiver.complete()
    assert receiver.files() == FILES


@pytest.mark.parametrize("index", range(len(IN_ORDER)))
async def test_a_frame_damaged_twice_is_damaged_data(receiver: Receiver, index: int) -> None:
    bad = damaged(IN_ORDER[index])
    with pytest.raises(DamagedData):
        await receiver.take([*IN_ORDER[:index], bad, bad])
    assert not receiver.complete()
    assert receiver.nothing_published()


async def test_a_chunk_of_another_length_than_the_manifest_says_is_damaged(receiver: Receiver) -> None:
    for length in (CHUNK - 1, 0):
        await receiver.take([IN_ORDER[0], encode(chunk(length % 2), b"x" * length)])
    assert receiver.acked == [FIRST]
    assert receiver.assembly.damaged == {chunk(0), chunk(1)}


async def test_a_chunk_beyond_the_jobs_end_is_never_looked_at(receiver: Receiver) -> None:
    await receiver.take([IN_ORDER[0], encode(chunk(6), b"x"), *IN_ORDER[1:]])
    assert receiver.files() == FILES


# trailers that lie


BLOCKS = [CODEC.decode(IN_ORDER[0]).raw]
DIGESTS = [CODEC.decode(f).digest for f in IN_ORDER[1:-1]]


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (trailer(TOTAL, [*DIGESTS[:-1], bytes(32)], BLOCKS), DamagedData),
        (trailer(TOTAL, DIGESTS[::-1], BLOCKS), DamagedData),
        (trailer(TOTAL, DIGESTS, [b"another manifest"]), DamagedData),
        (trailer(TOTAL + 1, DIGESTS, BLOCKS), ProtocolError),
        (trailer(TOTAL, DIGESTS[:-1], BLOCKS), ProtocolError),
        (encode(TRAILER, b"\x90"), ProtocolError),
    ],
)
async def test_a_trailer_that_lies_is_refused(receiver: Receiver, lie: Frame, error: type[Exception]) -> None:
    with pytest.raises(error):
        await receiver.take([*IN_ORDER[:-1], lie])
    assert not receiver.complete()
    assert receiver.nothing_published()


async def test_a_job_without_its_trailer_never_is_complete(receiver: Receiver) -> None:
    await receiver.take(IN_ORDER[:-1])
    assert not receiver.complete()
    assert list(receiver.assembly.wanted) == [TRAILER]


async def test_another_chunk_under_the_right_seal_is_found_by_the_trailer(receiver: Receiver) -> None:
    swapped = encode(chunk(0), b"!" * CHUNK)
    with pytest.raises(DamagedData, match="trailer"):
        await receiver.take([IN_ORDER[0], swapped, *IN_ORDER[2:]])
    assert not receiver.complete()


# hostile manifests


async def test_a_block_beyond_the_stated_number_is_refused(receiver: Receiver) -> None:
    stray = encode(FrameId(Kind.MANIFEST, 5), msgspec.msgpack.encode(ManifestBlock(None, [])))
    head = Head(FORMAT, CHUNK, 0, 5000, 2)
    first = encode(FIRST, msgspec.msgpack.encode(ManifestBlock(head, [])))
    with pytest.raises(ProtocolError, match="more blocks"):
        await receiver.take([stray, first])


async def test_a_manifest_without_end_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly_module, "MAX_MANIFEST", 10_000)
    entries = [Entry(b"x" * 90, EntryKind.FILE, 0, 0, 0)] * 20
    block = msgspec.msgpack.encode(ManifestBlock(None, entries))
    with pytest.raises(ProtocolError, match="longer"):
        await receiver.take(encode(FrameId(Kind.MANIFEST, n), block) for n in range(1, 50))
    assert len(receiver.acked) * len(block) <= 10_000


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (Entry(b"../../etc/passwd", EntryKind.FILE, 3, 0o644, 0), UnsafeName),
        (Entry(b"f", EntryKind.FILE, 4, 0o644, 0), ProtocolError),
    ],
)
async def test_a_manifest_that_must_not_be_begins_nothing(
    receiver: Receiver, entry: Entry, error: type[Exception]
) -> None:
    head = Head(FORMAT, CHUNK, 3, 1, 1)
    block = encode(FIRST, msgspec.msgpack.encode(ManifestBlock(head, [entry])))
    with pytest.raises(error):
        await receiver.take([block, encode(chunk(0), b"abc")])
    assert receiver.begun == 0
    assert not any(receiver.out.iterdir())


async def test_a_target_that_is_there_is_said_before_a_byte_is_written(receiver: Receiver) -> None:
    (receiver.out / "a").write_text("mine")
    with pytest.raises(DestinationExists):
        await receiver.take(IN_ORDER)
    assert (receiver.out / "a").read_text() == "mine"
    assert receiver.meter.done == 0


async def test_every_frame_gone_but_no_trailer_seen_is_cut_short(receiver: Receiver) -> None:
    """Whoever empties `wanted` by other means than a trailer gets no complete job out of it."""
    await receiver.take(IN_ORDER[:-1])
    receiver.assembly.wanted.discard(TRAILER)
    with pytest.raises(CutShort):
        await receiver.take([])
