"""A scenario: what is sent, which way, when it is fetched, and what breaks when. All of it follows from a seed."""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

Kind = Literal["file", "tree", "stream"]
Route = Literal["auto", "s3", "webrtc"]
Start = Literal["with the send", "later", "once it is stored"]
Whom = Literal[
    "sender", "receiver", "broker", "nats", "store", "up", "sender's network", "receiver's network"
]
How = Literal["kill", "term", "pause", "cut", "stall"]
Clock = Literal["send", "sent", "received", "stored"]
MIB = 1 << 20
THRESHOLD = 100_000_000
"""Bytes from which on `auto` stores at once, and more than goes directly in a short time."""


class Source(NamedTuple):
    """size: bytes of a file or a stream, number of files of a tree. text: whether it compresses."""

    kind: Kind
    size: int
    text: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.size}{'-text' if self.text else ''}"

    @property
    def bytes(self) -> int:
        """About so many, as the network sees them."""
        return self.size * 900 if self.kind == "tree" else self.size // 5 if self.text else self.size


class Fault(NamedTuple):
    """clock, at: when: seconds since the first send began or since it was stored, or the share that is sent or received.

    lasts: seconds until what is paused, cut or down comes back. what: the wires that a network fault takes.
    """

    whom: Whom
    how: How
    clock: Clock
    at: float
    lasts: float
    what: tuple[str, ...] = ()

    def __str__(self) -> str:
        unit = "" if self.clock in ("sent", "received") else " s"
        how = self.how if self.how in ("kill", "term") else f"{self.how} for {self.lasts:.1f} s"
        wires = f" ({' and '.join(self.what)})" if self.what else ""
        return f"{how} {self.whom}{wires} at {self.clock} {self.at:.2f}{unit}"


class Scenario(NamedTuple):
    """wait, patience: seconds, as in the options. fetches: None for no limit. pace: bytes a second of the store's wires."""

    seed: int
    source: Source
    route: Route
    start: Start
    wait: float
    fetches: int | None
    receipt: bool
    patience: float
    pace: float
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        options = f"--via {self.route} --wait {self.wait:g}s --patience {self.patience:g}s"
        options += (f" --fetches {self.fetches}" if self.fetches else "") + (
            " --receipt" if self.receipt else ""
        )
        faults = "; ".join(map(str, self.faults))
        return f"seed {self.seed}: {self.source.name} {options}, fetched {self.start}; {faults}"


SOURCES = (
    Source("file", 120_000_000), Source("file", 0), Source("tree", 2000), Source("file", 5_000_000),
    Source("file", 120_000_000, text=True), Source("file", 1), Source("stream", 24 * MIB), Source("file", MIB),
    Source("file", 30_000_000), Source("file", 5_000_000, text=True), Source("tree", 60),
)  # fmt: skip
WHOM: tuple[Whom, ...] = (
    "sender", "receiver", "broker", "sender's network", "nats", "store", "receiver's network", "up",
)  # fmt: skip
_PROCESS: tuple[How, ...] = ("kill", "kill", "kill", "term", "pause")
_NETWORK: tuple[How, ...] = ("cut", "cut", "stall")


def scenario(seed: int) -> Scenario:
    """The first fault and the source go in turns, so that a row of seeds meets all of them; the rest is drawn."""
    draw = random.Random(seed)
    source = SOURCES[seed % len(SOURCES)]
    stream = source.kind == "stream"
    routes: tuple[Route, ...] = ("s3",) if stream else ("auto", "s3", "s3", "webrtc")
    route = draw.choice(routes)
    if route == "webrtc" and source.size >= THRESHOLD:
        route = "auto"
    starts: tuple[Start, ...] = ("with the send", "with the send", "later", "once it is stored")
    start = draw.choice(starts if route != "webrtc" else starts[:3])
    direct = route != "s3" and source.size < THRESHOLD and start != "once it is stored"
    more = draw.choices((*WHOM, "sender", "receiver"), k=draw.choice((0, 1, 1, 2, 3)))
    whom = [WHOM[seed % len(WHOM)], *more]
    if stream:  # it cannot be sent again, so its sender is not ended
        whom = ["receiver" if w == "sender" else w for w in whom]
    return Scenario(
        seed=seed,
        source=source,
        route=route,
        start=start,
        wait=0.0 if route == "s3" else 8.0 if route == "webrtc" else draw.choice((1.0, 4.0)),
        fetches=draw.choice((1, 1, None)),
        receipt=start != "once it is stored" and draw.random() < 0.3,
        patience=60.0 if stream else draw.choice((2.0, 12.0, 30.0)),
        pace=max(1_000_000.0, source.bytes / draw.uniform(1.0, 3.0)),
        faults=tuple(_fault(draw, w, direct) for w in whom),
    )


def _fault(draw: random.Random, whom: Whom, direct: bool) -> Fault:
    """direct: the peers meet, which is over in an instant and stores nothing."""
    what: tuple[str, ...] = ()
    if whom.endswith("network"):
        how = draw.choice(_NETWORK)
        what = draw.choice((("nats", "store"), ("nats", "store"), ("nats",), ("store",)))
    else:
        how = draw.choice(_PROCESS if whom != "up" else ("kill", "kill", "term"))
    clocks: tuple[Clock, ...] = ("send", "sent", "sent", "received", "received", "stored")
    if whom.startswith("sender"):
        clocks = ("send", "sent", "sent", "sent", "stored")
    elif whom.startswith("receiver"):
        clocks = ("send", "received", "received", "received")
    clock = draw.choice(clocks)
    if clock == "stored" and direct:
        clock = "send"
    if clock == "send":
        at = draw.uniform(0.2, 1.5 if direct else 4)
    elif clock == "stored":
        at = draw.choice((0.0, 0.0, draw.random()))
    else:
        at = draw.choice((draw.random(), draw.random(), 1.0))
    return Fault(whom, how, clock, at, draw.uniform(0.2, 4), what)
