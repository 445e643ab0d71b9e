"""A network in one process with a clock of its own: seeded links between SCTP associations, hundreds of runs in seconds."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from transfer.sctp.association import Association, State

UDP = 37 + 28 + 38
"""Bytes that each SCTP packet has around it on the wire: DTLS, UDP and IP, Ethernet."""
SPIN = 50
"""Polls of one end at one moment without a packet: more is a busy loop."""


@dataclass(frozen=True)
class Path:
    """rate: bit/s, 0: none. delay: seconds one way. queue: bytes. The others: shares. mtu: bytes of an SCTP packet."""

    rate: float = 0.0
    delay: float = 0.010
    queue: int = 1 << 30
    loss: float = 0.0
    reordering: float = 0.0
    duplicates: float = 0.0
    mtu: int = 1 << 16


class Wire:
    """One direction of a path; several associations may share it."""

    def __init__(self, network: Network, path: Path) -> None:
        self._network, self.path = network, path
        self._free = 0.0
        self.carried = self.dropped = self.lost = 0
        self.waited = 0.0

    @property
    def backlog(self) -> float:
        """Seconds that a packet coming now would wait."""
        return max(0.0, self._free - self._network.now)

    def carry(self, packet: bytes, arrive: Callable[[bytes], None]) -> None:
        network, path = self._network, self.path
        if len(packet) > path.mtu:
            return
        starts = max(self._free, network.now)
        if path.rate:
            if (starts - network.now) * path.rate / 8 > path.queue:
                self.dropped += 1
                return
            self.waited = max(self.waited, starts - network.now)
            self._free = starts + (len(packet) + UDP) * 8 / path.rate
        self.carried += 1
        if network.random.random() < path.loss:
            self.lost += 1
            return
        due = (self._free if path.rate else network.now) + path.delay
        if network.random.random() < path.reordering:
            due += network.random.random() * path.delay
        network.at(due, lambda: arrive(packet))
        if network.random.random() < path.duplicates:
            network.at(due + network.random.random() * path.delay, lambda: arrive(packet))


class Network:
    """now: seconds."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, moment: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(moment, self.now), next(self._count), call))

    def run(self, until: Callable[[], bool], most: float) -> bool:
        """Let time pass until something is true, so many seconds at most. Whether it became true."""
        end = self.now + most
        while not until():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return until()
            self.now, _, call = heapq.heappop(self._events)
            call()
        return True


class End:
    """One end of a connection: an association whose packets go over a wire.

    got: what has arrived. reading: whether its user takes messages and gives their room back.
    """

    def __init__(self, network: Network, association: Association, wire: Wire) -> None:
        self.association = association
        self.got: list[bytes] = []
        self.reading = True
        self.peer: End | None = None
        self._network, self._wire = network, wire
        self._wakes = 0
        self._wake_at = float("inf")
        self._still = (0.0, 0)

    def receive(self, packet: bytes) -> None:
        self.association.receive(packet, self._network.now)
        if self.reading:
            for message in self.association.take():
                self.got.append(message.data)
                self.association.free(message)
        self.stir()

    def stir(self, *, woken: bool = False) -> None:
        """Send what is to be sent, and come again when the association says."""
        now = self._network.now
        assert self.peer is not None
        packets = self.association.poll(now)
        for packet in packets:
            self._wire.carry(packet, self.peer.receive)
        deadline = self.association.deadline(now)
        if woken:
            self._count(now, bool(packets))
        if deadline is not None and not (now < self._wake_at <= deadline):
            self._wakes += 1
            number = self._wakes
            self._wake_at = max(deadline, now)
            self._network.at(deadline, lambda: self._woken(number))

    def _woken(self, number: int) -> None:
        if number == self._wakes:
            self._wake_at = float("inf")
            self.stir(woken=True)

    def _count(self, now: float, packets: bool) -> None:
        at, still = self._still
        self._still = (now, still + 1) if at == now and not packets else (now, 0)
        assert self._still[1] < SPIN, "busy loop"


def pair(
    network: Network,
    there: Wire,
    back: Wire,
    make: Callable[..., Association] = Association,
    *,
    handshake: bool = True,
    **options: object,
) -> tuple[End, End]:
    """Two ends that are connecting (handshake), or connected."""
    a, b = (End(network, make(network.random.randbytes, **options), wire) for wire in (there, back))
    a.peer, b.peer = b, a
    if handshake:
        a.association.start(network.now)
    else:
        a.association.agree(b.association.init, network.now)
        b.association.agree(a.association.init, network.now)
    a.stir()
    b.stir()
    return a, b


def transfer(
    path: Path, messages: list[bytes], *, seed: int = 1, most: float = 120.0, **options: object
) -> tuple[End, End, float]:
    """Carry messages from one end to the other. The ends, and seconds from the first byte to the last acknowledgement."""
    network = Network(seed)
    there, back = Wire(network, path), Wire(network, path)
    a, b = pair(network, there, back, **options)  # type: ignore[arg-type]
    assert network.run(lambda: a.association.state is b.association.state is State.ESTABLISHED, 30), (
        "no handshake"
    )
    began = network.now
    for message in messages:
        a.association.send(0, 53, message)
    a.stir()
    done = network.run(lambda: len(b.got) == len(messages) and not a.association.unacknowledged, most)
    assert done, (
        f"{len(b.got)} of {len(messages)} messages after {most} s: {a.association.reason or b.association.reason}"
    )
    return a, b, network.now - began
