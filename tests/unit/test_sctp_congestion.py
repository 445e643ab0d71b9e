"""How fast our SCTP is, and how fair: in a simulated network, so that every figure is the same in each run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simnet import Network, Path, Wire, pair, transfer
from transfer.sctp.congestion import Adaptive, Controller
from transfer.sctp.cubic import Cubic

ETHERNET = 1432


def link(rate: float, trip: float, loss: float = 0.0, queue: float = 1.0) -> Path:
    """queue: of what the link holds in a round trip."""
    return Path(rate, trip / 2, max(int(rate / 8 * trip * queue), 60_000), loss, mtu=ETHERNET)


def share(path: Path, size: int) -> float:
    """Of the link's rate, from the first byte on."""
    _, _, seconds = transfer(path, [bytes(16384)] * (size // 16384))
    return size * 8 / seconds / path.rate


@pytest.mark.parametrize(
    ("trip", "loss", "least"),
    [
        (0.02, 0.0, 0.82),
        (0.02, 0.005, 0.8),
        (0.02, 0.02, 0.75),
        (0.08, 0.0, 0.65),
        (0.08, 0.005, 0.65),
        (0.08, 0.02, 0.6),
    ],
)
def test_a_link_is_filled_whatever_it_loses(trip: float, loss: float, least: float) -> None:
    assert share(link(50e6, trip, loss), 25_000_000) > least


def test_a_shallow_queue_is_not_flooded() -> None:
    a, _, _ = transfer(link(50e6, 0.08, queue=0.15), [bytes(16384)] * 1200)
    assert a.association.sent_again < 0.12 * 1200 * 16384


def test_a_full_queue_does_not_last() -> None:
    network = Network()
    path = link(20e6, 0.04, queue=4)
    there = Wire(network, path)
    a, _ = pair(network, there, Wire(network, Path(delay=0.02)), handshake=False)
    for _ in range(1500):
        a.association.send(0, 53, bytes(16384))
    a.stir()
    waits = []
    while network.now < 8:
        network.run(lambda: False, 0.01)
        if network.now > 2:
            waits.append(there.backlog)
    assert sum(waits) / len(waits) < 0.02, "half a round trip, on the average"


@pytest.mark.parametrize("queue", [0.3, 1.0])
@pytest.mark.parametrize("first", [0, 1])
def test_beside_a_cubic_flow_it_takes_at_most_half_more_than_its_share(first: int, queue: float) -> None:
    ours, theirs = shares(
        [Adaptive, Cubic] if first == 0 else [Cubic, Adaptive], link(10e6, 0.04, queue=queue)
    )[:: 1 if first == 0 else -1]
    assert ours <= 1.5 * (ours + theirs) / 2


@pytest.mark.parametrize(
    ("rate", "trip", "queue"),
    [
        (10e6, 0.04, 1.0),
        (10e6, 0.08, 0.3),
        (10e6, 0.08, 1.0),
        (10.3e6, 0.04, 1.0),
        (20e6, 0.04, 0.3),
        (20e6, 0.08, 0.3),
        (20e6, 0.08, 3.0),
    ],
)
def test_two_of_ours_share_a_link(rate: float, trip: float, queue: float) -> None:
    one, other = shares([Adaptive, Adaptive], link(rate, trip, queue=queue))
    assert max(one, other) <= 1.3 * min(one, other)


def shares(kinds: list[Callable[[int], Controller]], path: Path, seconds: float = 30.0) -> list[float]:
    """Bytes that each of several flows moves over one bottleneck; they begin 2 s apart, and count once all are there."""
    network = Network()
    there, back = Wire(network, path), Wire(network, Path(delay=path.delay))
    ends = [pair(network, there, back, handshake=False, controller=kind) for kind in kinds]
    moved = [0.0] * len(ends)

    def feed(number: int) -> None:
        a, b = ends[number]
        moved[number] += sum(map(len, b.got))
        b.got.clear()
        while a.association.buffered < 500_000:
            a.association.send(0, 53, bytes(16384))
        a.stir()
        network.at(network.now + 0.05, lambda: feed(number))

    for number in range(len(ends)):
        network.at(2.0 * number, lambda number=number: feed(number))  # type: ignore[misc]
    network.run(lambda: False, 2.0 * len(ends))
    before = list(moved)
    network.run(lambda: False, seconds)
    return [now - then for now, then in zip(moved, before, strict=True)]
