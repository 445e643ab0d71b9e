"""What a client asks of the broker and what it answers: JSON over NATS request-reply.

Subject: `xfer.api.<user>.<verb>`; the NATS server pins <user>, so identity is no field here. Every
request is idempotent: repeating one whose answer was lost gives the same answer. Unknown fields
are ignored; a request of a version that the broker does not know is refused by name.
"""

from __future__ import annotations

import enum

import msgspec

from transfer.model import SegmentRef

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


class Create(Request, frozen=True):
    """verb `create`. size: declared raw bytes, None if unknown. expire: seconds it is kept once stored.

    token_hash: `seal.hash_token` of the ticket's token. fetches: distinct receipts after which the
    objects go; None: no limit. A second create of the same job with the same hash by the same owner succeeds.
    run: chosen by the client, another one for each run of a send. `status` with another one says that that run goes on
    with the job, and from then on `begin`, `complete` and `finish` (as stored) of earlier runs are refused: what a killed
    run said last may arrive late. At most 64 letters, digits, `-` and `_`; empty: of no run.
    """

    job: str
    token_hash: str
    size: int | None
    expire: float
    fetches: int | None = None
    run: str = ""


class Created(msgspec.Struct, frozen=True):
    """expires: when an unfinished job is swept, seconds since 1970 by the broker's clock."""

    job: str
    expires: float


class Open(Request, frozen=True):
    """verb `open`: what a ticket's holder may know."""

    job: str
    token: str


class Opened(msgspec.Struct, frozen=True):
    """owner: the user whose peer subject hears a hello. segments: how many are stored, from 0 on without a gap."""

    owner: str
    state: JobState
    size: int | None
    segments: int
    expires: float
    cancelled: bool = False


class Segments(Request, frozen=True):
    """verb `segments`: references from `start` on, at most a page."""

    job: str
    token: str
    start: int


class SegmentPage(msgspec.Struct, frozen=True):
    refs: list[SegmentRef]
    state: JobState
    cancelled: bool = False


class Begin(Request, frozen=True):
    """verb `begin`: open a multipart upload for a segment. One that is open already is aborted (its parts go), unless
    it was opened by a request of the same key, which gets it again.

    key: chosen by the client, a new one for every call; at most 64 letters, digits, `-` and `_`. Empty: like no other.
    """

    job: str
    segment: int
    key: str = ""
    run: str = ""


class Begun(msgspec.Struct, frozen=True):
    upload: str


class PartToSign(msgspec.Struct, frozen=True):
    """number: 1-based part number. length: bytes. crc32c: base64 of the 4 big-endian bytes, as S3 wants it."""

    number: int
    length: int
    crc32c: str


class SignParts(Request, frozen=True):
    """verb `sign_parts`: URLs good for exactly these lengths and checksums, for minutes."""

    job: str
    segment: int
    upload: str
    parts: list[PartToSign]


class SignedUrl(msgspec.Struct, frozen=True):
    """headers must be sent as they are: they are part of the signature."""

    url: str
    headers: dict[str, str]

    def __repr__(self) -> str:
        return "SignedUrl(withheld)"


class SignedUrls(msgspec.Struct, frozen=True):
    urls: list[SignedUrl]


class ListParts(Request, frozen=True):
    """verb `list_parts`: what the store has of an open upload (asked of the store, not of a record)."""

    job: str
    segment: int
    upload: str


class StoredPart(msgspec.Struct, frozen=True):
    number: int
    etag: str
    length: int
    crc32c: str


class PartList(msgspec.Struct, frozen=True):
    """open: False if the store no longer knows the upload."""

    parts: list[StoredPart]
    open: bool


class Complete(Request, frozen=True):
    """verb `complete`: join the parts, then record the segment. index: bytes of the sealed index at the tail."""

    job: str
    segment: int
    upload: str
    parts: list[StoredPart]
    index: int
    run: str = ""


class Completed(msgspec.Struct, frozen=True):
    ref: SegmentRef


class Finish(Request, frozen=True):
    """verb `finish`: the sender is done. outcome: stored (S3 can serve it all), delivered (a receipt
    was seen, nothing need be kept) or void (it will never be complete). segments: how many there must be."""

    job: str
    outcome: JobState
    segments: int = 0
    run: str = ""


class Finished(msgspec.Struct, frozen=True):
    state: JobState
    expires: float


class SignGets(Request, frozen=True):
    """verb `sign_gets`: read URLs for stored segments, at most 64 a request."""

    job: str
    token: str
    segments: list[int]


class GiveReceipt(Request, frozen=True):
    """verb `receipt`: the receiver's sealed statement (base64) for the sender to collect."""

    job: str
    token: str
    receiver: str
    sealed: str


class Done(msgspec.Struct, frozen=True):
    state: JobState


class Status(Request, frozen=True):
    """verb `status`, owner only. full: count the stored bytes as well, which costs the broker some reads.

    run: that run goes on with the job (see `Create`); empty: it is only looked at.
    """

    job: str
    full: bool = False
    run: str = ""


class JobStatus(msgspec.Struct, frozen=True):
    """receipts: sealed, base64. complete: numbers of the stored segments. open_uploads: segment number to upload id.

    size: declared raw bytes. created: seconds since 1970. expire: seconds it is kept once stored. fetches: as in
    Create. receivers: ids of those who gave a receipt. stored: bytes of the stored segments, None unless asked for.
    cancelled: its owner made it void, and not its sender's trouble.
    """

    state: JobState
    complete: list[int]
    expires: float
    receipts: list[str]
    open_uploads: dict[int, str]
    size: int | None = None
    created: float = 0.0
    expire: float = 0.0
    fetches: int | None = None
    receivers: list[str] = []
    stored: int | None = None
    cancelled: bool = False


class ListJobs(Request, frozen=True):
    """verb `list`: the user's own jobs, by their ids, at most a page. after: ids beyond this one. begins: how they begin.

    states: only these; empty: all.
    """

    states: list[JobState] = []
    begins: str = ""
    after: str = ""


class JobLine(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. fetched: how many receipts there are; the others as in JobStatus."""

    job: str
    state: JobState
    size: int | None
    created: float
    expires: float
    fetched: int
    fetches: int | None


class JobPage(msgspec.Struct, frozen=True):
    """more: there are others, beyond the last one here."""

    jobs: list[JobLine]
    more: bool


class Pause(Request, frozen=True):
    """verb `pause`, owner only: an unfinished job's sender stops until `resume`; what is under way is completed.

    key: as of `Begin`, here and in `Resume` and `Extend`: a copy that comes late changes nothing any more.
    """

    job: str
    key: str = ""


class Resume(Request, frozen=True):
    """verb `resume`, owner only: a paused job goes on wherever it runs."""

    job: str
    key: str = ""


class Cancel(Request, frozen=True):
    """verb `cancel`, owner only: the job is void, its objects go; whoever asks within a day hears so."""

    job: str


class Remove(Request, frozen=True):
    """verb `remove`, owner only: as `cancel`, in whatever state it is, and it is forgotten at once."""

    job: str


class Extend(Request, frozen=True):
    """verb `extend`, owner only. expire: seconds from now, of a stored job; from its completion, of an unfinished one."""

    job: str
    expire: float
    key: str = ""


class Changed(msgspec.Struct, frozen=True):
    """The job as it is now."""

    job: str
    state: JobState
    expires: float


class Nudge(msgspec.Struct, frozen=True, kw_only=True):
    """What brokers say on a job's control subject. A hint: the record rules. revision: counts up with each change."""

    v: int = VERSION
    state: JobState
    revision: int


class History(Request, frozen=True):
    """verb `history`: what the user's sends of that job announced, from a sequence of the stream on, at most a page."""

    job: str
    start: int = 0


class Past(msgspec.Struct, frozen=True):
    """said: the announcement as it was published. lasting: it is one of those that are kept for days."""

    sequence: int
    lasting: bool
    said: msgspec.Raw


class HistoryPage(msgspec.Struct, frozen=True):
    """first, last: of the whole stream, all jobs; what is before `first` is not kept any more. more: ask on from the
    sequence after the last one here."""

    past: list[Past]
    first: int
    last: int
    more: bool


class Usage(Request, frozen=True):
    """verb `usage`. user: None for oneself. all: everybody's, for admins; the page after the user `after`."""

    user: str | None = None
    all: bool = False
    after: str = ""


class Used(msgspec.Struct, frozen=True):
    """limit: None if there is none. resets: when it is 0 again, seconds since 1970; None where that is not by time."""

    used: int
    limit: int | None
    resets: float | None


class UserUsage(msgspec.Struct, frozen=True):
    """bytes moved in this day and this month (UTC), bytes stored, jobs open. user: empty for all together."""

    user: str
    day: Used
    month: Used
    stored: Used
    jobs: Used
    requests_per_minute: int | None


class UsageReport(msgspec.Struct, frozen=True):
    """more: there is another page. total: of all users together, with the first page."""

    users: list[UserUsage]
    more: bool
    total: UserUsage | None


class Info(Request, frozen=True):
    """verb `info`: is anybody there, and is it in order?"""


class BrokerInfo(msgspec.Struct, frozen=True):
    """clock: seconds since 1970. skew: how far that is ahead of the store's, seconds."""

    version: str
    clock: float
    skew: float
    bucket: str


class DeadList(Request, frozen=True):
    """verb `dead_list`, admins only: what brokers owe the store and gave up, at most a page.

    begins: how the job's id does.
    """

    begins: str = ""


class DeadLetter(msgspec.Struct, frozen=True):
    """kind: of work, see `broker.debts`. reason: one sentence. time: seconds since 1970. tries: how often it was tried."""

    kind: str
    job: str
    reason: str
    time: float
    tries: int


class DeadLetters(msgspec.Struct, frozen=True):
    """more: how many there are beyond these."""

    letters: list[DeadLetter]
    more: int


class DeadRetry(Request, frozen=True):
    """verb `dead_retry`, admins only: queue it again. job: None for a page of all of them."""

    job: str | None = None


class DeadDrop(Request, frozen=True):
    """verb `dead_drop`, admins only: nobody owes it any more. job: as above."""

    job: str | None = None


class DeadSettled(msgspec.Struct, frozen=True):
    """jobs: of those that were retried or dropped; none if there is no such letter (any more)."""

    jobs: list[str]


DEAD_PAGE = 200
MAX_SEGMENTS = 100_000
"""A job has near 2,000; this only bounds what anyone may claim."""
MAX_GETS = 64
MAX_PARTS_TO_SIGN = 64
SEGMENT_PAGE = 512


class Checkup(Request, frozen=True):
    """verb `checkup`: what the broker itself sees of all that it needs; answered even where nothing works."""


class CheckupReport(msgspec.Struct, frozen=True):
    """clock: seconds since 1970. skew: how far that is ahead of the store's, seconds; None: it never answered.

    store: what is wrong with it, "" for nothing. streams: name to what is wrong with it, likewise.
    """

    version: str
    clock: float
    skew: float | None
    bucket: str
    store: str
    streams: dict[str, str]


class Probe(Request, frozen=True):
    """verb `probe`: URLs to put a few bytes outside of all jobs, and to read them again. slot: 0 … PROBE_SLOTS - 1.

    length and crc32c: as in `PartToSign`. `probe_end` with the same slot deletes them.
    """

    slot: int
    length: int
    crc32c: str


class ProbeUrls(msgspec.Struct, frozen=True):
    put: SignedUrl
    get: SignedUrl


class ProbeEnd(Request, frozen=True):
    """verb `probe_end`."""

    slot: int


class ProbeEnded(msgspec.Struct, frozen=True):
    pass


MAX_PROBE = 1024
"""Bytes."""
PROBE_SLOTS = 16
"""Probes of one user at a time: bounds what anyone may leave behind."""
JOB_PAGE = 1000
"""Near 250 KB of JSON, a quarter of what NATS carries."""
HISTORY_PAGE = 128
"""At most 4 KB each (see `broker.streams`)."""
USAGE_PAGE = 200
