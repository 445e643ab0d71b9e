"""What NATS does not let this broker do: noticed when it happens and tried now and then, said in its log, and its health.

A server that forbids something does not answer; without this there are only requests that take too long. It happens where
the broker's permissions are those of an older version.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque

from nats.aio.client import Client

from transfer import bus
from transfer.errors import BusUnreachable
from transfer.permissions import BROKER
from transfer.rights import missing

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two tries: so soon is it noticed that permissions were mended."""
KEPT = 256
MEND = "print and install its permissions again (`xfer broker permissions`)"
_FORBIDDEN = re.compile(r'permissions violation for (\w+) to "([^"]*)"', re.IGNORECASE)
_SHOWN = 3
"""Tokens of a subject that are said: jobs and users stand behind them."""


class Rights:
    """Of one connection. `heard` is for `bus.connect`, `keep` for the time after.

    missing: as of `rights.missing`; empty where all is well, or not known yet.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []
        self._refusals: deque[str] = deque(maxlen=KEPT)
        self._said: set[str] = set()

    def heard(self, text: str) -> None:
        """What the server forbade just now: a line in the log, but once for what is alike until the next try."""
        self._refusals.append(text)
        if text.startswith(bus.THROWN_OUT):
            self._say("NATS lets the broker in no more: it was removed there, or has a new key")
        elif (found := _FORBIDDEN.search(text)) and ".trial" not in text:
            tokens = found[2].split(".")
            subjects = ".".join([*tokens[:_SHOWN], ">"] if len(tokens) > _SHOWN else tokens)
            self._say(f"NATS does not let the broker {_VERBS.get(found[1].lower(), found[1])} {subjects}")

    async def keep(self, client: Client) -> None:
        """Try all that a broker needs, again and again, until cancelled."""
        while True:
            try:
                found = await missing(client, BROKER, self._refusals)
            except BusUnreachable:
                found = self.missing
            except Exception:  # whatever it is, a look at the rights must not end a broker that serves
                log.exception("trying what NATS allows failed")
                found = self.missing
            if found != self.missing:
                self._tell(found)
            self.missing = found
            self._said.clear()
            await asyncio.sleep(EVERY)

    @staticmethod
    def _tell(found: list[str]) -> None:
        if found:
            log.error("NATS does not let the broker %s; %s", ", ".join(found), MEND)
        else:
            log.info("NATS lets the broker do all that it needs again")

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            log.warning("%s", line)


_VERBS = {"publish": "publish to", "subscription": "subscribe to"}
