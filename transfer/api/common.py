"""What every verb's request and answer is made of: the envelope, the errors, a job's states, signed URLs."""

from __future__ import annotations

import enum

import msgspec

VERSION = 1


class JobState(enum.Enum):
    """open ⇄ paused → stored | delivered | void; stored → gone at its expiry or its last allowed receipt."""

    OPEN = "open"
    PAUSED = "paused"
    STORED = "stored"
    DELIVERED = "delivered"
    VOID = "void"

    @property
    def unfinished(self) -> bool:
        """Its sender has something to do yet."""
        return self in (JobState.OPEN, JobState.PAUSED)

    @property
    def settled(self) -> bool:
        """Its data is of no more use."""
        return self in (JobState.DELIVERED, JobState.VOID)


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.OPEN: frozenset({JobState.PAUSED, JobState.STORED, JobState.DELIVERED, JobState.VOID}),
    # What was under way is completed during a pause; where that was the last of it, nothing is left to wait with.
    JobState.PAUSED: frozenset({JobState.OPEN, JobState.STORED, JobState.DELIVERED, JobState.VOID}),
    JobState.STORED: frozenset({JobState.DELIVERED, JobState.VOID}),
    JobState.DELIVERED: frozenset(),
    JobState.VOID: frozenset(),
}


class ErrorCode(enum.Enum):
    BAD_REQUEST = "bad_request"
    VERSION = "version"
    NOT_FOUND = "not_found"
    NOT_ALLOWED = "not_allowed"
    CONFLICT = "conflict"
    PAUSED = "paused"
    OVER_QUOTA = "over_quota"
    STORE = "store"
    CLOCK = "clock"
    BUSY = "busy"
    INTERNAL = "internal"


class ApiError(msgspec.Struct, frozen=True):
    """The body of a refused request; sent with the micro service's error headers. retry_after: seconds.

    paced: it is about how often this user may ask, whatever was asked for.
    """

    code: ErrorCode
    message: str
    retry_after: float | None = None
    paced: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True):
    v: int = VERSION


class SignedUrl(msgspec.Struct, frozen=True):
    """headers must be sent as they are: they are part of the signature."""

    url: str
    headers: dict[str, str]

    def __repr__(self) -> str:
        return "SignedUrl(withheld)"


class SignedUrls(msgspec.Struct, frozen=True):
    urls: list[SignedUrl]
