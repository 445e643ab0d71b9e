"""Data channels to and from aiortc and libdatachannel, set up by SDP: data each way, checked by digest."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from interop import PIECE, SIZE, both_ways
from routes import until
from sdp_channel import answer_sdp, offer_sdp

from transfer.errors import PeerLost
from transfer.ice_urls import IceServers


class Far(Protocol):
    """The other stack. size: bytes that it is to carry each way."""

    size: int

    async def offer(self) -> str: ...
    async def answer(self, offer: str) -> str: ...
    async def accept(self, answer: str) -> None: ...

    async def moved(self) -> tuple[str, str]:
        """The digests of what it received and of what it sent."""
        ...

    async def close_channel(self) -> None: ...


class Aiortc:
    """Slow: its SCTP is Python, too."""

    size = 6 << 20

    def __init__(self, peer: RTCPeerConnection) -> None:
        self._came = bytearray()
        self._peer = peer
        self._channel: Any = None
        peer.on("datachannel", self._opened)

    async def offer(self) -> str:
        self._opened(self._peer.createDataChannel("from aiortc"))
        await self._peer.setLocalDescription(await self._peer.createOffer())
        return str(self._peer.localDescription.sdp)

    async def answer(self, offer: str) -> str:
        await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self._peer.setLocalDescription(await self._peer.createAnswer())
        return str(self._peer.localDescription.sdp)

    async def accept(self, answer: str) -> None:
        await self._peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def moved(self) -> tuple[str, str]:
        await until(lambda: self._channel is not None and self._channel.readyState == "open")
        data = secrets.token_bytes(self.size)
        for at in range(0, self.size, PIECE):
            await until(lambda: self._channel.bufferedAmount < 1 << 20)
            self._channel.send(data[at : at + PIECE])
        await until(lambda: len(self._came) >= self.size)
        return hashlib.sha256(self._came).hexdigest(), hashlib.sha256(data).hexdigest()

    async def close_channel(self) -> None:
        self._channel.close()

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.on("message", self._came.extend)


class LibDataChannel:
    """By a program of ours that uses it."""

    size = SIZE

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._said, self._heard = process.stdin, process.stdout

    async def offer(self) -> str:
        return await self._do("offer")

    async def answer(self, offer: str) -> str:
        return await self._do("answer", offer)

    async def accept(self, answer: str) -> None:
        await self._do("accept", answer)

    async def moved(self) -> tuple[str, str]:
        sent = await self._do("send")
        return await self._do("receive"), sent

    async def close_channel(self) -> None:
        await self._do("close")

    async def _do(self, *what: str) -> str:
        self._said.write(json.dumps(what).encode() + b"\n")
        return str(json.loads(await self._heard.readline()))


@contextlib.asynccontextmanager
async def by_aiortc() -> AsyncIterator[Far]:
    async with contextlib.AsyncExitStack() as stack:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        stack.push_async_callback(peer.close)
        yield Aiortc(peer)


@contextlib.asynccontextmanager
async def by_libdatachannel() -> AsyncIterator[Far]:
    if importlib.util.find_spec("pylibdatachannel") is None:
        pytest.skip("pylibdatachannel is not installed")
    program = str(Path(__file__).with_name("libdatachannel_end.py"))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, str(SIZE), str(PIECE), stdin=pipe, stdout=pipe
    )
    try:
        yield LibDataChannel(process)
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("stack", [by_aiortc, by_libdatachannel])
@pytest.mark.parametrize(("we_offer", "they_close"), [(True, True), (False, False)])
async def test_data_crosses_both_ways(
    stack: Callable[[], AbstractAsyncContextManager[Far]], we_offer: bool, they_close: bool
) -> None:
    async with stack() as far, asyncio.timeout(100):
        if we_offer:
            channel = await offer_sdp(far.answer, IceServers())
        else:
            channel = await answer_sdp(await far.offer(), far.accept, IceServers())
        try:
            ours, theirs = await asyncio.gather(both_ways(channel, far.size), far.moved())
            assert ours == theirs
            if they_close:
                await far.close_channel()
                with pytest.raises(PeerLost, match="the peer closed the channel"):
                    await channel.receive()
        finally:
            await channel.close()
