"""What the operator's rules allow a user, and all users together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from transfer.units import size_of

UNLIMITED = 1 << 62
_MOST = UNLIMITED - 1
LIMITED = ("bytes_per_day", "bytes_per_month", "stored_bytes", "open_jobs")
"""What is counted, in this order (`Tally.counts`)."""


class Amount(int):
    """Bytes, as a number or as text (`10GB`); `unlimited` lifts a limit."""


class Count(int):
    """How many; `unlimited` lifts a limit."""


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is counted. None: nothing is said.

    Days and months are those of UTC; stored_bytes and open_jobs are what there is at any time.
    """

    bytes_per_day: Amount | None = None
    bytes_per_month: Amount | None = None
    stored_bytes: Amount | None = None
    open_jobs: Count | None = None

    @property
    def counts(self) -> tuple[int | None, int | None, int | None, int | None]:
        """In the order of LIMITED."""
        return self.bytes_per_day, self.bytes_per_month, self.stored_bytes, self.open_jobs


class TotalLimits(Counted, frozen=True, forbid_unknown_fields=True):
    """Of all users together."""

    def limits(self) -> Limits:
        return Limits(self.bytes_per_day, self.bytes_per_month, self.stored_bytes, self.open_jobs).over(
            Limits()
        )


class Limits(Counted, frozen=True, forbid_unknown_fields=True):
    """Of a user."""

    requests_per_minute: Count | None = None

    def over(self, defaults: Limits) -> Limits:
        """These, and what `defaults` say where these say nothing."""
        return Limits(
            *(_first(getattr(self, name), getattr(defaults, name)) for name in Limits.__struct_fields__)
        )


class Quota(Limits, frozen=True, forbid_unknown_fields=True):
    """The table `quota` of the rules: each user's limits, those of all together, and exceptions by name."""

    total: TotalLimits = TotalLimits()
    users: Mapping[str, Limits] = {}

    def of(self, user: str) -> Limits:
        """What holds for this user; None where there is no limit."""
        return self.users.get(user, Limits()).over(self)


def hook(kind: type, value: Any) -> Any:
    """For msgspec: reads an Amount or a Count. Raises ValueError, NotImplementedError."""
    if kind not in (Amount, Count):
        raise NotImplementedError
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a limit is a number, or text like 10GB")
    if value == "unlimited":
        return kind(UNLIMITED)
    if isinstance(value, str):
        if kind is Count:
            raise ValueError(f"{value!r} is no number")
        value = size_of(value)
    if not 0 <= value <= _MOST:
        raise ValueError(f"{value} is out of bounds")
    return kind(value)


def _first(said: Any, default: Any) -> Any:
    value = default if said is None else said
    return None if value == UNLIMITED else value
