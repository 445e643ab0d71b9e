"""What a broker refuses, as errors in our words."""

from __future__ import annotations

import msgspec

from transfer import api
from transfer.errors import (
    BrokerAbsent,
    ClockSkew,
    JobGone,
    Misuse,
    NotAllowed,
    OverQuota,
    StoreUnreachable,
    UnsupportedVersion,
    UsageError,
    XferError,
)


class Conflict(Misuse):
    """The broker's record says otherwise: another run of this job was quicker."""

    code = 11
    hint = "wait for the other run to end"


class JobPaused(Conflict):
    """The broker's record says: its owner has it wait."""

    hint = "`xfer resume JOB` goes on with it"


class BrokerBusy(BrokerAbsent):
    """A broker answers, but not for now."""

    hint = "run the same command again in a moment"


_ERRORS: dict[api.ErrorCode, type[XferError]] = {
    api.ErrorCode.BAD_REQUEST: UsageError,
    api.ErrorCode.NOT_FOUND: JobGone,
    api.ErrorCode.NOT_ALLOWED: NotAllowed,
    api.ErrorCode.OVER_QUOTA: OverQuota,
    api.ErrorCode.CLOCK: ClockSkew,
    api.ErrorCode.STORE: StoreUnreachable,
    api.ErrorCode.VERSION: UnsupportedVersion,
    api.ErrorCode.CONFLICT: Conflict,
    api.ErrorCode.PAUSED: JobPaused,
    api.ErrorCode.BUSY: BrokerBusy,
}


def refusal(body: bytes, headers: dict[str, str]) -> XferError:
    """The error that an answer stands for. body: an `api.ApiError`; headers: of the NATS micro service."""
    try:
        stated = msgspec.json.decode(body, type=api.ApiError)
    except msgspec.MsgspecError:
        return XferError(f"the broker failed: {headers.get('Nats-Service-Error', 'no reason given')}")
    kind = _ERRORS.get(stated.code, XferError)
    error = kind(stated.message, hint=_more_often(stated.retry_after) if stated.paced else None)
    error.retry_after = stated.retry_after
    return error


def _more_often(retry_after: float | None) -> str:
    """What to do for who asked more often than it may. retry_after: seconds; None: it may never ask."""
    more = "have the operator allow this user more requests_per_minute in the broker's rules"
    return f"run the same command again in {max(1, round(retry_after))} s, or {more}" if retry_after else more
