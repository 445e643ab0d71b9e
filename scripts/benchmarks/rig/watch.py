"""How long a progress event takes from the sender's clock to a watcher on the bus."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from transfer import bus
from transfer.local.credentials import LOCAL

from .datasets import Dataset
from .measure import Running
from .peers import Tool
from .rows import Failed
from .world import World

AFTER = 1.0
"""Seconds that late events are waited for."""


def latencies(world: World, ours: Tool, data: Dataset, sends: int, longest: float) -> dict[str, Any]:
    """Of so many sends one after the other, seen from the clients' side of the link by another connection."""
    seen: list[tuple[float, float]] = []
    for _ in range(sends):
        with world.client.inside():
            seen += asyncio.run(_watched(world, ours, data, longest))
        world.servers.empty()
    if not seen:
        raise Failed("no event came")
    delays = sorted(arrived - sent for arrived, sent in seen)
    return {
        "events": len(seen),
        "p50 ms": round(delays[len(delays) // 2] * 1e3, 1),
        "p99 ms": round(delays[min(len(delays) * 99 // 100, len(delays) - 1)] * 1e3, 1),
        "most a second": most_a_second([sent for _, sent in seen]),
    }


def most_a_second(moments: list[float]) -> int:
    """The most that fall into any one second."""
    moments = sorted(moments)
    return max(sum(1 for other in moments if 0 <= other - moment < 1) for moment in moments)


async def _watched(world: World, ours: Tool, data: Dataset, longest: float) -> list[tuple[float, float]]:
    """(when it came, when it was said) of each event, seconds since 1970."""
    seen: list[tuple[float, float]] = []

    async def note(message: Any) -> None:
        arrived = time.time()
        said = json.loads(message.data)
        if said.get("event") == "progress":
            seen.append((arrived, said["time"]))

    client = await bus.connect(world.servers.nats_url, world.servers.folder.seed(LOCAL), LOCAL, "xfer bench")
    try:
        await client.subscribe(f"xfer.events.{LOCAL}.>", cb=note)
        await client.flush()
        command = ours.up(data.path)
        ran = await asyncio.to_thread(Running(command.argv, command.env, world.client).end, longest)
        if ran.failure:
            raise Failed(ran.failure)
        await asyncio.sleep(AFTER)
    finally:
        await client.close()
    return seen
