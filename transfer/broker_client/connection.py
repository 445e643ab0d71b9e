"""The bus and the broker of a context, for as long as they are needed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from transfer import bus
from transfer.broker_client.client import BrokerClient
from transfer.broker_client.patience import Patience
from transfer.config import Context
from transfer.errors import BusUnreachable

if TYPE_CHECKING:
    from nats.aio.client import Client

REFUSALS = 256
"""Kept of what the server forbade; an announcement that is forbidden is so every few seconds, and a courtesy."""


class Link(NamedTuple):
    """A connection to the bus, and the broker behind it."""

    client: Client
    broker: BrokerClient


@contextlib.asynccontextmanager
async def connected(
    context: Context, name: str, patience: Patience, *, over: Link | None = None
) -> AsyncIterator[Link]:
    """The bus and the broker of a context, for as long as the block lasts.

    name: shown in the NATS server's connection list. over: use that connection, and leave it open. Raises as `bus.connect`,
    BusUnreachable after one try unless patience holds from the start.
    """
    if over is not None:
        yield Link(over.client, over.broker.with_patience(patience.under_way))
        return
    said: deque[str] = deque(maxlen=REFUSALS)
    at_first = patience if patience.from_start else Patience(0.0)
    async for attempt in at_first.retrying(BusUnreachable):
        with attempt:
            client = await bus.connect(
                context.nats_url,
                context.nats_creds,
                context.user,
                name,
                on_refusal=said.append,
                ca=context.ca,
            )
    broker = BrokerClient(client, context.user, patience, said, context.ca)
    try:
        yield Link(client, broker)
    finally:
        with contextlib.suppress(Exception):  # whatever a dying connection says, we are done with it
            async with asyncio.timeout(2):
                await client.close()
