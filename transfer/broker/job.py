"""A job's record and its law: what may happen to it, and what it is then. No I/O; time is an argument."""

from __future__ import annotations

import hmac

import msgspec
from msgspec.structs import replace

from transfer.api import TRANSITIONS, ApiError, ErrorCode, JobState
from transfer.errors import XferError
from transfer.seal import hash_token

RECORD_VERSION = 1
WINDOW = 64
"""A segment may be begun this far beyond the gapless ones: bounds what a record must remember."""
MAX_OPEN = 8
"""Uploads of one job at a time. A sender has two; the others are those of a run that died."""
MAX_RECEIPTS = 64
"""Receipts kept for the sender; later ones are only counted."""
MAX_FETCHES = 1000
SETTLED_LIFE = 86_400.0
"""Seconds that a delivered or void job is remembered, so that its ticket's holders hear what became of it."""

_NO_SUCH_HASH = "0" * 64


class Refusal(XferError):
    """A request that the broker turns down; `error` is what the client gets to see."""

    def __init__(self, code: ErrorCode, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.error = ApiError(code=code, message=message, retry_after=retry_after)


def not_found() -> Refusal:
    """One answer for a wrong token, a foreign job, one that never was and one that expired."""
    return Refusal(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")


def conflict(message: str) -> Refusal:
    return Refusal(ErrorCode.CONFLICT, message)


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What brokers know of a job.

    expires: seconds since 1970; an unfinished job's moves on with its progress. expire: seconds it is
    kept once stored. segments: how many are stored from 0 on without a gap; ahead: those stored beyond
    one. uploads: open ones, segment to upload id. receipts: receiver id to sealed statement (base64; empty
    for those beyond MAX_RECEIPTS). erased: nothing of a settled job is left at the store.
    """

    v: int = RECORD_VERSION
    job: str
    owner: str
    token_hash: str
    size: int | None
    state: JobState = JobState.OPEN
    created: float
    expires: float
    expire: float
    fetches: int | None = None
    segments: int = 0
    ahead: tuple[int, ...] = ()
    uploads: dict[int, str] = {}
    receipts: dict[str, str] = {}
    erased: bool = False

    @property
    def settled(self) -> bool:
        """Delivered or void: its data is of no more use."""
        return self.state in (JobState.DELIVERED, JobState.VOID)

    def expired(self, now: float) -> bool:
        return now >= self.expires

    def has(self, segment: int) -> bool:
        """Whether this segment is stored."""
        return segment < self.segments or segment in self.ahead

    def check_begin(self, segment: int) -> None:
        """Raises Refusal (conflict) if no upload may be opened for this segment."""
        self._check_open()
        if segment < self.segments:
            raise conflict(f"segment {segment} is stored already")
        if segment >= self.segments + WINDOW:
            raise conflict(f"segment {segment} is too far beyond the stored ones")
        if segment not in self.uploads and len(self.uploads) >= MAX_OPEN:
            raise conflict("too many segments of that job are open at once")

    def begin(self, segment: int, upload: str, *, expires: float) -> JobRecord:
        """Remember an open upload; it replaces an earlier one, and a stored segment beyond a gap."""
        self.check_begin(segment)
        return replace(
            self,
            uploads={**self.uploads, segment: upload},
            ahead=tuple(n for n in self.ahead if n != segment),
            expires=expires,
        )

    def check_upload(self, segment: int, upload: str) -> None:
        """Raises Refusal (conflict) unless this very upload is open."""
        self._check_open()
        if self.uploads.get(segment) != upload:
            raise conflict(f"that upload of segment {segment} is not open any more")

    def complete(self, segment: int, upload: str, *, expires: float) -> JobRecord:
        """The segment's object is whole at the store. Repeating it changes nothing."""
        if self.has(segment):
            return self
        self.check_upload(segment, upload)
        stored = {*self.ahead, segment}
        segments = self.segments
        while segments in stored:
            stored.remove(segments)
            segments += 1
        uploads = {n: u for n, u in self.uploads.items() if n != segment}
        return replace(self, segments=segments, ahead=tuple(sorted(stored)), uploads=uploads, expires=expires)

    def finish(self, outcome: JobState, segments: int, *, now: float) -> JobRecord:
        """The sender is done. Its expiry counts from here; repeating it changes nothing.

        A job that was delivered meanwhile (its last receipt can overtake the sender's `stored`) stays so.
        """
        if outcome is JobState.OPEN:
            raise Refusal(ErrorCode.BAD_REQUEST, "a job cannot be finished as open")
        if outcome is self.state or (self.state, outcome) == (JobState.DELIVERED, JobState.STORED):
            return self
        if outcome not in TRANSITIONS[self.state]:
            raise conflict(f"that job is {self.state.value} already")
        if outcome is not JobState.STORED:
            return self.settle(outcome, now=now)
        if segments < 1 or self.segments != segments or self.ahead:
            raise conflict(f"{self.segments} segments are stored without a gap, not {segments}")
        return replace(self, state=outcome, uploads={}, expires=now + self.expire)

    def settle(self, outcome: JobState, *, now: float) -> JobRecord:
        """Delivered or void: what the store has of it can go."""
        return replace(self, state=outcome, expires=now + SETTLED_LIFE)

    def void_expired(self, now: float) -> JobRecord:
        """An expired job is void, and stays expired; one that is not due after all stays as it is."""
        if self.settled or not self.expired(now):
            return self
        return replace(self, state=JobState.VOID)

    def receive(self, receiver: str, sealed: str, *, now: float) -> JobRecord:
        """A receiver's statement. At the last allowed one the job is delivered; a void job has none."""
        if self.state is JobState.VOID:
            raise conflict("that job is void")
        if receiver in self.receipts:
            return self
        kept = sealed if len(self.receipts) < MAX_RECEIPTS else ""
        if not kept and self.fetches is None:
            return self
        if len(self.receipts) >= MAX_FETCHES:
            return self
        after = replace(self, receipts={**self.receipts, receiver: kept})
        if self.settled or self.fetches is None or len(after.receipts) < self.fetches:
            return after
        return after.settle(JobState.DELIVERED, now=now)

    def erase(self) -> JobRecord:
        """Nothing of it is left at the store."""
        return replace(self, uploads={}, erased=True)

    def unerase(self) -> JobRecord:
        """Something of it turned up at the store after all."""
        return replace(self, erased=False)

    def _check_open(self) -> None:
        if self.state is not JobState.OPEN:
            raise conflict(f"that job is {self.state.value} already")


def admit_owner(record: JobRecord | None, user: str, now: float) -> JobRecord:
    """Raises Refusal (not found) unless this user made the job."""
    if record is None or record.owner != user or record.expired(now):
        raise not_found()
    return record


def admit_holder(record: JobRecord | None, token: str, now: float) -> JobRecord:
    """Raises Refusal (not found) unless the token is the job's. The comparison is made without a job, too."""
    expected = _NO_SUCH_HASH if record is None else record.token_hash
    fits = hmac.compare_digest(hash_token(token), expected)
    if record is None or not fits or record.expired(now):
        raise not_found()
    return record
