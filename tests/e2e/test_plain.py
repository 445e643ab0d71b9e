"""Where the libraries are others than the fast route knows, aiortc alone carries the transfer, with either kind of peer."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import Two

from transfer.chunks import MIB


@pytest.mark.parametrize("whose", ["the sender's", "the receiver's", "both"])
def test_an_unknown_aioice_costs_speed_and_nothing_else(two: Two, tmp_path: Path, whose: str) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import aioice\naioice.__version__ = '9.0.0'\n")
    other = {"PYTHONPATH": str(folder)}
    source = two.file("f", 3 * MIB)
    here = two.here if whose == "the receiver's" else {**two.here, **other}
    there = two.there if whose == "the sender's" else {**two.there, **other}
    sending = two.send(source, "--via", "webrtc", "--fetches", "1", env=here)
    got = two.fetch(sending.ticket, env=there)
    assert got.summary.route == "webrtc"
    assert sending.summary.outcome == "receipt"
    assert (two.out / "f").read_bytes() == source.read_bytes()
    for run, plain in ((sending, whose != "the receiver's"), (got, whose != "the sender's")):
        assert ("aioice 9.0.0 is installed" in run.stderr) == plain
