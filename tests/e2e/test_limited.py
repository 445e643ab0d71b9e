"""`--bwlimit` on both routes and both sides: no faster than asked for, and every byte arrives."""

from __future__ import annotations

import itertools

import pytest
from helpers import Background, Two

from transfer.events import Progress

SIZE = 3_000_000
RATE = ("--bwlimit", "1M")
LEAST, MOST = 2.5, 12.0
"""Seconds: three, but for the pieces under way; the most is for a busy machine."""


def kept(ended: Background, route: str) -> None:
    summary = ended.summary
    assert summary.route == route
    assert summary.bytes == SIZE
    assert LEAST < summary.seconds < MOST


def steady(ended: Background) -> None:
    """It was told as it went: the one part that this is did not come all at once."""
    far = [event.done + event.under_way for event in ended.events if isinstance(event, Progress)]
    assert far[-1] == SIZE
    assert len(set(far)) > 4
    assert max(after - before for before, after in itertools.pairwise([0, *far])) < SIZE / 2


@pytest.mark.long
def test_bwlimit_is_kept_on_both_routes_by_either_side(two: Two) -> None:
    """All at once: each has a rate of its own."""
    files = [two.file(f"f{n}", SIZE) for n in range(4)]
    outs = [two.tmp / f"out-{n}" for n in range(4)]
    for out in outs:
        out.mkdir()
    slow_sender = two.send(files[0], "--via", "webrtc", *RATE)
    sender = two.send(files[1], "--via", "webrtc")
    stored = two.store(files[2])
    slow_upload = two.send("--wait", "0", files[3], *RATE)
    peer = two.fetch(slow_sender.ticket, "-o", outs[0])
    slow_peer = two.fetch(sender.ticket, "-o", outs[1], *RATE)
    slow_download = two.fetch(stored, "-o", outs[2], *RATE)
    kept(slow_upload, "s3")
    kept(slow_download, "s3")
    steady(slow_upload)
    steady(slow_download)
    kept(peer, "webrtc")
    kept(slow_peer, "webrtc")
    assert two.fetch(slow_upload.ticket, "-o", outs[3]).summary.bytes == SIZE
    for out, file in zip(outs, files, strict=True):
        assert (out / file.name).read_bytes() == file.read_bytes()
