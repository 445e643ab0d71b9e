"""Does it answer? One question for each local server, asked until answered; the caller sets the deadline."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from transfer import api, bus
from transfer.errors import BusUnreachable

PAUSE = 0.05
"""Seconds between two tries."""
ANSWER_WITHIN = 2.0


async def nats_answers(port: int) -> None:
    """NATS greets whoever connects with INFO. Source: NATS client protocol."""
    await _until_starts_with(b"INFO ", port, b"")


async def store_answers(port: int) -> None:
    """SeaweedFS's S3 gateway says 200 once it serves."""
    await _until_starts_with(
        b"HTTP/1.1 200", port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )


async def broker_answers(url: str, creds: Path, user: str) -> None:
    """The broker answers `info`, which it does with good news only when bus and store are in order."""
    import nats.errors

    while True:
        try:
            client = await bus.connect(url, creds, user, "xfer up")
            break
        except BusUnreachable:
            await asyncio.sleep(PAUSE)
    try:
        while True:
            try:
                subject = bus.api_subject(user, "info")
                answer = await client.request(subject, msgspec.json.encode(api.Info()), ANSWER_WITHIN)
                msgspec.json.decode(answer.data, type=api.BrokerInfo)
                return
            except (nats.errors.Error, msgspec.ValidationError):  # nobody there yet, or an ApiError
                await asyncio.sleep(PAUSE)
    finally:
        await client.close()


async def _until_starts_with(greeting: bytes, port: int, question: bytes) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(question)
                async with asyncio.timeout(ANSWER_WITHIN):
                    said = await reader.read(len(greeting))
            finally:
                writer.close()
            if said == greeting:
                return
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(PAUSE)
