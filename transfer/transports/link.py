"""An encrypted path for packets to one peer: ICE finds a way, and DTLS encrypts, at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from transfer import wire
from transfer.errors import PeerLost, ProtocolError
from transfer.ice_urls import IceServers, Relay, Server, parse_stun, parse_turn

if TYPE_CHECKING:
    from transfer.transports.dtls import Certificate, Dtls
    from transfer.transports.ice import Ice

NO_NEWS = 3.0
"""Seconds without another address or a STUN packet after which there is no path.

A check is sent at 0, 0.5 and 1.5 s by then, from both ends (aioice repeats it as RFC 8489 section 6.2.1 says).
"""
LARGEST_PACKET = 16384
"""Bytes of an SCTP packet that we take: what a DTLS record can hold."""
LEAST_MESSAGE = 1200
TEARDOWN = 1.0
"""Seconds for letting go; a TURN server that is gone would not answer the goodbye."""


class Link:
    """ICE and DTLS to one peer: an encrypted path for datagrams, and no more."""

    def __init__(
        self,
        ice: Ice,
        certificate: Certificate,
        dtls: Dtls,
        late: tuple[list[Server], list[Relay]],
    ) -> None:
        self.ice, self.dtls = ice, dtls
        self._certificate = certificate
        self._late = late

    async def describe(self, init: bytes = b"") -> wire.Description:
        """What the other end must know. init: of what goes over the link. Raises PeerLost on a host without a network address."""
        candidates = await self.ice.gather_hosts()
        if not candidates and not self._late[1]:
            raise PeerLost("this host has no network address for a peer to reach")
        return wire.Description(
            ufrag=self.ice.ufrag,
            password=self.ice.password,
            candidates=candidates,
            fingerprints=self._certificate.fingerprints,
            setup="active" if self.dtls.client else "passive",
            max_packet=LARGEST_PACKET,
            init=init,
        )

    def late_candidates(self) -> AsyncGenerator[str, None]:
        """Lines of those that servers are asked for, as they come."""
        return self.ice.gather_late(*self._late)

    async def connect(self, theirs: wire.Description, until: float, *, no_news: float | None = None) -> None:
        """Find a way and encrypt it. The peer must hold the certificate that its sealed description names.

        until: event loop time, seconds. no_news: seconds without news of a way; NO_NEWS unless given.
        Raises PeerLost, or ProtocolError for a description that makes no sense.
        """
        self._check(theirs)
        for line in theirs.candidates:
            await self.ice.add(line)
        self.ice.start(theirs.ufrag, theirs.password)
        self.dtls.start(theirs.fingerprints)
        async with phase("no network path to the peer was found", until):
            await _while_news(self.ice, NO_NEWS if no_news is None else no_news)
        async with phase("the encrypted connection to the peer was not made", until):
            await self.dtls.done.wait()
        if not self.dtls.connected:
            raise PeerLost(
                "the encrypted connection to the peer was refused: its certificate is not the announced one"
            )

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TEARDOWN):
                self.dtls.stop()
                await self.ice.close()

    def _check(self, theirs: wire.Description) -> None:
        hashes = {algorithm.lower() for algorithm, _ in theirs.fingerprints}
        if (
            "sha-256" not in hashes
            or not 4 <= len(theirs.ufrag) <= 256
            or not 22 <= len(theirs.password) <= 256
        ):
            raise ProtocolError("the peer's description of itself is incomplete")
        if theirs.setup not in (("passive",) if self.dtls.client else ("active", "actpass")):
            raise ProtocolError("the peer would not take its part in the encrypted handshake")
        if theirs.max_message < LEAST_MESSAGE:
            raise ProtocolError("the peer's description of itself has impossible limits")


@contextlib.asynccontextmanager
async def setting_up(servers: IceServers, *, sender: bool) -> AsyncIterator[Link]:
    """A link that is closed again if the set-up does not succeed."""
    from transfer.transports.dtls import Certificate, Dtls
    from transfer.transports.ice import Ice

    late = [parse_stun(url) for url in servers.stun], [parse_turn(*turn) for turn in servers.turn]
    certificate = Certificate.make()
    ice = Ice(controlling=sender, interfaces=servers.interfaces)
    link = Link(ice, certificate, Dtls(ice, certificate, client=sender), late)
    try:
        yield link
    except BaseException:
        await link.close()
        raise


async def _while_news(ice: Ice, no_news: float) -> None:
    """Until a way is found. Raises TimeoutError once nothing has been heard of one for so many seconds."""
    ice.noted()
    while not ice.reached.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ice.heard + no_news):
                await ice.reached.wait()
        if not ice.reached.is_set() and asyncio.get_running_loop().time() >= ice.heard + no_news:
            raise TimeoutError


@contextlib.asynccontextmanager
async def phase(failure: str, until: float) -> AsyncIterator[None]:
    """until: event loop time, seconds."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise PeerLost(f"{failure} in time") from None
