"""Our SCTP against aiortc's: the standard handshake, and data both ways."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiortc import (
    RTCCertificate,
    RTCDataChannel,
    RTCDataChannelParameters,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCDtlsTransport,
    RTCIceGatherer,
    RTCIceParameters,
    RTCIceTransport,
    RTCSctpCapabilities,
    RTCSctpTransport,
)
from aiortc.sdp import candidate_from_sdp, candidate_to_sdp
from routes import until

from transfer.sctp.association import Association, State
from transfer.transports.data_channel import DataChannel
from transfer.transports.dtls import Certificate, Dtls
from transfer.transports.ice import Ice
from transfer.transports.link import Link

BLOCK = bytes(range(256)) * 64
COUNT = 300


@contextlib.asynccontextmanager
async def beside_aiortc(*, we_begin: bool) -> AsyncIterator[tuple[DataChannel, Any]]:
    """Our end and theirs, connected, over one ICE and DTLS connection in this process."""
    ice, their_ice = Ice(controlling=we_begin), RTCIceTransport(RTCIceGatherer(iceServers=[]))
    their_ice._connection.ice_controlling = not we_begin
    certificate, their_certificate = Certificate.make(), RTCCertificate.generateCertificate()
    ours = Dtls(ice, certificate, client=not we_begin)
    theirs = RTCDtlsTransport(their_ice, [their_certificate])
    for line in await ice.gather_hosts():
        await their_ice.addRemoteCandidate(candidate_from_sdp(line))
    await their_ice.iceGatherer.gather()
    for candidate in their_ice.iceGatherer.getLocalCandidates():
        await ice.add(candidate_to_sdp(candidate))
    credentials = their_ice.iceGatherer.getLocalParameters()
    assert credentials.usernameFragment is not None
    assert credentials.password is not None
    ice.start(credentials.usernameFragment, credentials.password)
    ours.start([(print_.algorithm, print_.value) for print_ in their_certificate.getFingerprints()])
    await their_ice.start(RTCIceParameters(usernameFragment=ice.ufrag, password=ice.password))
    await theirs.start(
        RTCDtlsParameters([RTCDtlsFingerprint(*print_) for print_ in certificate.fingerprints])
    )
    async with asyncio.timeout(5):
        await ours.done.wait()
    assert ours.connected
    association = Association(secrets.token_bytes)
    if we_begin:
        association.start(asyncio.get_running_loop().time())

    async def close() -> None:
        ours.stop()
        await ice.close()

    near = DataChannel(cast(Link, SimpleNamespace(dtls=ours, close=close)), association, 1 << 14)
    sctp = RTCSctpTransport(theirs)
    far = RTCDataChannel(sctp, RTCDataChannelParameters(label="xfer", negotiated=True, id=0))
    await sctp.start(RTCSctpCapabilities(maxMessageSize=1 << 16), 5000)
    try:
        async with asyncio.timeout(10):
            await until(lambda: association.state is State.ESTABLISHED and far.readyState == "open")
        yield near, far
    finally:
        await near.close()
        await sctp.stop()
        await theirs.stop()
        await their_ice.stop()


@pytest.mark.parametrize("we_begin", [True, False])
async def test_data_crosses_both_ways(we_begin: bool) -> None:
    async with beside_aiortc(we_begin=we_begin) as (near, far):
        arrived: list[bytes] = []
        far.on("message", arrived.append)
        for number in range(COUNT):
            await near.send(number.to_bytes(4, "big") + BLOCK)
        async with asyncio.timeout(20):
            await until(lambda: len(arrived) == COUNT)
        assert arrived == [number.to_bytes(4, "big") + BLOCK for number in range(COUNT)]
        for number in range(COUNT):
            far.send(number.to_bytes(4, "big") + BLOCK)
        async with asyncio.timeout(30):
            got = [await near.receive() for _ in range(COUNT)]
        assert got == arrived
