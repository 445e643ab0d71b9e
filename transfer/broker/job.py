"""A job's record and its law: what may happen to it, and what it is then. No I/O; time is an argument."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from transfer.api import TRANSITIONS, ApiError, ErrorCode, JobState
from transfer.broker.keys import DAY, lifetime_of
from transfer.broker.tally import Charge, Tally, settled
from transfer.errors import XferError
from transfer.seal import hash_token
from transfer.units import show_size

RECORD_VERSION = 1
WINDOW = 64
"""A segment may be begun this far beyond the gapless ones: bounds what a record must remember."""
MAX_OPEN = 8
"""Uploads of one job at a time. A sender has two; the others are those of a run that died."""
AGAIN = 64
"""How often, on average, each of a job's bytes may be signed. A sender signs a part again after half a URL's life if the
store is away (`outbound`), and what was under way when it died."""
MAX_FORMER = 16
"""Earlier runs of its sender that a record remembers."""
MAX_RECEIPTS = 64
"""Receipts kept for the sender; later ones are only counted."""
MAX_FETCHES = 1000
MAX_OWED = 64
"""Uploads of one job that are still to be dropped: bounds what a record must remember while the store drops none."""
SETTLED_LIFE = DAY
"""Seconds that a delivered or void job is remembered, so that its ticket's holders hear what became of it."""
OPEN_LIFE = 60 * DAY
"""Seconds after its creation in which a job must be complete, whatever progress it makes: only so can a rule of the
store that goes by the age of objects (see `lifecycle`) never hit one that is still needed."""

_NO_SUCH_HASH = "0" * 64


class Refusal(XferError):
    """A request that the broker turns down; `error` is what the client gets to see."""

    def __init__(
        self, code: ErrorCode, message: str, *, retry_after: float | None = None, paced: bool = False
    ) -> None:
        super().__init__(message)
        self.error = ApiError(code=code, message=message, retry_after=retry_after, paced=paced)


def not_found() -> Refusal:
    """One answer for a wrong token, a foreign job, one that never was and one that expired."""
    return Refusal(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")


def conflict(message: str) -> Refusal:
    return Refusal(ErrorCode.CONFLICT, message)


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What brokers know of a job.

    expires: seconds since 1970; an unfinished job's moves on with its progress. expire: seconds it is
    kept once stored. segments: how many are stored from 0 on without a gap; ahead: those stored beyond
    one. uploads: open ones, segment to upload id. begun: the keys of the requests that began these, and what is stored
    beyond a gap. receipts: receiver id to sealed statement (base64; empty
    for those beyond MAX_RECEIPTS). folder: where its objects lie. owed: uploads that must be dropped, id to
    segment; of a job that is stored their segments' objects as well. cleared: of a job that is not open any more, the
    store has been asked for what nobody knows of, and has nothing left that must go. signed: lengths of the parts of open
    uploads for which there are URLs, segment to part to bytes. issued: bytes of all URLs that there ever were.
    moved: bytes of all segments that were completed.
    charge: what the quota's book holds for it. run: of its sender, "" for one that does not say;
    former: earlier ones. changed: keys of the owner's last requests. cancelled: its owner made it void.
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
    begun: dict[int, str] = {}
    receipts: dict[str, str] = {}
    folder: str
    owed: dict[str, int] = {}
    cleared: bool = False
    signed: dict[int, dict[int, int]] = {}
    issued: int = 0
    moved: int = 0
    charge: Charge = Charge()
    run: str = ""
    former: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    cancelled: bool = False

    @property
    def settled(self) -> bool:
        """Delivered or void: its data is of no more use."""
        return self.state.settled

    @property
    def in_debt(self) -> bool:
        """Whether something of it must go from the store."""
        return bool(self.owed) or not (self.state.unfinished or self.cleared)

    @property
    def claimed(self) -> int:
        """Bytes that it has stored, or may store by the URLs there are."""
        return self.moved + sum(sum(parts.values()) for parts in self.signed.values())

    @property
    def should_hold(self) -> Tally:
        """What the book should hold for it."""
        if self.state.unfinished or not self.charge.id:
            return self.charge.held
        return settled(self.charge.held, self.moved, stored=not (self.settled and self.cleared))

    @property
    def unsettled(self) -> bool:
        """Whether the book holds something else for it than it should."""
        return self.should_hold != self.charge.held

    def recharged(self, key: str, held: Tally) -> JobRecord:
        """The book holds that now, by the step of that key; a step that was taken already changes nothing."""
        return replace(self, charge=self.charge.next(held)) if self.charge.key == key else self

    def sign(self, segment: int, upload: str, lengths: Mapping[int, int]) -> JobRecord:
        """There are URLs for parts of these lengths, part number to bytes.

        `claimed` counts a part once, however often it is sent, and not at all once its segment is begun anew. So that
        nobody keeps the store busy for ever with what counts as nothing, all URLs together are for AGAIN times what the
        job declared, or claims if that is more. Raises Refusal: conflict; over_quota beyond that.
        """
        self.check_upload(segment, upload)
        before = self.signed.get(segment, {})
        longest = {n: max(length, before.get(n, 0)) for n, length in lengths.items()}
        after = replace(
            self,
            signed={**self.signed, segment: {**before, **longest}},
            issued=self.issued + sum(lengths.values()),
        )
        most = AGAIN * max(self.size or 0, after.claimed)
        if after.issued > most:
            raise Refusal(
                ErrorCode.OVER_QUOTA,
                f"over quota: the parts of that transfer were begun so often that {show_size(self.issued)} may have been "
                f"sent, and it may come to {show_size(most)} with all repetitions; send it anew",
            )
        return after

    def taken_over(self, run: str) -> JobRecord:
        """That run of its sender goes on with it: what earlier ones still have under way comes too late."""
        if not self.state.unfinished or run == self.run or run in self.former:
            return self  # a copy of a request that another run has overtaken comes too late itself
        return replace(self, run=run, former=(*self.former, self.run)[-MAX_FORMER:])

    def check_run(self, run: str) -> None:
        """Raises Refusal (conflict) if another run goes on with the job."""
        if run and self.run and run != self.run and self.state.unfinished:
            raise conflict("another run goes on with that job")

    def check_end(self, outcome: JobState, run: str) -> None:
        """Raises Refusal (conflict) if another run goes on with the job, or has stored it and this one would void it.

        `delivered` is anybody's to say: that a receiver has every byte is so, whichever run gave it.
        """
        if outcome is JobState.DELIVERED:
            return
        self.check_run(run)
        if (
            outcome is JobState.VOID
            and self.state is JobState.STORED
            and run
            and self.run
            and run != self.run
        ):
            raise conflict("another run has stored that job")

    def _unsigned(self, segment: int) -> dict[int, dict[int, int]]:
        return {n: parts for n, parts in self.signed.items() if n != segment}

    def expired(self, now: float) -> bool:
        return now >= self.expires

    def has(self, segment: int) -> bool:
        """Whether this segment is stored."""
        return segment < self.segments or segment in self.ahead

    def has_begun(self, segment: int, key: str) -> bool:
        """Whether the segment's upload is open at this very request, which is repeated then. key: "" is like no other."""
        return self.state is JobState.OPEN and self._began(segment, key) and segment in self.uploads

    def check_moving(self) -> None:
        """Raises Refusal (conflict; paused) if nothing more of it may be stored now."""
        self._check_unfinished()
        if self.state is JobState.PAUSED:
            raise Refusal(ErrorCode.PAUSED, "that job is paused by its owner")

    def check_begin(self, segment: int, key: str = "") -> None:
        """Raises Refusal (conflict; paused; busy) if no upload may be opened for this segment."""
        self.check_moving()
        if segment < self.segments or (segment in self.ahead and self._began(segment, key)):
            raise conflict(f"segment {segment} is stored already")
        if segment >= self.segments + WINDOW:
            raise conflict(f"segment {segment} is too far beyond the stored ones")
        if segment not in self.uploads and len(self.uploads) >= MAX_OPEN:
            raise conflict("too many segments of that job are open at once")
        if len(self.owed) >= MAX_OWED:
            raise Refusal(
                ErrorCode.BUSY, "the store has yet to drop earlier uploads of that job", retry_after=5.0
            )

    def begin(self, segment: int, upload: str, key: str = "", *, now: float, life: float) -> JobRecord:
        """Remember an open upload; it replaces an earlier one, which is owed, and a stored segment beyond a gap.

        A request whose upload is open keeps that one. life: seconds that an unfinished job lives without progress, here
        and in `complete`.
        """
        if self.has_begun(segment, key):
            return self
        self.check_begin(segment, key)
        replaced = self.uploads.get(segment, upload)
        return replace(
            self.owe({replaced: segment} if replaced != upload else {}),
            uploads={**self.uploads, segment: upload},
            begun={**self.begun, segment: key},
            ahead=tuple(n for n in self.ahead if n != segment),
            expires=self._progress(now, life),
            signed=self._unsigned(segment),
        )

    def check_upload(self, segment: int, upload: str) -> None:
        """Raises Refusal (conflict) unless this very upload is open; it is during a pause, too."""
        self._check_unfinished()
        if self.uploads.get(segment) != upload:
            raise conflict(f"that upload of segment {segment} is not open any more")

    def complete(self, segment: int, upload: str, *, now: float, life: float, size: int = 0) -> JobRecord:
        """The segment's object, of that size, is whole at the store; repeating it changes nothing. Too late, it is owed."""
        if self.settled:
            return self.owe({upload: segment})
        if self.has(segment):
            return self
        self.check_upload(segment, upload)
        stored = {*self.ahead, segment}
        segments = self.segments
        while segments in stored:
            stored.remove(segments)
            segments += 1
        uploads = {n: u for n, u in self.uploads.items() if n != segment}
        return replace(
            self,
            segments=segments,
            ahead=tuple(sorted(stored)),
            uploads=uploads,
            begun={n: key for n, key in self.begun.items() if n in uploads or n in stored},
            expires=self._progress(now, life),
            signed=self._unsigned(segment),
            moved=self.moved + size,
        )

    def finish(self, outcome: JobState, segments: int, *, now: float) -> JobRecord:
        """The sender is done. Its expiry counts from here; repeating it changes nothing.

        A job that was delivered meanwhile (its last receipt can overtake the sender's `stored`) stays so.
        """
        if outcome.unfinished:
            raise Refusal(ErrorCode.BAD_REQUEST, f"a job cannot be finished as {outcome.value}")
        if outcome is self.state or (self.state, outcome) == (JobState.DELIVERED, JobState.STORED):
            return self
        if outcome not in TRANSITIONS[self.state]:
            raise conflict(f"that job is {self.state.value} already")
        if outcome is not JobState.STORED:
            return self.settle(outcome, now=now)
        if segments < 1 or self.segments != segments or self.ahead:
            raise conflict(f"{self.segments} segments are stored without a gap, not {segments}")
        left_over = {upload: segment for segment, upload in self.uploads.items()}
        return replace(
            self.owe(left_over), state=outcome, uploads={}, begun={}, signed={}, expires=now + self.expire
        )

    def pause(self, paused: bool, *, now: float, life: float) -> JobRecord:
        """Paused, or open again; repeating it changes nothing. Its time without progress counts from here."""
        wanted = JobState.PAUSED if paused else JobState.OPEN
        if wanted is self.state:
            return self
        if wanted not in TRANSITIONS[self.state]:
            raise conflict(f"that job is {self.state.value}: nothing of it moves any more")
        return replace(self, state=wanted, expires=self._progress(now, life))

    def cancel(self, *, now: float) -> JobRecord:
        """Void; repeating it changes nothing. Raises Refusal (conflict) if it was delivered."""
        if self.state is JobState.VOID:
            return self
        return replace(self.finish(JobState.VOID, 0, now=now), cancelled=True)

    def remove(self, *, now: float) -> JobRecord:
        """Whatever it was, nobody is told of it any more, and its objects go."""
        if JobState.VOID in TRANSITIONS[self.state]:
            return replace(self.settle(JobState.VOID, now=now), expires=now)
        return replace(self, expires=min(now, self.expires))

    def extend(self, expire: float, *, now: float) -> JobRecord:
        """A new expiry: of a stored job from now on, of an unfinished one from its completion.

        Raises Refusal (bad request) for more than the bucket's rules let its objects live; conflict for a settled job.
        """
        if self.settled:
            raise conflict(f"that job is {self.state.value}: it is not kept any longer")
        most = lifetime_of(self.folder)
        if self.state is JobState.STORED:  # no object is older than the job
            most += self.created + OPEN_LIFE - now
        if expire > most:
            raise Refusal(
                ErrorCode.BAD_REQUEST,
                f"that job may be kept for {max(0.0, most) / DAY:.0f} days more at most, as it was made for no longer; "
                "send it anew for a longer time",
            )
        return replace(
            self, expire=expire, expires=now + expire if self.state is JobState.STORED else self.expires
        )

    def settle(self, outcome: JobState, *, now: float) -> JobRecord:
        """Delivered or void: what the store has of it can go."""
        return replace(self, state=outcome, expires=now + SETTLED_LIFE, cleared=False)

    def void_expired(self, now: float) -> JobRecord:
        """An expired job is void, and stays expired; one that is not due after all stays as it is."""
        if self.settled or not self.expired(now):
            return self
        return replace(self, state=JobState.VOID, cleared=False)

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

    def owe(self, uploads: Mapping[str, int]) -> JobRecord:
        """These must be dropped, with what they may have become: upload id to segment."""
        return replace(self, owed={**self.owed, **uploads})

    def paid(self, debtor: JobRecord) -> JobRecord:
        """What `debtor`, an earlier state of this record, had to drop is gone; what is owed since then is not."""
        owed = {upload: segment for upload, segment in self.owed.items() if upload not in debtor.owed}
        if debtor.state.unfinished or debtor.state is not self.state:
            return replace(self, owed=owed)
        return replace(self, owed=owed, uploads={}, cleared=True)

    def _progress(self, now: float, life: float) -> float:
        """When it expires if it makes none any more."""
        return min(now + life, self.created + OPEN_LIFE)

    def _began(self, segment: int, key: str) -> bool:
        return bool(key) and self.begun.get(segment) == key

    def _check_unfinished(self) -> None:
        if not self.state.unfinished:
            raise conflict(f"that job is {self.state.value} already")


def admit_owner(record: JobRecord | None, user: str, now: float) -> JobRecord:
    """Raises Refusal (not found) unless this user made the job."""
    if record is None or record.owner != user or record.expired(now):
        raise not_found()
    return record


def admit_holder(record: JobRecord | None, token: str, now: float) -> JobRecord:
    """Raises Refusal (not found) unless the token is the job's. The comparison is made without a job, too."""
    fits = proves(token, None if record is None else record.token_hash)
    if record is None or not fits or record.expired(now):
        raise not_found()
    return record


def proves(token: str, expected: str | None) -> bool:
    """Whether that is the token's hash; it takes the same time whatever is the case. expected: None where there is none."""
    return hmac.compare_digest(hash_token(token), expected or _NO_SUCH_HASH)
