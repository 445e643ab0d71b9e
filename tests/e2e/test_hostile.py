"""A hostile sender with a real ticket, through the real store: refused with 6, nothing written, memory bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator

import msgspec
import pytest
import zstandard
from helpers import Background, Two, complaint
from hostile import (
    BLOCK,
    INSIDE,
    TRAILER,
    Made,
    Raw,
    block,
    chunk,
    context_of,
    file,
    folder,
    link,
    store,
    trailer,
)

from transfer import chunks
from transfer.chunks import MIB
from transfer.codec import AS_IS, ZSTD, digest_of
from transfer.errors import DamagedData, XferError
from transfer.fetch import fetch
from transfer.model import FORMAT, Entry, EntryKind, FrameId, Head, IndexedFrame, Kind, ManifestBlock
from transfer.ticket import Ticket

PEAK = 350 * MIB
"""Bytes a fetch may take whatever it is told; an ordinary one takes about 100 MiB."""


@pytest.fixture(autouse=True)
def _watched(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    (two.tmp / "beside").write_bytes(b"must stay as it is")
    monkeypatch.setenv("XFER_HOME", two.there["XFER_HOME"])  # for fetches in this very process


@contextlib.contextmanager
def untouched(two: Two) -> Iterator[None]:
    """Nothing may stand under a final name afterwards, in the folder or beside it."""

    def beside() -> list[str]:
        return sorted(name for name in os.listdir(two.tmp) if not name.startswith(("stderr", "home")))

    before = beside()
    yield
    assert (two.arrived, beside()) == ([], before)
    assert (two.tmp / "beside").read_bytes() == b"must stay as it is"


def refused(
    two: Two, ticket: str, *, unsafe_links: bool = False, overwrite: bool = False, rename: bool = False
) -> tuple[int, str, str]:
    """Fetch it, by the library. Exit code, class and sentence of the error."""
    fetching = fetch(
        Ticket.parse(ticket), two.out, context=context_of(two), patience=20.0,
        unsafe_links=unsafe_links, overwrite=overwrite, rename=rename,
    )  # fmt: skip
    with untouched(two), pytest.raises(XferError) as caught:
        asyncio.run(fetching)
    error = caught.value
    return error.exit_code, type(error).__name__, error.what


def refused_within_bounds(two: Two, ticket: str) -> tuple[int, str, str]:
    """Fetch it, by a process whose memory is watched."""
    with untouched(two):
        got = two.fetch(ticket)
        said = complaint(got)
    assert got.peak < PEAK
    return said.code, said.kind, said.message


def whole(entries: list[Entry], content: bytes = b"") -> list[list[Made]]:
    """A job in which everything is right but, perhaps, the entries."""
    first = block(entries)
    pieces = [content[at : at + MIB] for at in range(0, len(content), MIB)]
    parts = [chunk(number, piece) for number, piece in enumerate(pieces)]
    return [[first, *parts, trailer(len(content), first, pieces)]]


def test_an_honest_job_made_this_way_is_fetched(two: Two) -> None:
    """So that the refusals below have the reason they claim."""
    content = os.urandom(2 * MIB + 5)
    segments = whole([folder(b"d"), file(b"d/f", len(content)), link(b"d/l", b"f")], content)
    assert two.fetch(store(two, segments)).code == 0
    assert (two.out / "d/l").read_bytes() == content


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([file(b"../beside")], "../beside has a part that is .."),
        ([file(b"a/../../beside")], "a/../../beside has a part that is .."),
        ([file(b"..")], ".. has a part that is .."),
        ([file(b".")], ". has a part that is ."),
        ([file(b"/etc/cron.d/x")], "/etc/cron.d/x is absolute"),
        ([file(b"a//b")], "a//b has an empty part"),
        ([file(b"a/")], "a/ has an empty part"),
        ([file(b"nul\0led")], "nul\\x00led has a NUL in it"),
        ([file(b"n" * 256)], "has a part that is too long"),
        ([file(b"/".join([b"d"] * 200))], "is nested too deeply"),
        ([file(b"same"), file(b"same")], "same stands in the manifest twice"),
        ([folder(b"same"), file(b"same")], "same stands in the manifest twice"),
        ([file(b"f"), file(b"f/below")], "f/below lies under something that is a file"),
        ([file(b"f/below"), file(b"f")], "f is said to be no folder, yet has something under it"),
        ([link(b"l", b"here"), file(b"l/x")], "l/x lies under something that is a link"),
        ([file(b"l/x"), link(b"l", b"here")], "l is said to be no folder, yet has something under it"),
        ([link(b"l", b"../beside")], "l is a link that leaves the folder: ../beside"),
        ([link(b"l", b"/etc/passwd")], "l is a link to the absolute path /etc/passwd"),
        ([folder(b"d"), link(b"d/a", b"."), link(b"d/b", b"a/../../x")], "d/b is a link that leaves the folder"),
        ([link(b"l", b"")], "l is a link with an impossible target"),
        ([file(b".xfer-abc/tree")], ".xfer-abc/tree looks like a temporary folder of xfer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_name_that_leads_astray_is_refused(two: Two, entries: list[Entry], why: str) -> None:
    code, kind, message = refused(two, store(two, whole(entries)))
    assert (code, kind) == (6, "UnsafeName")
    assert why in message
    assert two.left_over == []


@pytest.mark.parametrize("flag", ["unsafe_links", "overwrite", "rename"])
def test_a_link_and_a_child_of_it_are_refused_whatever_is_allowed(two: Two, flag: str) -> None:
    ticket = store(two, whole([link(b"l", os.fsencode(two.tmp)), file(b"l/beside")]))
    assert refused(two, ticket, **{flag: True})[:2] == (6, "UnsafeName")


def head(total: int | None = 0, entries: int = 1, blocks: int = 1, chunk_size: int = MIB) -> Head:
    return Head(FORMAT, chunk_size, total, entries, blocks)


@pytest.mark.parametrize(
    ("entries", "stated"),
    [
        ([file(b"f", 1 << 61)], head(1 << 61)),
        ([file(b"f", 1 << 62), file(b"g", 1 << 62)], head(1 << 63, entries=2)),
        ([file(b"f", -1)], head(-1)),
        ([file(b"f", 10)], head(1 << 50)),
        ([file(b"f", None)], head(5)),
        ([file(b"f", None), file(b"g", None)], head(None, entries=2)),
        ([file(b"f")], head(entries=2)),
        ([file(b"f")], head(entries=5_000_001, blocks=1221)),
        ([file(b"f")], head(entries=4096, blocks=1 << 20)),
        ([file(b"f")], head(chunk_size=1 << 40)),
        ([file(b"f")], head(chunk_size=0)),
        ([file(b"p" * 5000)], head()),
        ([Entry(b"d", EntryKind.DIRECTORY, 1 << 40, 0o755, 0)], head(1 << 40)),
        ([Entry(b"f", EntryKind.FILE, 0, 0o644, 1 << 63)], head()),
    ],
)
def test_impossible_numbers_in_a_manifest_are_refused(two: Two, entries: list[Entry], stated: Head) -> None:
    first = block(entries, stated)
    code, kind, message = refused(two, store(two, [[first, trailer(0, first, [])]]))
    assert (code, kind) == (6, "ProtocolError")
    assert "manifest" in message
    assert two.left_over == []


def test_a_size_that_no_disk_has_is_refused_before_a_byte(two: Two) -> None:
    first = block([file(b"f", 1 << 55)], Head(FORMAT, 16 * MIB, 1 << 55, 1, 1))
    code, kind, _ = refused_within_bounds(two, store(two, [[first, trailer(0, first, [])]]))
    assert (code, kind) == (5, "DiskFull")
    assert two.left_over == []


def test_millions_of_entries_that_never_come_cost_nothing(two: Two) -> None:
    first = block([file(b"f")] * 4096, Head(FORMAT, MIB, 0, 5_000_000, 1221))
    assert refused_within_bounds(two, store(two, [[first, trailer(0, first, [])]]))[:2] == (6, "CutShort")


def bomb(inside: int, stated: int | None = None, *, sized: bool = True) -> bytes:
    """A zstd frame of so many zeros, with a header that states as many bytes, or other ones."""
    packer = zstandard.ZstdCompressor(write_content_size=sized).compressobj(size=inside if sized else -1)
    body = b"".join(packer.compress(bytes(16 * MIB)) for _ in range(inside // (16 * MIB))) + packer.flush()
    return INSIDE.pack(ZSTD, inside if stated is None else stated, bytes(32)) + body


@pytest.mark.parametrize(
    ("frame", "inside"),
    [
        (FrameId(Kind.CHUNK, 0), bomb(1024 * MIB)),
        (FrameId(Kind.CHUNK, 0), bomb(1024 * MIB, MIB)),
        (FrameId(Kind.CHUNK, 0), bomb(1024 * MIB, MIB, sized=False)),
        (BLOCK, bomb(1024 * MIB)),
        (BLOCK, bomb(64 * MIB)),
        (TRAILER, bomb(64 * MIB, 4096)),
        (FrameId(Kind.CHUNK, 0), INSIDE.pack(AS_IS, 0xFFFFFFFF, bytes(32))),
        (FrameId(Kind.CHUNK, 0), INSIDE.pack(7, MIB, bytes(32)) + bytes(MIB)),
        (FrameId(Kind.CHUNK, 0), INSIDE.pack(ZSTD, MIB, bytes(32)) + b"no zstd"),
        (FrameId(Kind.CHUNK, 0), INSIDE.pack(AS_IS, MIB, bytes(32)) + bytes(MIB)),
        (FrameId(Kind.CHUNK, 0), b""),
    ],
    ids=["honest bomb", "lying bomb", "unsized bomb", "manifest bomb", "full manifest", "trailer bomb",
         "huge length", "unknown codec", "no zstd", "wrong digest", "nothing"],
)  # fmt: skip
def test_a_frame_that_is_a_bomb_or_a_lie_is_refused(two: Two, frame: FrameId, inside: bytes) -> None:
    first = block([file(b"f", MIB)])
    honest = {
        BLOCK: first,
        FrameId(Kind.CHUNK, 0): chunk(0, bytes(MIB)),
        TRAILER: trailer(MIB, first, [bytes(MIB)]),
    }
    made: list[Made] = [Raw(id, inside) if id == frame else honest[id] for id in honest]
    assert refused_within_bounds(two, store(two, [made]))[:2] == (6, "DamagedData")
    assert two.left_over == []


def test_a_manifest_of_64_mib_of_entries_is_read_or_refused_within_bounds(two: Two) -> None:
    """4,097 entries in a block: one more than there may be, each as long as may be."""
    many = [file(b"%04d" % n + b"/p" * 2000) for n in range(4097)]
    first = BLOCK, msgspec.msgpack.encode(ManifestBlock(head(entries=4097, blocks=2), many))
    assert refused_within_bounds(two, store(two, [[first, trailer(0, first, [])]]))[:2] == (
        6,
        "ProtocolError",
    )


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_stored_job_without_its_trailer_is_cut_short(two: Two, content: bytes) -> None:
    frames = whole([file(b"f", len(content))], content)[0][:-1]
    code, kind, message = refused(two, store(two, [frames]))
    assert (code, kind) == (6, "CutShort")
    assert message == "this transfer is stored, but its end or a part of it is missing"
    assert two.left_over == []


def test_a_stored_job_without_one_of_its_chunks_is_cut_short(two: Two) -> None:
    content = os.urandom(3 * MIB)
    frames = whole([file(b"f", 3 * MIB)], content)[0]
    del frames[2]
    assert refused(two, store(two, [frames]))[:2] == (6, "CutShort")


@pytest.mark.parametrize(
    ("total", "count", "digest"),
    [
        (2 * MIB, 2, bytes(32)),
        (2 * MIB, 1, None),
        (MIB, 2, None),
        (1 << 60, 1 << 32, None),
        (2 * MIB, 1 << 33, None),
        (-1, 2, None),
        (2 * MIB, 2, b"short"),
    ],
)
@pytest.mark.parametrize("known", [True, False], ids=["file", "stream"])
def test_a_trailer_that_lies_is_refused(
    two: Two, total: int, count: int, digest: bytes | None, known: bool
) -> None:
    size = 2 * MIB if known else None
    first = block([file(b"f", size)], head(size))
    pieces = [os.urandom(MIB), os.urandom(MIB)]
    right = chunks.root_digest([digest_of(first[1])], map(digest_of, pieces))
    last = TRAILER, chunks.encode_trailer(total, count, right if digest is None else digest)
    frames: list[Made] = [first, *(chunk(n, piece) for n, piece in enumerate(pieces)), last]
    code, kind, _ = refused(two, store(two, [frames]))
    assert code == 6
    assert kind in ("ProtocolError", "DamagedData", "CutShort")


def test_chunks_of_the_wrong_length_are_refused(two: Two) -> None:
    for raw in (b"", bytes(MIB - 1), bytes(MIB + 1), bytes(16 * MIB)):
        first = block([file(b"f", 2 * MIB)])
        frames: list[Made] = [
            first,
            chunk(0, raw),
            chunk(1, bytes(MIB)),
            trailer(2 * MIB, first, [raw, bytes(MIB)]),
        ]
        assert refused(two, store(two, [frames]))[:2] == (6, "DamagedData")
    for raw in (b"", bytes(MIB + 1)):
        first = block([file(b"f", None)], head(None))
        frames = [first, chunk(0, raw), trailer(len(raw), first, [raw])]
        assert refused(two, store(two, [frames]))[0] == 6


def test_a_short_chunk_in_the_middle_of_a_stream_is_refused(two: Two) -> None:
    first = block([file(b"f", None)], head(None))
    pieces = [b"a" * 10, b"b" * MIB]
    frames: list[Made] = [
        first,
        *(chunk(n, p) for n, p in enumerate(pieces)),
        trailer(MIB + 10, first, pieces),
    ]
    assert refused(two, store(two, [frames]))[:2] == (6, "ProtocolError")


def test_frames_and_segments_that_repeat_do_no_harm(two: Two) -> None:
    content = os.urandom(2 * MIB)
    frames = whole([file(b"f", 2 * MIB)], content)[0]
    got = two.fetch(store(two, [frames[:2], frames[:2], [*frames, *frames], frames]))
    assert got.summary.bytes == 2 * MIB
    assert (two.out / "f").read_bytes() == content


def test_of_two_chunks_under_one_number_neither_of_which_the_trailer_means_none_arrives(two: Two) -> None:
    frames = whole([file(b"f", MIB)], os.urandom(MIB))[0]
    one, other = (chunk(0, os.urandom(MIB)) for _ in range(2))
    assert refused(two, store(two, [[frames[0], one], [other, frames[2]]]))[:2] == (6, "DamagedData")


def test_of_two_chunks_under_one_number_the_one_that_the_trailer_means_arrives_or_none(two: Two) -> None:
    """Which of them is taken depends on which comes first; what is under the final name does not."""
    content = os.urandom(MIB)
    frames = whole([file(b"f", MIB)], content)[0]
    other = chunk(0, os.urandom(MIB))
    ticket = store(two, [[frames[0], other], frames[1:]])
    try:
        asyncio.run(fetch(Ticket.parse(ticket), two.out, context=context_of(two), patience=20.0))
    except DamagedData:
        assert two.arrived == []
    else:
        assert (two.out / "f").read_bytes() == content


def shift(rows: list[IndexedFrame]) -> list[IndexedFrame]:
    """As long as the object, but cut elsewhere."""
    changed = list(rows)
    changed[1] = msgspec.structs.replace(rows[1], length=rows[1].length - 1000)
    changed[2] = msgspec.structs.replace(rows[2], length=rows[2].length + 1000)
    return changed


@pytest.mark.parametrize(
    "alter",
    [
        shift,
        lambda rows: [msgspec.structs.replace(r, length=1 << 40) for r in rows],
        lambda rows: [msgspec.structs.replace(r, length=-5) for r in rows],
        lambda rows: [msgspec.structs.replace(r, length=0) for r in rows],
        lambda rows: [*rows, *rows],
        lambda rows: rows[:-1],
        lambda rows: [],
        lambda rows: [rows[0], *[rows[1]] * 300],
        lambda rows: [msgspec.structs.replace(r, kind=Kind.INDEX) for r in rows],
        lambda rows: [rows[0], rows[2], rows[1], *rows[3:]],
        lambda rows: [msgspec.structs.replace(r, index=r.index + (1 << 40)) for r in rows],
        lambda rows: [msgspec.structs.replace(r, index=-1) for r in rows],
    ],
    ids=["shifted", "huge", "negative", "zero", "twice", "too few", "empty", "too many", "indexes", "swapped",
         "far away", "below zero"],
)  # fmt: skip
def test_an_index_that_lies_is_refused(
    two: Two, alter: Callable[[list[IndexedFrame]], list[IndexedFrame]]
) -> None:
    frames = whole([file(b"f", 3 * MIB)], os.urandom(2 * MIB) + bytes(MIB))
    code, kind, _ = refused(two, store(two, frames, alter=alter))
    assert code == 6
    assert kind in ("DamagedData", "CutShort")


def test_to_stdout_only_verified_bytes_come_and_a_missing_end_is_no_success(two: Two) -> None:
    content = os.urandom(3 * MIB)
    frames = whole([file(b"f", 3 * MIB)], content)[0]
    bad = Raw(FrameId(Kind.CHUNK, 1), INSIDE.pack(AS_IS, MIB, bytes(32)) + bytes(MIB))
    for made, code in ((frames[:-1], 6), ([*frames[:2], bad, *frames[3:]], 6)):
        got: Background = two.start("fetch", "-o", "-", store(two, [made]), env=two.there)
        assert got.code == code
        assert content.startswith(got.stdout)
