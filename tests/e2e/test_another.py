"""Another implementation, made from FORMAT.md alone, and ours exchange files over the same servers.

It speaks to NATS and to the store by their own clients, and knows of ours only what stands there.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import secrets
import struct
from typing import Any
from urllib.parse import urlsplit

import google_crc32c
import nats
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from cryptography.exceptions import InvalidTag
from helpers import MIB, SOON, Two
from nats.aio.client import Client

from tests import another
from tests.another import Reader, Secret, frames_of, read_ticket, segment_of, token, write_ticket


class Peer:
    """A user of the bus, and of whatever URLs the broker signs for it."""

    def __init__(self, client: Client, user: str) -> None:
        self.client, self.user = client, user

    @classmethod
    async def connect(cls, env: dict[str, str]) -> Peer:
        user, inbox = env["XFER_USER"], f"_INBOX_{env['XFER_USER']}".encode()
        return cls(
            await nats.connect(env["NATS_URL"], nkeys_seed=env["NATS_CREDS"], inbox_prefix=inbox), user
        )

    async def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        body = json.dumps({"v": 1, **fields}).encode()
        answer = await self.client.request(f"xfer.api.{self.user}.{verb}", body, timeout=SOON)
        assert not (answer.headers or {}).get("Nats-Service-Error-Code"), answer.data
        said: dict[str, Any] = json.loads(answer.data)
        return said

    async def close(self) -> None:
        await self.client.close()


def at_the_store(method: str, signed: dict[str, Any], body: bytes = b"", **headers: str) -> tuple[bytes, str]:
    """What it answers, and the ETag."""
    url = urlsplit(signed["url"])
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=SOON)
    try:
        connection.request(method, f"{url.path}?{url.query}", body or None, {**signed["headers"], **headers})
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status in (200, 206), said
        return said, (answer.headers["ETag"] or "").strip('"')
    finally:
        connection.close()


async def test_another_implementation_reads_what_we_stored_and_gives_the_receipt(two: Two) -> None:
    folder = two.tmp / "folder"
    folder.mkdir()
    (folder / "text").write_bytes(b"a line of text\n" * 200_000)
    (folder / "noise").write_bytes(secrets.token_bytes(MIB))
    ticket = two.store(folder, "--fetches", "1")
    of = read_ticket(ticket)
    reader, show = Reader(of), {"job": of.id, "token": token(of)}
    peer = await Peer.connect(two.there)
    opened = await peer.ask("open", **show)
    assert (opened["owner"], opened["state"]) == ("local", "stored")
    refs = (await peer.ask("segments", **show, start=0))["refs"]
    assert [ref["number"] for ref in refs] == list(range(opened["segments"]))
    urls = (await peer.ask("sign_gets", **show, segments=[ref["number"] for ref in refs]))["urls"]
    for ref, signed in zip(refs, urls, strict=True):
        tail, _ = at_the_store("GET", signed, Range=f"bytes={ref['size'] - ref['index']}-{ref['size'] - 1}")
        assert len(tail) == ref["index"]
        start, _ = at_the_store("GET", signed, Range=f"bytes=0-{ref['size'] - ref['index'] - 1}")
        reader.take(ref, start + tail)
    assert reader.files() == {f"folder/{path.name}": path.read_bytes() for path in folder.iterdir()}
    receipt = base64.b64encode(reader.receipt("another")).decode()
    assert await peer.ask("receipt", **show, receiver="another", sealed=receipt) == {"state": "delivered"}
    await peer.close()


async def test_we_fetch_what_another_implementation_stored(two: Two) -> None:
    """In two segments, one of them in two parts."""
    content = b"written by another\n" * 100_000 + secrets.token_bytes(6 * MIB)
    of, frames = Secret.new(), frames_of("theirs", content)
    hashed = hashlib.sha256(token(of).encode()).hexdigest()
    peer = await Peer.connect(two.here)
    await peer.ask("create", job=of.id, token_hash=hashed, size=len(content), expire=3600.0)
    ordered = list(frames.items())
    for number, share in enumerate((ordered[:-2], ordered[-2:])):
        stored, index = segment_of(of, number, dict(share))
        upload = (await peer.ask("begin", job=of.id, segment=number))["upload"]
        at = {"job": of.id, "segment": number, "upload": upload}
        parts = []
        for part, body in enumerate((stored[: 5 * MIB], stored[5 * MIB :]), start=1):
            if body:
                crc = base64.b64encode(struct.pack(">I", google_crc32c.value(body))).decode()
                named = {"number": part, "length": len(body), "crc32c": crc}
                [signed] = (await peer.ask("sign_parts", **at, parts=[named]))["urls"]
                _, etag = at_the_store("PUT", signed, body)
                parts.append({**named, "etag": etag})
        completed = await peer.ask("complete", **at, parts=parts, index=index)
        assert completed["ref"] == {"number": number, "size": len(stored), "index": index}
    assert (await peer.ask("finish", job=of.id, outcome="stored", segments=2))["state"] == "stored"
    got = two.fetch(write_ticket(of))
    assert (
        got.summary.digest
        == another.root_of([frames[0, 0]], [raw for (kind, _), raw in ordered if kind == 1]).hex()
    )
    assert (two.out / "theirs").read_bytes() == content
    [receipt] = (await peer.ask("status", job=of.id))["receipts"]
    version, _, total, *_ = another.unpack(another.unseal(of, "receipt", 0, base64.b64decode(receipt)))
    assert (version, total) == (1, len(content))
    await peer.close()


# --- «Signals», «The direct route»: by aiortc's public interface, which knows nothing of ours either


def sdp_of(description: list[Any]) -> str:
    """An offer, in the words of RFC 8866 and its family."""
    ufrag, password, candidates, fingerprints, setup, *_ = description
    lines = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", "a=group:BUNDLE 0"]
    lines += ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", "a=mid:0"]
    lines += [f"a=ice-ufrag:{ufrag}", f"a=ice-pwd:{password}", f"a=setup:{setup}", "a=sctp-port:5000"]
    lines += [f"a=fingerprint:{algorithm} {value}" for algorithm, value in fingerprints]
    lines += [f"a=candidate:{line}" for line in candidates]
    return "\r\n".join([*lines, "a=end-of-candidates", ""])


def description_of(sdp: str) -> list[Any]:
    """Without an `init`: the handshake of SCTP is to be made."""

    def each(name: str) -> list[str]:
        return [line.removeprefix(f"a={name}:") for line in sdp.splitlines() if line.startswith(f"a={name}:")]

    fingerprints = [line.split(" ", 1) for line in each("fingerprint")]
    credentials = [each("ice-ufrag")[0], each("ice-pwd")[0]]
    return [*credentials, each("candidate"), fingerprints, each("setup")[0], b"", 65536, 1432]


class Receiving:
    """One session with a sender: a hello, an answer, a data channel, and every frame acknowledged as it comes."""

    def __init__(self, peer: Peer, of: Secret, owner: str) -> None:
        self.reader, self.done = Reader(of), asyncio.Event()
        self._peer, self._of, self._to = peer, of, f"xfer.peer.{owner}.{of.id}"
        self._session, self._seq, self._pieces = secrets.token_bytes(16), 0, b""
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel = self._connection.createDataChannel("", negotiated=True, id=0)
        self._channel.on("open", lambda: self._channel.send(WANT_EVERYTHING))
        self._channel.on("message", self._heard)

    async def say(self, kind: str, **fields: Any) -> None:
        signal = {"t": kind, "v": 1, "session": self._session, "seq": self._seq, **fields}
        self._seq += 1
        sealed = another.seal(self._of, "signal to sender", 0, another.pack(signal))
        await self._peer.client.publish(self._to, sealed)

    async def run(self) -> None:
        """Until everything has come."""
        heard = await self._peer.client.subscribe(f"xfer.peer.{self._peer.user}.{self._of.id}")
        await self.say("hello", user=self._peer.user, receiver="another", routes=["webrtc"])
        offer = None
        while offer is None:
            with contextlib.suppress(InvalidTag):  # our own words, if both ends are one user's
                message = await heard.next_msg(timeout=SOON)
                signal = another.unpack(another.unseal(self._of, "signal to receiver", 0, message.data))
                offer = signal if signal["t"] == "offer" and signal["session"] == self._session else None
        theirs = RTCSessionDescription(sdp=sdp_of(offer["description"]), type="offer")
        await self._connection.setRemoteDescription(theirs)
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        await self.say("answer", description=description_of(self._connection.localDescription.sdp))
        async with asyncio.timeout(SOON):
            await self.done.wait()

    def _heard(self, message: bytes) -> None:
        match message[0]:
            case 2:
                kind, index, total, offset = struct.unpack_from(">BIII", message, 1)
                assert offset == len(self._pieces)
                self._pieces += message[14:]
                if len(self._pieces) == total:
                    name = another.KINDS[kind]
                    self.reader.raw[name, index] = another.open_frame(self._of, name, index, self._pieces)
                    self._pieces = b""
                    self._channel.send(struct.pack(">BBI", 3, kind, index))
            case 4:
                self._channel.send(b"\x06")
            case 6:
                assert message == b"\x06", "it ends well"
                self.done.set()

    async def close(self) -> None:
        await self._connection.close()


WANT_EVERYTHING = b"\x01" + struct.pack(">BQQBQQBQQ", 0, 0, 1 << 32, 1, 0, 1 << 32, 2, 0, 1)


async def test_another_implementation_takes_a_transfer_directly(two: Two) -> None:
    source = two.file("f", 3 * MIB)
    sending = two.send("--via", "webrtc", source)
    of = read_ticket(await asyncio.to_thread(lambda: sending.ticket))
    peer = await Peer.connect(two.there)
    show = {"job": of.id, "token": token(of)}
    receiving = Receiving(peer, of, (await peer.ask("open", **show))["owner"])
    await receiving.run()
    assert receiving.reader.files() == {"f": source.read_bytes()}
    receipt = receiving.reader.receipt("another")
    await receiving.say("receipt", sealed=receipt)
    await peer.ask("receipt", **show, receiver="another", sealed=base64.b64encode(receipt).decode())
    summary = await asyncio.to_thread(lambda: sending.summary)
    assert (summary.outcome, summary.route) == ("receipt", "webrtc")
    await receiving.close()
    await peer.close()
