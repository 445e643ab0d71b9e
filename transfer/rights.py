"""Whether NATS lets a user say and hear all that it needs. A server answers what it forbids with silence: so it is tried."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING

from transfer import bus
from transfer.permissions import subjects

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.subscription import Subscription

WITHIN = 4
"""Seconds for the server to answer all tries."""
_TO_NO_STREAM = {"Nats-Expected-Stream": "none"}
"""A stream that hears a try keeps nothing of it. Source: NATS ADR-8 and JetStream's headers."""
_TOKENS = 4
"""Tokens of a subject that begins with `xfer`, at least."""


async def missing(client: Client, user: str, refusals: Collection[str]) -> list[str]:
    """What the server forbids of all that `user` needs: `subscribe to SUBJECTS` or `publish to SUBJECTS`, each.

    Nobody hears the tries. Whether a user may ask a broker is not tried: that shows as soon as it does.

    Args:
        refusals: grows with what `bus.connect` tells its `on_refusal`.
    Raises BusUnreachable.
    """
    trial = f"trial{secrets.token_hex(4)}"
    publish, subscribe = subjects(user)
    with bus.translated():
        async with contextlib.AsyncExitStack() as undo:
            for family in subscribe:
                heard = await client.subscribe(_one_of(family, trial))
                undo.push_async_callback(_leave, heard)
            for family in publish:
                if not family.startswith("xfer.api."):
                    await client.publish(_one_of(family, trial), headers=_TO_NO_STREAM)
            await client.flush(WITHIN)  # the server answers in order: what it refuses, before this
    said = [text.lower() for text in refusals if trial in text.lower()]
    return [
        f"{verb} to {family}"
        for verb, named, families in (
            ("subscribe", "subscription", subscribe),
            ("publish", "publish", publish),
        )
        for family in families
        if any(f'for {named} to "{_one_of(family, trial).lower()}"' in text for text in said)
    ]


async def _leave(subscription: Subscription) -> None:
    with contextlib.suppress(Exception):  # the connection may be gone, and with it the subscription
        await subscription.unsubscribe()


def _one_of(family: str, trial: str) -> str:
    """A subject that is as deep as those that are used. family: ends with `.>`."""
    known = family.split(".")[:-1]
    return ".".join([*known, *[trial] * max(1, _TOKENS - len(known) if known[0] == "xfer" else 1)])
