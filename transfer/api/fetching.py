"""The verbs that whoever holds a job's ticket needs: open it, read its segments, give a receipt."""

from __future__ import annotations

import msgspec

from transfer.api.common import JobState, Request
from transfer.model import SegmentRef

MAX_GETS = 64
SEGMENT_PAGE = 512


class Open(Request, frozen=True):
    """verb `open`: what a ticket's holder may know."""

    job: str
    token: str


class Opened(msgspec.Struct, frozen=True):
    """owner: the user whose peer subject hears a hello. segments: how many are stored, from 0 on without a gap.

    store: as of `Created`.
    """

    owner: str
    state: JobState
    size: int | None
    segments: int
    expires: float
    cancelled: bool = False
    store: str = ""


class Segments(Request, frozen=True):
    """verb `segments`: references from `start` on, at most a page."""

    job: str
    token: str
    start: int


class SegmentPage(msgspec.Struct, frozen=True):
    refs: list[SegmentRef]
    state: JobState
    cancelled: bool = False


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
