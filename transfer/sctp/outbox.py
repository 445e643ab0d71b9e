"""What is to be said besides data: chunks that share packets, and packets of one chunk."""

from __future__ import annotations

from transfer.sctp import packet as wire
from transfer.sctp.packet import HEADER, Header, Type

MOST_ANSWERS = 16
"""Chunks that may wait when an answer is added: whoever asks more than that at once is not answered."""


class Outbox:
    """header: of every packet to the peer, once its tag is known."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.shared: list[bytes] = []
        """Chunks."""
        self.alone: list[bytes] = []
        """Packets."""

    def say(self, kind: Type, value: bytes) -> None:
        self.shared.append(wire.chunk(kind, value))

    def answer(self, kind: Type, value: bytes) -> None:
        self.say(kind, value)
        del self.shared[MOST_ANSWERS:]

    def say_alone(self, kind: Type, value: bytes = b"") -> None:
        self.alone.append(self.header.packet(wire.chunk(kind, value)))

    def take_alone(self) -> list[bytes]:
        taken, self.alone = self.alone, []
        return taken

    def take_shared(self, packet_size: int) -> list[bytes]:
        """In as few packets of that size as hold them in their order."""
        made: list[bytes] = []
        bundle: list[bytes] = []
        left = 0
        for chunk in self.shared:
            if bundle and len(chunk) > left:
                made.append(self.header.packet(*bundle))
                bundle = []
            left = (left if bundle else packet_size - HEADER) - len(chunk)
            bundle.append(chunk)
        if bundle:
            made.append(self.header.packet(*bundle))
        self.shared.clear()
        return made
