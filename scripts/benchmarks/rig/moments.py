"""What a table of speeds does not show of a direct transfer: how soon it begins, what a dead peer costs, its memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import memory
from .datasets import remove
from .direct import STARTS_WITHIN, Place, alike, good, killed

SETTLED = 1.5
"""Seconds after its ticket in which a sender comes to rest and waits for its peer."""
KILL_AT = 0.5


def first_byte(place: Place, file: Path, within: float) -> float:
    """Seconds from starting a fetch, its peer waiting, until the first frame has come. Raises OSError."""
    target = place.target()
    with killed(place.send(file, "--via", "webrtc")) as sending:
        ticket = sending.event("ticket", STARTS_WITHIN)["ticket"]
        time.sleep(SETTLED)
        with killed(place.fetch(ticket, target)) as fetching:
            began = fetching.until(_begun, within)
            ends = [fetching.end(within), sending.end(within)]
    for end in ends:
        good(end)
    alike(file, target)
    return began - fetching.started


def failover(place: Place, file: Path, within: float, *options: str) -> float:
    """Seconds from `kill -9` of a fetch at half of the file until its sender has turned to S3. Raises OSError.

    Both have a state of their own each time: what they left would be resumed.
    """
    size, turn, target = file.stat().st_size, place.turn(), place.target()

    def half(event: dict[str, Any]) -> bool:
        return event["event"] == "progress" and bool(event["done"] >= KILL_AT * size)

    with killed(place.send(file, *options, home=f"home-{turn}-send")) as sending:
        ticket = sending.event("ticket", STARTS_WITHIN)["ticket"]
        with killed(place.fetch(ticket, target, home=f"home-{turn}-fetch")) as fetching:
            fetching.until(half, within)
            if sending.event("route")["route"] != "webrtc":
                raise OSError("it did not go directly")
        died = time.perf_counter()
        if fetching.end(within).code == 0:
            raise OSError("it was done before it could be killed")
        turned = sending.until(lambda event: event["event"] == "route" and event["route"] == "s3", within)
        sending.kill()
        sending.end(within)
    return turned - died


def peaks(place: Place, file: Path, within: float) -> tuple[float, float]:
    """The most memory of send and of fetch above their imports, MB. Raises OSError, memory.Failed."""
    target, told = place.target(), {"PYTHONPROFILEIMPORTTIME": "1"}
    try:
        with killed(place.send(file, "--via", "webrtc", **told)) as sending:
            ticket = sending.event("ticket", STARTS_WITHIN)["ticket"]
            with killed(place.fetch(ticket, target, **told)) as fetching:
                fetched, sent = good(fetching.end(within)), good(sending.end(within))
        if memory.digest_of(target / file.name) != memory.digest_of(file):
            raise OSError("what arrived differs")
    finally:
        remove(target)
    above = [
        ran.peak - memory.imported(ran.stderr, env, where, place.folder)
        for ran, env, where in (
            (sent, place.environment("home-send"), place.near),
            (fetched, place.environment("home-fetch"), place.far),
        )
    ]
    return above[0] / 1e6, above[1] / 1e6


def _begun(event: dict[str, Any]) -> bool:
    """The first frame has come: that is when the route is said. Progress is said five times a second at most."""
    return event["event"] == "route" and bool(event["route"] == "webrtc")
