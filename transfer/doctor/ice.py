"""STUN and TURN servers of a context: a real binding request, a real allocation."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterator
from typing import Any

from transfer.config import Context, Turn
from transfer.doctor.finding import Finding, away, failed
from transfer.errors import NotAllowed, XferError
from transfer.ice_urls import parse_stun, parse_turn
from transfer.unreachable import why

WITHIN = 4.0
"""Seconds for one server."""
_REFUSED = {401, 403, 437, 441}
"""Source: RFC 8656 section 19, RFC 8489 section 14.8: what a TURN server says to credentials it does not take."""


def checks(context: Context) -> Iterator[tuple[str, Coroutine[Any, Any, Finding]]]:
    """One for each server; a check's name is its server's kind."""
    for url in context.stun:
        yield "STUN", _told("STUN", url, _stun(url))
    for turn in context.turn:
        yield "TURN", _told("TURN", turn.url, _turn(turn))


async def _told(name: str, url: str, check: Coroutine[Any, Any, str]) -> Finding:
    begun = time.perf_counter()
    try:
        address = await check
    except XferError as error:
        return failed(name, error)
    except OSError as error:
        return away(
            name,
            f"{url}: {why(error) or error.strerror or error}",
            "check the name, and whether the server runs",
        )
    took = (time.perf_counter() - begun) * 1000
    return Finding(name, "ok", f"{url}: {took:.0f} ms, {address}")


async def _stun(url: str) -> str:
    from transfer.transports.asking import ask_stun

    return f"we are seen as {await ask_stun(*parse_stun(url))}"


async def _turn(turn: Turn) -> str:
    from transfer.transports.asking import Refused, ask_turn

    try:
        address = await ask_turn(parse_turn(turn.url, turn.username, turn.password))
    except Refused as refused:
        if refused.code in _REFUSED:
            raise NotAllowed(
                f"{turn.url} does not take the user {turn.username or '(none)'}",
                hint="save the context anew with --turn-user and --turn-password-file",
            ) from None
        raise OSError(f"it refuses an allocation ({refused.code})") from None
    return f"it relays from {address}"
