"""Does it answer? One question for each local server, asked until answered; the caller sets the deadline."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import msgspec

from transfer import api, bus
from transfer.errors import BusUnreachable

PAUSE = 0.05
"""Seconds between two tries."""
ANSWER_WITHIN = 2.0


async def nats_answers(host: str, port: int) -> None:
    """NATS greets whoever connects with INFO, before it speaks TLS. Source: NATS client protocol."""
    await _until_starts_with(b"INFO ", host, port, b"")


async def store_answers(host: str, port: int, ca: Path | None = None, name: str | None = None) -> None:
    """SeaweedFS's S3 gateway says 200 once it serves.

    ca: the authority of its certificate, which must name `name`; None for plain HTTP.
    """
    question = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    tls = ssl.create_default_context(cafile=ca) if ca else None
    await _until_starts_with(b"HTTP/1.1 200", host, port, question, tls, name)


async def opens(host: str, port: int) -> None:
    """Somebody listens there."""
    await _until_starts_with(b"", host, port, b"")


async def broker_answers(url: str, creds: Path, user: str, ca: Path | None = None) -> None:
    """The broker answers `info`, which it does with good news only when bus and store are in order."""
    import nats.errors

    while True:
        try:
            client = await bus.connect(url, creds, user, "xfer up", ca=ca)
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


async def _until_starts_with(
    greeting: bytes,
    host: str,
    port: int,
    question: bytes,
    tls: ssl.SSLContext | None = None,
    name: str | None = None,
) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
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
