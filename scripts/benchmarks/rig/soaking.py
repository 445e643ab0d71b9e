"""Transfers over links that a seed draws: what arrives must be what was sent."""

from __future__ import annotations

import random
from pathlib import Path

from . import pair
from .link import Shape

END = str(Path(__file__).with_name("exact.py"))
LONGEST = 150.0
"""Seconds that one may take; most take less than ten."""
ON_THE_WIRE = 8.0
"""Seconds at the link's rate that its bytes take at most."""


def drawn(seed: int) -> tuple[Shape, int]:
    """A link, from 1 Mbit/s to 1 Gbit/s and from 1 to 300 ms, and how many bytes cross it."""
    dice = random.Random(seed)

    def share(little: float, much: float) -> float:
        return dice.choice((0.0, dice.uniform(0.0, little), dice.uniform(little, much)))

    rate = 10 ** dice.uniform(6, 9)
    shape = Shape(
        f"seed-{seed}",
        rate,
        rtt=10 ** dice.uniform(-3, -0.52),
        loss=share(1, 8),
        reorder=share(1, 20),
        duplicate=share(1, 10),
        mtu=dice.choice((1280, 1500, 9000, dice.randint(1280, 9000))),
        buffer=dice.choice((0.25, 0.5, 1.0, 2.0, 4.0)),
    )
    return shape, int(min(10 ** dice.uniform(5.7, 6.6), rate / 8 * ON_THE_WIRE))


def soak(seed: int, program: Path) -> dict[str, float]:
    """`seconds` and `setup` of one transfer. program: of the link. Raises OSError with what went wrong."""
    shape, size = drawn(seed)
    with pair.ends(shape, program, seed) as where:
        return pair.run(lambda role: [END, role, str(seed), str(size)], *where, LONGEST)
