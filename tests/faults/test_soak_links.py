"""A few seeds of the soak: our channel with real sockets, ICE and DTLS over links that lose, reorder and repeat (root)."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmarks.rig.link import build, why_not
from scripts.benchmarks.rig.soaking import drawn, soak

SEEDS = (5, 7, 9, 11, 15, 36, 41, 102)
"""Of what drew so far: much loss, much of it out of order, twice, small and odd MTUs, the handshake's last word lost."""


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_arrives_over_a_bad_link_is_what_was_sent(seed: int, tmp_path: Path) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    print(*drawn(seed))
    assert soak(seed, build(tmp_path))["seconds"] > 0
