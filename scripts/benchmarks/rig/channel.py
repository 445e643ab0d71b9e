"""One end of a data channel, as a process of its own: `python channel.py KIND ROLE BYTES [OPTIONS]`.

KIND: `xfer` (the route's own channel) or `aiortc` (a plain RTCPeerConnection). ROLE: `sender` or `receiver`. BYTES: how
many are sent. What the ends must know of each other crosses stdin and stdout, a line each; the sender's last line is
JSON with its figures: `seconds` from the first byte to the receiver's word that it has all, `setup` from the
receiver's answer until it has the first byte, and CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

from transfer import wire
from transfer.ice_urls import IceServers
from transfer.transports import udp
from transfer.transports.webrtc import answer, offer, prepare

MESSAGE = 1 << 14
DEADLINE = 60.0
USER, PASSWORD = "bench", "bench"
"""What the TURN server takes."""
_SECONDS = struct.Struct("d")


class Talk:
    """The conversation of the two ends over this process's stdin and stdout.

    largest: bytes of an SCTP packet that this end takes; None: as the product says. relayed: no other way is said.
    """

    def __init__(
        self, lines: asyncio.StreamReader, largest: int | None = None, *, relayed: bool = False
    ) -> None:
        self._lines, self._largest, self._relayed, self._count = lines, largest, relayed, 0
        self.answered = 0.0
        """When this end said its answer; time.perf_counter."""

    async def say(self, kind: type[wire.AnySignal], **fields: Any) -> None:
        description = fields.get("description")
        said = (
            description.candidates if description else [fields["candidate"]] if "candidate" in fields else []
        )
        if self._relayed and any("typ relay" not in candidate for candidate in said):
            raise AssertionError(f"there is another way than the relay: {said}")
        if description is not None and self._largest is not None:
            fields["description"] = msgspec.structs.replace(description, max_packet=self._largest)
        self._count += 1
        signal = kind(session=bytes(16), seq=self._count, **fields)
        self.answered = self.answered or time.perf_counter()
        print(msgspec.msgpack.encode(signal).hex(), flush=True)

    async def hear(self) -> wire.AnySignal:
        said = bytes.fromhex((await line(self._lines)).decode())
        return cast("wire.AnySignal", msgspec.msgpack.decode(said, type=wire.AnySignal))


async def line(lines: asyncio.StreamReader) -> bytes:
    if not (got := (await lines.readline()).strip()):
        raise EOFError("the other end is gone")
    return got


async def ours(args: argparse.Namespace, lines: asyncio.StreamReader) -> None:
    await prepare()
    if not args.batches:
        await without_batches()
    servers = IceServers()
    if args.turn:  # no interface of ours has that name, so only the relay is left; `Talk` checks it
        servers = IceServers(turn=[(args.turn, USER, PASSWORD)], interfaces=["none"])
    await both_ready(lines)
    talk = Talk(lines, args.largest, relayed=bool(args.turn))
    if args.role == "receiver":
        their_offer = await talk.hear()
        assert isinstance(their_offer, wire.Offer)
        channel = await answer(talk, their_offer, servers, deadline=DEADLINE)
        await receiving(args.bytes, channel.receive, channel.send, talk.answered)
    else:
        channel = await offer(talk, servers, deadline=DEADLINE)
        await sending(args.bytes, channel.receive, channel.send)
    await channel.close()


async def plain(args: argparse.Namespace, lines: asyncio.StreamReader) -> None:
    from aiortc import (
        RTCConfiguration,
        RTCIceServer,
        RTCIceTransportPolicy,
        RTCPeerConnection,
        RTCSessionDescription,
    )

    if args.turn:
        servers = [RTCIceServer(args.turn, username=USER, credential=PASSWORD)]
        how = RTCConfiguration(iceServers=servers, iceTransportPolicy=RTCIceTransportPolicy.RELAY)
    else:
        how = RTCConfiguration(iceServers=[])
    connection = RTCPeerConnection(how)
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    opened = asyncio.Event()
    low = asyncio.Event()

    def listen(channel: Any) -> None:
        channel.on("message", arrived.put_nowait)
        channel.on("bufferedamountlow", low.set)
        channel.bufferedAmountLowThreshold = 256 << 10

    channel = connection.createDataChannel("bench", negotiated=True, id=0)
    channel.on("open", opened.set)
    listen(channel)

    async def send(message: bytes) -> None:
        if channel.bufferedAmount > 1 << 20:
            low.clear()
            await low.wait()
        channel.send(message)

    async def tell() -> None:
        local = connection.localDescription
        print(json.dumps({"sdp": local.sdp, "type": local.type}), flush=True)

    await both_ready(lines)
    if args.role == "sender":
        await connection.setLocalDescription(await connection.createOffer())
        await tell()
        await connection.setRemoteDescription(RTCSessionDescription(**json.loads(await line(lines))))
    else:
        await connection.setRemoteDescription(RTCSessionDescription(**json.loads(await line(lines))))
        await connection.setLocalDescription(await connection.createAnswer())
        await tell()
    answered = time.perf_counter()
    await opened.wait()
    if args.role == "sender":
        await sending(args.bytes, arrived.get, send)
    else:
        await receiving(args.bytes, arrived.get, send, answered)
    await connection.close()


async def without_batches() -> None:
    """As where the kernel cuts and joins no packets (macOS): each is a system call of its own."""

    class Nobody:
        def connection_lost(self, _error: Exception | None) -> None: ...

    udp._UDP = -1  # a level of socket options that there is not
    trial: Any = udp.UdpTransport("127.0.0.1", Nobody())  # type: ignore[arg-type]
    trial.close()
    if trial._cuts or trial._joins:
        raise AssertionError("the kernel still cuts or joins packets")


async def both_ready(lines: asyncio.StreamReader) -> None:
    print("ready", flush=True)
    await line(lines)


async def sending(
    size: int, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]
) -> None:
    await send(b"first")
    (setup,) = _SECONDS.unpack(await receive())
    started, used = time.perf_counter(), time.process_time()
    block = bytes(range(256)) * (MESSAGE // 256)
    for at in range(0, size, MESSAGE):
        await send(block[: size - at])
    await receive()
    figures = {
        "seconds": time.perf_counter() - started,
        "setup": setup,
        "cpu": time.process_time() - used,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(figures), flush=True)


async def receiving(
    size: int,
    receive: Callable[[], Awaitable[bytes]],
    send: Callable[[bytes], Awaitable[None]],
    answered: float,
) -> None:
    """answered: when this end said its answer; time.perf_counter."""
    await receive()
    await send(_SECONDS.pack(time.perf_counter() - answered))
    while size > 0:
        size -= len(await receive())
    await send(b"all")
    await asyncio.sleep(0.5)


async def incoming() -> asyncio.StreamReader:
    """The lines that come on stdin."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    return lines


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("xfer", "aiortc"))
    parser.add_argument("role", choices=("sender", "receiver"))
    parser.add_argument("bytes", type=int)
    parser.add_argument("--largest", type=int, help="bytes of a packet that this end takes (xfer only)")
    parser.add_argument("--turn", default="", help="URL of the TURN server that everything goes through")
    parser.add_argument(
        "--no-batches", dest="batches", action="store_false", help="by the kernel (xfer only)"
    )
    args = parser.parse_args()
    await (ours if args.kind == "xfer" else plain)(args, await incoming())


if __name__ == "__main__":
    asyncio.run(main())
