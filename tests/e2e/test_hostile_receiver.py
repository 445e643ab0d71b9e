"""A receiver that holds the ticket and lies: its sender hangs up, believes nothing, and serves the next one."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterable

import msgspec
from helpers import MIB, Two
from hostile import context_of
from nats.aio.client import Client

from transfer import bus, wire
from transfer.errors import PeerLost
from transfer.events import Notice, Receipt
from transfer.ice_urls import IceServers
from transfer.mailbox import Mailbox
from transfer.model import FrameId, FrameSet, Kind, ReceiptBody
from transfer.seal import Purpose, Sealer
from transfer.session import MAX_OPEN_WANTS
from transfer.ticket import Ticket
from transfer.transports.webrtc import answer

WANT = wire.pack(wire.Want(FrameSet.everything()))
LIES: dict[str, list[bytes]] = {
    "the peer sent a message that cannot be read": [b"\xff" + os.urandom(1000)],
    "the peer said Ack out of turn": [WANT, wire.pack(wire.Ack((FrameId(Kind.CHUNK, 4_000_000_000),)))],
    "the peer said Data out of turn": [WANT, wire.pack(wire.Data(FrameId(Kind.CHUNK, 0), 1, 0, b"x"))],
    "a range of frames makes no sense": [b"\x01" + bytes([9]) + bytes(16)],
    "too many requests are unanswered": [WANT] * (2 * MAX_OPEN_WANTS + 2),
}


async def visit(client: Client, sealer: Sealer, messages: Iterable[bytes]) -> None:
    """Come as a receiver does, say that much, and stay until the sender hangs up."""
    mailbox = Mailbox(client, "local", sealer, hears=Purpose.TO_RECEIVER, says=Purpose.TO_SENDER)
    await mailbox.open()
    talk = mailbox.converse(secrets.token_bytes(16), "local")
    await talk.say(wire.Hello, user="local", receiver=secrets.token_hex(8), routes=["webrtc"])
    while not isinstance(offered := await mailbox.next(), wire.Offer) or offered.session != talk.session:
        pass
    channel = await answer(talk, offered, IceServers())
    try:
        for message in messages:
            await channel.send(message)
        while wire.unpack(await channel.receive()) != wire.Close(""):
            pass
    except PeerLost:
        pass
    finally:
        await channel.close()
        await mailbox.close()


async def lie(two: Two, ticket: Ticket) -> None:
    context, sealer = context_of(two), Sealer(ticket)
    client = await bus.connect(context.nats_url, context.nats_creds, "local", "liar")
    async with asyncio.timeout(60):
        for messages in LIES.values():
            await visit(client, sealer, messages)
        body = msgspec.msgpack.encode(ReceiptBody(1, "liar", MIB, 1, bytes(32)))
        receipt = wire.Receipted(
            session=bytes(16), seq=1, sealed=bytes(sealer.seal(Purpose.RECEIPT, 0, body))
        )
        said = wire.seal_signal(sealer, Purpose.TO_SENDER, receipt)
        await client.publish(bus.peer_subject("local", ticket.job), said)
        await client.flush()
    await client.close()


def test_a_sender_hangs_up_on_a_receiver_that_breaks_the_law_and_serves_the_next(two: Two) -> None:
    """And a receipt that names another digest than that of what was sent is none."""
    sending = two.send("--via", "webrtc", two.file("f", 3 * MIB))
    asyncio.run(lie(two, Ticket.parse(sending.ticket)))
    for why in LIES:
        sending.event(Notice, lambda notice, why=why: why in notice.text)  # type: ignore[misc]
    assert sending.running, "it waits for a receiver that has everything"
    got = two.fetch(sending.ticket)
    assert got.summary.route == "webrtc"
    assert sending.summary.outcome == "receipt"
    [receipt] = [event for event in sending.events if isinstance(event, Receipt)]
    assert receipt.digest == got.summary.digest == sending.summary.digest
