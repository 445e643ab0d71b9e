"""What is measured of the direct route: rows, with how much is moved and the project's own goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .direct import WORMHOLE
from .link import LOOPBACK, Shape
from .tally import Wanted

AIORTC = "aiortc"
ETHERNET, LARGE = 1432, 16384
"""Bytes of the largest SCTP packet that the receiver takes: what fills an Ethernet frame, and what DTLS can hold."""
MB = 1_000_000
LINK = Shape("100-20-0", 100e6, 0.020)
BWLIMIT = "12M"
"""As much as LINK carries."""
TRIP = Shape("100-80-0", 100e6, 0.080)
FIRST, FAILOVER, MEMORY = 20 * MB, 90 * MB, 2_000 * MB
"""Bytes of the file."""
SETUP_GOAL, FIRST_GOAL, FAILOVER_GOAL = 0.25, 0.6, 3.0
"""Seconds. The first is for TRIP."""
MEMORY_GOAL = 100.0
"""MB."""
SHARES = {
    (100e6, 60 * MB): {
        (20, 0.0): 0.85,
        (20, 0.5): 0.7,
        (20, 2.0): 0.7,
        (80, 0.0): 0.75,
        (80, 0.5): 0.7,
        (80, 2.0): 0.7,
    },
    (1e9, 99 * MB): {(20, 0.0): 0.56, (20, 2.0): 0.44, (80, 0.0): 0.36, (80, 2.0): 0.176},
}
"""By bit/s and bytes, by round trip (ms) and loss (per cent): the share of the rate that the channel should carry."""
TIMES = {
    (20, 0.0): 0.9,
    (20, 0.5): 8.0,
    (20, 2.0): 10.0,
    (80, 0.0): 0.9,
    (80, 0.5): 10.0,
    (80, 2.0): 10.0,
}
"""By round trip (ms) and loss (per cent) at 100 Mbit/s: times as fast as magic-wormhole, where its TCP is under cubic. Where
it is under another, which random losses do not stop, the goal is to be ahead."""


@dataclass(frozen=True)
class ChannelRow:
    """size: bytes for us; plain: for plain aiortc, which needs minutes where packets are lost; 0: not run.

    options: of channel.py; ours: only for us.
    """

    name: str
    shape: Shape
    size: int
    plain: int
    wanted: tuple[Wanted, ...]
    ours: tuple[str, ...] = ("--largest", str(ETHERNET))
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class WholeRow:
    """congestion: of TCP, which the others use. rounds: at most; it takes minutes where packets are lost."""

    name: str
    shape: Shape
    size: int
    wanted: Wanted
    congestion: str
    rounds: int = 5


def channel_rows() -> list[ChannelRow]:
    unaided = ("--largest", str(ETHERNET), "--no-batches")
    tenfold, fourfold = Wanted(10.0, AIORTC), Wanted(4.0, AIORTC)
    rows = [
        ChannelRow("loopback", LOOPBACK, 99 * MB, 40 * MB, (Wanted(150.0), tenfold)),
        ChannelRow(
            "loopback, large packets", LOOPBACK, 99 * MB, 0, (Wanted(300.0),), ("--largest", str(LARGE))
        ),
        ChannelRow("loopback, without GSO and GRO", LOOPBACK, 99 * MB, 40 * MB, (fourfold,), unaided),
    ]
    for (rate, size), cells in SHARES.items():
        for (trip, loss), share in cells.items():
            shape = Shape(f"{rate / 1e6:.0f}-{trip}-{loss:g}", rate, trip / 1e3, loss)
            wanted = (Wanted(round(share * rate / 8e6, 1)),)
            rows.append(ChannelRow(str(shape), shape, size, 4 * MB if loss else 20 * MB, wanted))
    return rows


def turn_row(kind: str, url: str) -> ChannelRow:
    """kind: how the server is spoken to."""
    name, wanted = f"{kind} to the server, loopback", (Wanted(1.5, AIORTC),)
    return ChannelRow(name, LOOPBACK, 40 * MB, 20 * MB, wanted, options=("--turn", url))


def whole_rows(congestions: Sequence[str], machines: str) -> list[WholeRow]:
    """congestions: those that are measured on links. machines: what TCP on loopback is under."""
    rows = [
        WholeRow(f"loopback, {size} MB, TCP {machines}", LOOPBACK, size * MB, Wanted(2.0, WORMHOLE), machines)
        for size in (1, 10, 90)
    ]
    for (trip, loss), times in TIMES.items():
        shape = Shape(f"100-{trip}-{loss:g}", 100e6, trip / 1e3, loss)
        size, rounds = (40, 1) if loss else (90, 3)
        for congestion in congestions:
            name = f"{shape}, {size} MB, TCP {congestion}"
            wanted = Wanted(times if congestion == "cubic" else min(times, 1.0), WORMHOLE)
            rows.append(WholeRow(name, shape, size * MB, wanted, congestion, rounds))
    return rows
