"""What a broker refused its users for now, in its log: one line for many that are alike, so that a flood is no flood there.

Requests over quota, over the rate or at a bad moment. Everything else that is refused is the asker's mistake.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging

from transfer.api import ApiError, ErrorCode
from transfer.broker import logs

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds that one user's refusals of one kind are counted for, before there is a line of them again."""
TOLD = frozenset({ErrorCode.OVER_QUOTA, ErrorCode.BUSY})
_Kind = tuple[str, ErrorCode]


class Refused:
    """Says the first at once, and every EVERY seconds how many came on top. Call it in the event loop."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._more: dict[_Kind, int] = {}
        self._newest: dict[_Kind, tuple[str, str]] = {}

    def note(self, user: str, verb: str, error: ApiError) -> None:
        """verb: one that is known, else "unknown"."""
        kind = (user, error.code)
        if error.code not in TOLD:
            return
        if kind in self._more:
            self._more[kind] += 1
            self._newest[kind] = verb, error.message
            return
        self._say(kind, verb, error.message, 1)

    def _count(self, kind: _Kind) -> None:
        if more := self._more.pop(kind):
            self._say(kind, *self._newest.pop(kind), more)

    def _say(self, kind: _Kind, verb: str, message: str, count: int) -> None:
        self._more[kind] = 0
        about = contextvars.Context()  # not that of the request which happens to begin it
        about.run(_write, *kind, verb, message, count)
        asyncio.get_running_loop().call_later(self._every, self._count, kind, context=about)


def _write(user: str, code: ErrorCode, verb: str, message: str, count: int) -> None:
    logs.about(user=user, verb=verb)
    times = f" {count} requests" if count > 1 else ""
    of = {"refused": code.value, "count": count}
    log.warning("refused user %s%s (%s): %s", user, times, code.value, message, extra=of)
