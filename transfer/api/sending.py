"""The verbs that a job's sender needs: create it, store its segments part by part, finish it."""

from __future__ import annotations

import msgspec

from transfer.api.common import JobState, Request
from transfer.model import SegmentRef

MAX_SEGMENTS = 100_000
"""A job has near 2,000; this only bounds what anyone may claim."""
MAX_PARTS_TO_SIGN = 64


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
    """expires: when an unfinished job is swept, seconds since 1970 by the broker's clock.

    store: scheme, host and port of the URLs that will be signed; empty if that is not known yet. A hint: connecting there
    takes a round trip or three, which can pass while the first URL is asked for.
    """

    job: str
    expires: float
    store: str = ""


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
