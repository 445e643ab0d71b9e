"""A job that was begun with other files than these, on another host as a rule: whether these are the same, by content.

Nothing is taken on trust: names, kinds and sizes are compared with the stored manifest, bytes by the
digests in the store's indexes. Times and modes may differ; those of the stored manifest are the job's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

from transfer import chunks
from transfer.chunks import Manifest
from transfer.codec import digest_of, room
from transfer.errors import SourceChanged, UsageError
from transfer.meter import Meter
from transfer.model import MAX_ENTRIES_IN_BLOCK, Entry, EntryKind, FrameId, Kind
from transfer.paths import printable
from transfer.source import Tree

WORKERS = (os.cpu_count() or 1) + 1
AT_ONCE = 64
"""Chunks that are waited for together. Only as many as there are threads are in memory."""
_ANEW = "send the files that the transfer was begun with, or send these as a new transfer"


def manifest_of(local: Manifest, blocks: Mapping[int, bytes]) -> Manifest:
    """The job's manifest: its stored blocks, and the local ones where none is stored.

    Raises SourceChanged, naming the first entry that is not the same; UsageError for a stream's manifest.
    """
    entries = list(local.entries)
    head = local.head
    for number, raw in sorted(blocks.items()):
        block = chunks.read_block(raw, number)
        if block.head is not None:
            head = block.head
            if head.total is None:
                raise UsageError(
                    "that ticket is of a stream, which cannot be continued", hint="send it as a new transfer"
                )
        start = number * MAX_ENTRIES_IN_BLOCK
        end = start + MAX_ENTRIES_IN_BLOCK if number + 1 < head.blocks else len(local.entries)
        for stored, here in zip_longest(block.entries, local.entries[start:end]):
            _compare(stored, here, local)
        entries[start : start + len(block.entries)] = block.entries
    if (head.entries, head.total) != (local.head.entries, local.total):
        raise SourceChanged(
            f"{local.head.entries} entries with {local.total} bytes are here,"
            f" and {head.entries} with {head.total} are in the transfer that was begun",
            hint=_ANEW,
        )
    return Manifest(head, entries)


def _compare(stored: Entry | None, here: Entry | None, local: Manifest) -> None:
    if stored is None or here is None or stored.path != here.path:
        if stored is None or (here is not None and any(e.path == stored.path for e in local.entries)):
            assert here is not None
            raise _differs(here, "is not in the transfer that was begun")
        raise _differs(stored, "is in the transfer that was begun, and not here")
    if stored.kind is not here.kind:
        raise _differs(here, "is not of the same kind as in the transfer that was begun")
    if stored.size != here.size:
        raise _differs(here, f"has {here.size} bytes, and {stored.size} in the transfer that was begun")
    if stored.target != here.target:
        raise _differs(here, "leads elsewhere than in the transfer that was begun")


def _differs(entry: Entry, how: str) -> SourceChanged:
    kind = {EntryKind.DIRECTORY: "the folder ", EntryKind.LINK: "the link "}.get(entry.kind, "")
    return SourceChanged(f"{kind}{printable(entry.path)} {how}", hint=_ANEW)


async def compare(tree: Tree, manifest: Manifest, stored: Mapping[FrameId, bytes], meter: Meter) -> None:
    """Read every chunk that is stored and compare digests.

    Raises SourceChanged naming the file, or the files that share the chunk; SourceTrouble; ProtocolError for a
    chunk that the manifest does not have.
    """
    numbers = sorted(frame.index for frame in stored if frame.kind is Kind.CHUNK)

    def same(number: int) -> bool:
        raw = room(manifest.head.chunk_size).raw(manifest.chunk_length(number) or 0)
        tree.read_into(manifest.extents(number), raw)
        return digest_of(raw) == stored[FrameId(Kind.CHUNK, number)]

    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="compare")
    try:
        for at in range(0, len(numbers), AT_ONCE):
            share = 100 * at // len(numbers)
            meter.waiting(f"comparing what is here with what is stored, {share} % done", None)
            batch = numbers[at : at + AT_ONCE]
            alike = await asyncio.gather(*(loop.run_in_executor(pool, same, n) for n in batch))
            if not all(alike):
                raise _other_bytes(manifest, batch[alike.index(False)])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _other_bytes(manifest: Manifest, number: int) -> SourceChanged:
    touched = [manifest.entries[extent.entry] for extent in manifest.extents(number)]
    first, last = printable(touched[0].path), printable(touched[-1].path)
    where = first if len(touched) == 1 else f"one of the {len(touched)} files from {first} to {last}"
    return SourceChanged(f"{where} does not hold the bytes that are stored of it", hint=_ANEW)
