"""What a request may say: the bounds of its fields, looked at before anything else. Each raises Refusal (bad request)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from transfer import api
from transfer.broker.job import MAX_FETCHES, Refusal
from transfer.broker.keys import MAX_EXPIRE
from transfer.model import SegmentRef
from transfer.ticket import is_job_id

MAX_SEGMENT = 100_000
MAX_PART = 10_000
MAX_PART_LENGTH = 5 << 30
"""Source: Amazon S3 multipart upload limits: 10,000 parts of at most 5 GiB."""
MAX_SIZE = 1 << 62
MAX_RECEIPT = 4096
"""Bytes of a sealed receipt, before base64."""
MAX_TOKEN = 256
MAX_UPLOAD_ID = 1024
_HASH = re.compile(r"[0-9a-f]{64}")
_RECEIVER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ETAG = re.compile(r"[A-Za-z0-9_.+/=-]{1,128}")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CRC32C = re.compile(r"[A-Za-z0-9+/]{6}==")


def check(fine: bool, complaint: str) -> None:
    if not fine:
        raise Refusal(api.ErrorCode.BAD_REQUEST, complaint)


def check_token(token: str) -> None:
    check(len(token) <= MAX_TOKEN, "the token is too long")


def check_hash(text: str) -> None:
    check(_HASH.fullmatch(text) is not None, "the token's hash is none")


def check_sealed(sealed: str, most: int, complaint: str) -> None:
    """Of 1 to `most` bytes, base64."""
    try:
        length = len(base64.b64decode(sealed, validate=True))
    except (binascii.Error, ValueError):
        length = 0
    check(1 <= length <= most, complaint)


def check_job(job: str) -> None:
    check(is_job_id(job), "that is no job id")


def check_run(run: str) -> None:
    check(not run or _KEY.fullmatch(run) is not None, "the run is none")


def check_segment(segment: int) -> None:
    check(0 <= segment < MAX_SEGMENT, "the segment's number is out of bounds")


def check_upload(segment: int, upload: str) -> None:
    check_segment(segment)
    check(0 < len(upload) <= MAX_UPLOAD_ID, "the upload id is none")


def check_part(number: int, length: int) -> None:
    check(1 <= number <= MAX_PART, "a part's number is out of bounds")
    check(1 <= length <= MAX_PART_LENGTH, "a part's length is out of bounds")


def check_create(request: api.Create) -> None:
    check_job(request.job)
    check_hash(request.token_hash)
    check(request.size is None or 0 <= request.size <= MAX_SIZE, "the size is out of bounds")
    check_expire(request.expire)
    check(
        request.fetches is None or 1 <= request.fetches <= MAX_FETCHES,
        f"between 1 and {MAX_FETCHES} fetches can be counted; leave the limit out for more",
    )
    check_run(request.run)


def check_expire(expire: float) -> None:
    check(0 < expire <= MAX_EXPIRE, "the expiry must be between 0 seconds and 10 years")


def check_begin(request: api.Begin) -> None:
    check_segment(request.segment)
    check(not request.key or _KEY.fullmatch(request.key) is not None, "the key is none")


def check_sign(request: api.SignParts) -> None:
    check_upload(request.segment, request.upload)
    check(1 <= len(request.parts) <= api.MAX_PARTS_TO_SIGN, "too many parts, or none")
    for part in request.parts:
        check_part(part.number, part.length)
        check(_CRC32C.fullmatch(part.crc32c) is not None, "a part's CRC32C is not base64 of 4 bytes")


def check_complete(request: api.Complete) -> SegmentRef:
    """The segment as it will be."""
    check_upload(request.segment, request.upload)
    check(1 <= len(request.parts) <= MAX_PART, "too many parts, or none")
    for part in request.parts:
        check_part(part.number, part.length)
        check(_ETAG.fullmatch(part.etag) is not None, "a part's ETag is none")
        check(
            not part.crc32c or _CRC32C.fullmatch(part.crc32c) is not None,
            "a part's CRC32C is not base64 of 4 bytes",
        )
    check(_rises(part.number for part in request.parts), "the parts are not in order")
    size = sum(part.length for part in request.parts)
    check(1 <= request.index <= size, "the index does not fit the segment")
    return SegmentRef(request.segment, size, request.index)


def _rises(numbers: Iterable[int]) -> bool:
    last = 0
    for number in numbers:
        if number <= last:
            return False
        last = number
    return True


def check_receipt(request: api.GiveReceipt) -> None:
    check(_RECEIVER.fullmatch(request.receiver) is not None, "the receiver's id is none")
    check_sealed(request.sealed, MAX_RECEIPT, "the receipt is not base64 of at most 4 KiB")
