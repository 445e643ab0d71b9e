"""What the matrix does not show: a plain stream, a kill and a rerun, a fetch that follows its send."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from .datasets import MIB, Dataset, remove, same
from .matrix import WAYS
from .measure import Ran, Running, run
from .peers import Tool
from .world import World

PART = 8 * MIB
"""Bytes, about: the parts of a segment."""
KILL_AT = 0.6
SETTLE = 1.0
"""Seconds after which a store knows what came from a client that was killed."""
FULL_SEGMENT = 64 * MIB
RAMP = 56 * MIB
"""Bytes in the segments before the first full one: 8, 16 and 32 MiB. Source: the design."""


class Failed(Exception):
    """A row cannot be measured; says why."""


@dataclass
class Row:
    """figures: by name, with the unit in it. failure: why there are none."""

    name: str
    link: str
    figures: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None


def stream(world: World, rounds: int, size: int) -> dict[str, Any]:
    """One plain connection. size: bytes."""
    took = {way: [world.stream(size, way) for _ in range(rounds)] for way in WAYS}
    return {f"{way} MB/s": round(size / statistics.median(took[way]) / 1e6, 2) for way in WAYS}


def resume(world: World, ours: Tool, data: Dataset, longest: float) -> dict[str, Any]:
    """A send that is killed at 60 %, and the same command again, against a send that is not.

    What was under way at the kill has to be sent again; counted is what the store already had and got once more.
    Over a link also all that crossed it, TCP's own repetitions included, against a full send.
    """
    data.warm()
    before = world.client.sent()
    full = _good(run(*_start(world, ours, data), longest))
    crossed_full = world.client.sent() - before
    world.servers.empty()

    before = world.client.sent()
    first = Running(*_start(world, ours, data))
    try:
        while first.event("progress")["done"] < KILL_AT * data.size:
            time.sleep(0.01)
    finally:
        first.kill()
        killed = first.end(longest)
    if killed.code == 0:
        raise Failed("it was done before it could be killed")
    time.sleep(SETTLE)
    kept = world.servers.stored()
    second = _good(run(*_start(world, ours, data), longest))
    crossed = world.client.sent() - before
    again = kept + second.summary["wire"] - full.summary["wire"]
    figures = {
        "full s": round(full.seconds, 2),
        "rerun s": round(second.seconds, 2),
        "share of full": round(second.seconds / full.seconds, 3),
        "stored at kill MB": round(kept / 1e6, 1),
        "stored parts sent again": round(max(0, again) / PART, 1),
        "concurrency": second.summary.get("concurrency"),
    }
    if crossed_full:
        figures["MB crossed again"] = round((crossed - crossed_full) / 1e6, 1)
    _fetched(world, ours, data, second, longest)
    return figures


def live(
    world: World, ours: Tool, peer: Tool | None, data: Dataset, rounds: int, longest: float
) -> dict[str, Any]:
    """A fetch that is started with its send, against the send alone and a peer's up and then down."""
    alone, both, after = [], [], []
    for _ in range(rounds):
        data.warm()
        alone.append(_good(run(*_start(world, ours, data), longest)).seconds)
        world.servers.empty()
        both.append(_together(world, ours, data, longest))
        world.servers.empty()
        if peer is not None:
            after.append(_good(run(*_start(world, peer, data), longest)).seconds)
            after[-1] += _fetched(world, peer, data, None, longest).seconds
            world.servers.empty()
    figures = {
        "full segments": int((data.size - RAMP) // FULL_SEGMENT),
        "one way s": round(statistics.median(alone), 2),
        "both done s": round(statistics.median(both), 2),
        "share of one way": round(statistics.median(both) / statistics.median(alone), 3),
    }
    if peer is not None:
        figures[f"{peer.name} up + down s"] = round(statistics.median(after), 2)
    return figures


def _together(world: World, ours: Tool, data: Dataset, longest: float) -> float:
    """Seconds from the send's start until both have ended."""
    target = world.folder / "target"
    target.mkdir()
    try:
        sending = Running(*_start(world, ours, data))
        both = [sending]
        try:
            ours.ticket = sending.event("ticket")["ticket"]
            command = ours.down(data.path, target)
            both.append(Running(command.argv, command.env, world.client))
            ends = [running.started + _good(running.end(longest)).seconds for running in both]
        finally:
            for running in both:
                running.kill()
        if not same(data.path, target / data.path.name):
            raise Failed("what came down is not what went up")
        return max(ends) - sending.started
    finally:
        remove(target)


def _start(world: World, tool: Tool, data: Dataset) -> tuple[list[str], Any, Any]:
    command = tool.up(data.path)
    return command.argv, command.env, world.client


def _fetched(world: World, tool: Tool, data: Dataset, sent: Ran | None, longest: float) -> Ran:
    """Brought down and compared. sent: ours, whose ticket it takes."""
    target = world.folder / "target"
    target.mkdir()
    try:
        if sent is not None:
            tool.ticket = sent.ticket
        command = tool.down(data.path, target)
        ran = _good(run(command.argv, command.env, world.client, longest))
        if not same(data.path, target / data.path.name):
            raise Failed("what came down is not what went up")
        return ran
    finally:
        remove(target)


def _good(ran: Ran) -> Ran:
    if ran.failure:
        raise Failed(ran.failure)
    return ran
