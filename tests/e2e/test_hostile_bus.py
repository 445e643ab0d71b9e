"""Messages that no NATS client should have to read: whoever gets one goes on hearing."""

from __future__ import annotations

import msgspec
import pytest
from helpers import Two

from transfer import api, bus, events
from transfer.config import Context

UNREADABLE = (
    b"PUB %s \xff\xfe.reply 2\r\n{}\r\n",
    b"HPUB %s 19 21\r\nNATS/1.0 \xff\xfe\xfd no\r\n\r\n{}\r\n",
)
"""A reply subject, and a header, that are no UTF-8: NATS passes both on."""


async def say(context: Context, subject: bytes) -> None:
    """As anybody may who has credentials of their own."""
    client = await bus.connect(context.nats_url, context.nats_creds, context.user, "hostile")
    for command in UNREADABLE:
        await client._send_command(command % subject)
        await client.flush()
    await client.close()


@pytest.fixture
def context(two: Two) -> Context:
    from hostile import context_of

    return context_of(two)


@pytest.mark.parametrize("subject", [b"xfer.api.local.info", b"xfer.api.local.\xc3\x28"])
async def test_a_message_that_is_no_text_does_not_make_the_broker_deaf(
    context: Context, subject: bytes
) -> None:
    await say(context, subject)
    client = await bus.connect(context.nats_url, context.nats_creds, context.user, "test")
    try:
        answer = await bus.request(
            client, bus.api_subject("local", "info"), msgspec.json.encode(api.Info()), 5.0
        )
    finally:
        await client.close()
    assert msgspec.json.decode(answer.data, type=api.BrokerInfo).bucket == "xfer"


async def test_a_message_that_is_no_text_does_not_make_sender_or_receiver_deaf(
    two: Two, context: Context
) -> None:
    source = two.file("f", 100_000)
    sending = two.send("--via", "webrtc", source)
    subject = bus.peer_subject("local", sending.event(events.TicketReady).job).encode()
    await say(context, subject)
    got = two.fetch(sending.ticket)
    await say(context, subject)
    assert got.summary.route == "webrtc"
    assert sending.summary.outcome == "receipt"
