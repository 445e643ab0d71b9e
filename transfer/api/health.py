"""The verbs that ask whether a broker is in order, down to bytes put into the store and read again."""

from __future__ import annotations

import msgspec

from transfer.api.common import Request, SignedUrl

MAX_PROBE = 1024
"""Bytes."""
PROBE_SLOTS = 16
"""Probes of one user at a time: bounds what anyone may leave behind."""


class Info(Request, frozen=True):
    """verb `info`: is anybody there, and is it in order?"""


class BrokerInfo(msgspec.Struct, frozen=True):
    """clock: seconds since 1970. skew: how far that is ahead of the store's, seconds."""

    version: str
    clock: float
    skew: float
    bucket: str


class Checkup(Request, frozen=True):
    """verb `checkup`: what the broker itself sees of all that it needs; answered even where nothing works."""


class CheckupReport(msgspec.Struct, frozen=True):
    """clock: seconds since 1970. skew: how far that is ahead of the store's, seconds; None: it never answered.

    store: what is wrong with it, "" for nothing. streams: name to what is wrong with it, likewise. broker: which one
    answers, for people. rights: what NATS forbids it of what it needs, as of `rights.missing`.
    """

    version: str
    clock: float
    skew: float | None
    bucket: str
    store: str
    streams: dict[str, str]
    broker: str = ""
    rights: list[str] = []


class Probe(Request, frozen=True):
    """verb `probe`: URLs to put a few bytes outside of all jobs, and to read them again. slot: 0 … PROBE_SLOTS - 1.

    length and crc32c: as in `PartToSign`. `probe_end` with the same slot deletes them.
    """

    slot: int
    length: int
    crc32c: str


class ProbeUrls(msgspec.Struct, frozen=True):
    """broker: as of `CheckupReport`; it signed them."""

    put: SignedUrl
    get: SignedUrl
    broker: str = ""


class ProbeEnd(Request, frozen=True):
    """verb `probe_end`."""

    slot: int


class ProbeEnded(msgspec.Struct, frozen=True):
    pass
