"""The verbs of a job's owner, from any host: look, list, change, and read what was announced."""

from __future__ import annotations

import msgspec

from transfer.api.common import VERSION, JobState, Request

JOB_PAGE = 1000
"""Near 250 KB of JSON, a quarter of what NATS carries."""
HISTORY_PAGE = 128
"""At most 4 KB each (see `broker.streams`)."""


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

    states: list[JobState] = msgspec.field(default_factory=list)
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
