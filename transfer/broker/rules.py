"""The operator's rules: a TOML file that may change while brokers run.

admins = ["ann"]        # users who may see and settle what the brokers owe (`xfer dead`), and everybody's usage

[quota]                 # of each user; what is not said is unlimited
bytes_per_day = "50GB"
[quota.total]           # of all users together
stored_bytes = "2TB"
[quota.users.ann]       # instead of what `quota` says; "unlimited" lifts it
bytes_per_day = "1TB"
"""

from __future__ import annotations

import asyncio
import logging
import tomllib
from pathlib import Path

import msgspec

from transfer.broker.limits import Quota, hook
from transfer.errors import NotConfigured, UsageError

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks at the file."""


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says. What it leaves out has the value given here."""

    admins: tuple[str, ...] = ()
    quota: Quota = Quota()


class RuleBook:
    """The rules in force: those of the file when it could last be read whole."""

    def __init__(self, path: Path | None) -> None:
        """path: None means that the defaults hold. Raises NotConfigured, UsageError."""
        self._path, self._seen = path, b""
        self.rules = Rules()
        if path is not None:
            self._seen = _content(path)
            self.rules = read(self._seen, path.name)

    async def keep_current(self) -> None:
        """Look at the file until cancelled; a mistake in it is logged once, and what held before goes on."""
        while self._path is not None:
            await asyncio.sleep(LOOK_EVERY)
            try:
                content = _content(self._path)
                if content == self._seen:
                    continue
                self._seen = content
                self.rules = read(content, self._path.name)
                log.info("the rules in %s have changed", self._path.name)
            except (NotConfigured, UsageError) as error:
                log.warning("the rules stay as they are: %s", error.what)


def read(content: bytes, name: str = "the rules") -> Rules:
    """name: of the file. Raises UsageError."""
    try:
        return msgspec.convert(tomllib.loads(content.decode()), Rules, dec_hook=hook)
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(
            f"the broker's rules in {name} make no sense: {error}",
            hint="mend that file; the operators' page (scripts/deploy) shows what may stand there",
        ) from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotConfigured(
            f"the broker's rules {path} cannot be read ({error.strerror})", hint="mend XFER_RULES"
        ) from None
