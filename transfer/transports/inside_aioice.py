"""What of aioice is not public, or nowhere described: the place to look at when a new version comes.

Whoever needs aioice imports it from here. Raises XferError if another version is installed than CHECKED; then `plain`
carries the transfer.

- It imports dnspython for names that only browsers use (80 ms). A stand-in for that module of aioice's takes its place,
  and becomes the real one when the first such name comes.
- It starts to send only when all candidates are gathered, which a dead STUN server delays by 5 s, and it pairs no local
  candidate that is found later. `Connection` takes candidates whenever they are found, and shows the pairs.
- `RelayClient` tells which channel of a relay is bound to whom, for packets that aioice is not to frame one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.machinery
import re
import sys
import time
import types
from collections.abc import Callable
from typing import Any

from transfer.errors import XferError

CHECKED = "0.13."
"""The versions whose insides were looked at: how these begin."""


def _without_mdns() -> None:
    if "aioice" in sys.modules:
        return
    light = types.ModuleType("aioice.mdns")
    name = re.compile(r"[a-zA-Z0-9-]{1,63}\.local")

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        found = importlib.machinery.PathFinder.find_spec("aioice.mdns", sys.modules["aioice"].__path__)
        assert found is not None
        assert found.loader is not None
        vars(light).pop("__getattr__", None)
        found.loader.exec_module(light)
        return getattr(light, attribute)

    vars(light).update(
        is_mdns_hostname=lambda host: name.fullmatch(host) is not None, MDnsProtocol=object, __getattr__=load
    )
    sys.modules["aioice.mdns"] = light


_without_mdns()
try:
    import aioice
    from aioice import Candidate
    from aioice.candidate import candidate_foundation, candidate_priority
    from aioice.ice import CandidatePair, StunProtocol, server_reflexive_candidate
    from aioice.stun import Message, TransactionError
    from aioice.turn import DEFAULT_ALLOCATION_LIFETIME, TurnClientMixin, TurnTransport
except ImportError as missing:
    raise XferError(f"the installed aioice is another than the direct route knows: {missing}") from None

if not aioice.__version__.startswith(CHECKED):
    raise XferError(f"aioice {aioice.__version__} is installed, but the direct route was made for {CHECKED}x")

__all__ = [
    "Candidate",
    "CandidatePair",
    "Connection",
    "RelayClient",
    "StunProtocol",
    "TransactionError",
    "TurnTransport",
    "allocate",
    "local_candidate",
    "server_reflexive_candidate",
]

BIND_EVERY, BIND_AGAIN = 240, 20
"""Seconds until a channel is bound again, and until that is repeated if it failed.

A channel lasts 600 s, but the permission that comes with it 300 s. Source: RFC 8656 sections 9, 12.
"""


class Connection(aioice.Connection):
    """Checks pairs of candidates as they come. changed: called when there is news of them, with the pair that the peer
    asked on, if it did and proved who it is."""

    def __init__(self, *, controlling: bool, changed: Callable[[CandidatePair | None], None]) -> None:
        super().__init__(ice_controlling=controlling)
        self._changed = changed

    @property
    def ends(self) -> list[StunProtocol]:
        """What packets come to: one for each local candidate that was added."""
        return self._protocols

    @property
    def pairs(self) -> list[CandidatePair]:
        """The likeliest first."""
        return self._check_list

    @property
    def working(self) -> CandidatePair | None:
        """The pair that was agreed on, else the first that is known to work in both directions."""
        succeeded = (pair for pair in self._check_list if pair.state is CandidatePair.State.SUCCEEDED)
        return self._nominated.get(1) or next(succeeded, None)

    def knows(self, host: str, port: int) -> bool:
        """Whether the peer named that address, or proved to be there."""
        return any(
            candidate._network_host == host and candidate.port == port
            for candidate in self._remote_candidates
        )

    def begin_local(self) -> None:
        """No candidate is gathered by aioice itself: they are added."""
        self._local_candidates_start = True

    def add_local(self, end: StunProtocol) -> None:
        """What packets come to, with its candidate. One that comes late is paired with what is known of the peer."""
        self._protocols.append(end)
        self._local_candidates.append(end.local_candidate)
        if self._early_checks_done:  # else connect() is still to pair it
            for remote in self.remote_candidates:
                self._pair_remote_candidate(remote)
            self.sort_check_list()

    def end_local(self) -> None:
        """`connect` need not wait for more; `add_local` may be called nevertheless."""
        self._local_candidates_end = True

    def check_complete(self, pair: CandidatePair) -> None:
        super().check_complete(pair)
        self._changed(None)

    def check_incoming(self, message: Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        super().check_incoming(message, addr, protocol)
        asked = (p for p in self._check_list if p.protocol is protocol and p.remote_addr == addr)
        self._changed(next(asked, None))


class RelayClient(TurnClientMixin):
    """The client of one allocation at a relay.

    server, receiver, transport: the relay's address, what packets are handed on to, what they come by; see `allocate`.
    """

    server: tuple[str, int]
    receiver: Any
    transport: Any

    def __init__(self, server: tuple[str, int], username: str, password: str) -> None:
        super().__init__(server, username, password, DEFAULT_ALLOCATION_LIFETIME, BIND_EVERY)
        self._binding: asyncio.Task[None] | None = None

    def say(self, data: bytes) -> None:
        """One message to the relay."""
        raise NotImplementedError

    def channel(self, address: tuple[Any, ...]) -> int | None:
        """The one that is bound to that peer; None before. It is bound again in time."""
        channel: int | None = self.peer_to_channel.get(address)
        now = time.time()  # aioice's clock for it
        if channel is not None and now > self.channel_refresh_at[channel]:
            self.channel_refresh_at[channel] = now + BIND_AGAIN
            self._binding = asyncio.create_task(self._bind_again(channel, address))
        return channel

    def peer(self, channel: int) -> tuple[str, int] | None:
        """Whom it is bound to."""
        peer: tuple[str, int] | None = self.channel_to_peer.get(channel)
        return peer

    async def _bind_again(self, channel: int, address: tuple[Any, ...]) -> None:
        with contextlib.suppress(ConnectionError, TransactionError):
            await self.channel_bind(channel, address)
            self.channel_refresh_at[channel] = time.time() + BIND_EVERY

    def _send(self, data: bytes) -> None:
        self.say(data)


async def allocate(transport: TurnTransport, end: StunProtocol) -> None:
    """An address at the relay, whose packets come to `end`. Raises OSError, TransactionError, KeyError."""
    await transport._connect(end)


def local_candidate(
    kind: str, address: tuple[str, int], related: tuple[str | None, int | None] = (None, None)
) -> Candidate:
    """kind: `host` or `relay`. related: the address that it was made from. Source: RFC 8839 section 5.1."""
    return Candidate(
        foundation=candidate_foundation(kind, "udp", address[0]),
        component=1,
        transport="udp",
        priority=candidate_priority(1, kind),
        host=address[0],
        port=address[1],
        type=kind,
        related_address=related[0],
        related_port=related[1],
    )
