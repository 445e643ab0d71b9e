"""The seam that every route implements. These docstrings are the contract; `tests/contract` holds routes to it.

A route carries encoded frames one way. It neither opens nor makes them, knows no file and keeps no
ledger. Errors are the library's own: foreign ones are translated inside the route, once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from transfer.model import Frame, FrameId, FrameSet


class Limits(NamedTuple):
    """What a route can do. min_part and max_part: bytes of what it sends in one piece.

    window: encoded bytes it may hold that are not delivered yet (the caller's memory bound).
    acknowledges: whether `delivered` will ever say anything.
    """

    min_part: int
    max_part: int
    concurrency: int
    window: int
    acknowledges: bool


class Outbound(Protocol):
    """The sending end of a route, already open. One caller at a time; closing it twice is fine."""

    @property
    def limits(self) -> Limits: ...

    async def wanted(self) -> FrameSet:
        """What the far end lacks. Waits until it said so.

        May have open ranges (a receiver that does not know the manifest yet): intersect with what there is.
        Raises PeerLost, StoreUnreachable. Cancellable; ask again after a reconnect.
        """
        ...

    async def put(self, frame: Frame) -> None:
        """Take responsibility for one frame; waits while the window is full (backpressure).

        In the order of calls. Repeating a frame is harmless. A cancelled put may or may not have taken the frame.
        Raises PeerLost or StoreUnreachable once the route has given up (its own retries are inside);
        ValueError for a frame beyond max_part.
        """
        ...

    def delivered(self) -> AsyncIterator[Sequence[FrameId]]:
        """Batches of frames that the far end has safe, as they come; ends when the route does.

        A route whose limits say `acknowledges=False` yields nothing and ends at once.
        """
        ...

    async def finish(self) -> None:
        """Returns when every frame put is safe: acknowledged, or stored. Idempotent; nothing is put after it. Raises as `put`."""
        ...

    async def close(self, reason: str = "") -> None:
        """Let go of everything. Never raises; what was not finished is not promised. An empty reason is a good end."""
        ...


class Inbound(Protocol):
    """The receiving end of a route, already open."""

    @property
    def limits(self) -> Limits: ...

    def frames(self, wanted: FrameSet) -> AsyncGenerator[Frame, None]:
        """Encoded frames of `wanted`; ends when the far end has sent all it has.

        Chunks come as they come; manifest and trailer keep their place among them.

        Not yet verified: they may be damaged, repeated or not wanted. Bounded memory: the iterator
        stops reading while its consumer does. Close it (`aclose`) to let go early.
        Raises PeerLost, StoreUnreachable, ProtocolError.
        """
        ...

    async def ack(self, frames: Sequence[FrameId]) -> None:
        """Tell the sender that these are written and in the ledger. Nothing happens on a route that cannot."""
        ...

    async def close(self, reason: str = "") -> None:
        """As for Outbound."""
        ...
