"""What a source looked like when its job was made: kept in the ledger, so that a later run can name what changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import zstandard

from transfer.model import EntryKind
from transfer.paths import printable
from transfer.source import Facts, Tree

LEVEL = 1
"""Of zstd: names, inodes and times of 100,000 files are 7.4 MB and become 2.5 MB; higher levels gain nothing."""
TOGETHER = 1 << 14
"""Entries in a piece: what is packed needs little memory besides itself."""
_KINDS = {EntryKind.FILE: "", EntryKind.DIRECTORY: "the folder ", EntryKind.LINK: "the link "}


class Seen(NamedTuple):
    """An entry as a scan saw it."""

    kind: EntryKind
    mode: int
    facts: Facts


class _Columns(msgspec.Struct, frozen=True, array_like=True):
    """Like beside like compresses best. facts: a list for each field of Facts."""

    paths: list[bytes]
    kinds: list[EntryKind]
    modes: list[int]
    facts: list[list[int]]


def pack(tree: Tree) -> bytes:
    """Its entries with their facts, for `difference`."""
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    pieces = []
    for at in range(0, len(tree.entries), TOGETHER):
        entries, facts = tree.entries[at : at + TOGETHER], tree.facts[at : at + TOGETHER]
        columns = _Columns(
            [entry.path for entry in entries],
            [entry.kind for entry in entries],
            [entry.mode for entry in entries],
            [list(column) for column in zip(*facts, strict=True)],
        )
        pieces.append(compressor.compress(msgspec.msgpack.encode(columns)))
    return msgspec.msgpack.encode(pieces)


def difference(packed: bytes, tree: Tree) -> str:
    """What is not as it was: `notes/a.txt has changed`.

    The first by name; a folder or link that was there and still is only if nothing else explains it.
    """
    found = min(_differences(_unpack(packed), _seen(tree)), default=None)
    return "what is to be sent has changed" if found is None else found[2]


def only_touched(packed: bytes, tree: Tree) -> bool:
    """Whether the bytes may still be the same: nothing is new, gone, or of another kind or size."""
    before, now = _unpack(packed), _seen(tree)
    return before.keys() == now.keys() and all(
        was.kind is now[path].kind
        and (was.kind is not EntryKind.FILE or was.facts.size == now[path].facts.size)
        for path, was in before.items()
    )


def _differences(before: dict[bytes, Seen], now: dict[bytes, Seen]) -> Iterator[tuple[bool, bytes, str]]:
    """Each: whether it may be a mere consequence, its path, the sentence."""
    for path, was in before.items():
        seen = now.get(path)
        if seen != was:
            kind = was.kind
            said = "is gone" if seen is None else "has changed"
            yield seen is not None and kind is not EntryKind.FILE, path, _sentence(kind, path, said)
    for path, seen in now.items():
        if path not in before:
            yield False, path, _sentence(seen.kind, path, "is new")


def _sentence(kind: EntryKind, path: bytes, said: str) -> str:
    return f"{_KINDS[kind]}{printable(path)} {said}"


def _seen(tree: Tree) -> dict[bytes, Seen]:
    entries = zip(tree.entries, tree.facts, strict=True)
    return {entry.path: Seen(entry.kind, entry.mode, facts) for entry, facts in entries}


def _unpack(packed: bytes) -> dict[bytes, Seen]:
    decompressor = zstandard.ZstdDecompressor()
    found: dict[bytes, Seen] = {}
    for piece in msgspec.msgpack.decode(packed, type=list[bytes]):
        columns = msgspec.msgpack.decode(decompressor.decompress(piece), type=_Columns)
        rows = zip(columns.paths, columns.kinds, columns.modes, *columns.facts, strict=True)
        found.update((path, Seen(kind, mode, Facts(*facts))) for path, kind, mode, *facts in rows)
    return found
