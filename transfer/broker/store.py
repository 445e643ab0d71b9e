"""The S3 store: multipart uploads, signed URLs, its opinion of our clock. The only importer of boto3.

boto3 blocks, so its calls run in threads of their own; its errors end here and become ours.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from transfer.api import PartList, PartToSign, SignedUrl, StoredPart
from transfer.errors import ClockSkew, ProtocolError, StoreUnreachable, XferError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

Result = TypeVar("Result")
Answer = dict[str, Any]

MAX_SKEW = 300.0
"""Seconds. S3 refuses beyond 15 minutes; before that URLs and expiry are already wrong by as much."""
MEASURED_LONG_AGO = 2.0
DELETE_BATCH = 1000
"""Source: S3 API reference, DeleteObjects takes up to 1,000 keys."""
_THREADS = 16
_PARTS_REFUSED = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "BadDigest", "InvalidRequest"}
_BUCKET_IS_THERE = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists", "OperationAborted"}
_KEY = re.compile(r"([a-z0-9]+)/([0-9]{6})")


class OpenUpload(NamedTuple):
    """A multipart upload that the store has open. since: seconds since 1970 by the store's clock."""

    job: str
    segment: int
    upload: str
    since: float


class _S3(Protocol):
    """What we use of boto3's client. Source: boto3 reference, S3.Client."""

    def head_bucket(self, **parameters: object) -> Answer: ...
    def create_bucket(self, **parameters: object) -> Answer: ...
    def create_multipart_upload(self, **parameters: object) -> Answer: ...
    def complete_multipart_upload(self, **parameters: object) -> Answer: ...
    def abort_multipart_upload(self, **parameters: object) -> Answer: ...
    def head_object(self, **parameters: object) -> Answer: ...
    def delete_objects(self, **parameters: object) -> Answer: ...
    def get_paginator(self, name: str) -> _Paginator: ...
    def generate_presigned_url(self, method: str, *, Params: Mapping[str, object], ExpiresIn: int) -> str: ...


class _Paginator(Protocol):
    def paginate(self, **parameters: object) -> Iterable[Answer]: ...


class Store:
    """One bucket of an S3 store. Every call may be made many times at once.

    Raises (any call): StoreUnreachable; ClockSkew if that is why the store refuses.
    """

    def __init__(
        self,
        *,
        endpoint_url: str | None,
        bucket: str,
        region: str | None = None,
        prefix: str = "xfer/",
        url_life: float = 900.0,
    ) -> None:
        """endpoint_url: None means AWS. prefix: of every key, ends with "/". url_life: seconds."""
        self.bucket = bucket
        self._endpoint_url, self._region, self._prefix = endpoint_url, region or "us-east-1", prefix
        self._url_life = math.ceil(url_life)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")
        self._making = threading.Lock()
        self._client: _S3 | None = None
        self._bucket_seen = False
        self._skew: float | None = None
        self._measured = -math.inf

    @property
    def skew(self) -> float:
        """Seconds that our clock is ahead of the store's, as far as is known."""
        return self._skew or 0.0

    @property
    def clock_is_wrong(self) -> bool:
        """Whether our clock and the store's differ by more than MAX_SKEW."""
        return abs(self.skew) > MAX_SKEW

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def ensure_bucket(self) -> None:
        """Make the bucket unless it is there. Whoever may not make one may still use one."""
        if not self._bucket_seen:
            await self._run(self._make_bucket)
            self._bucket_seen = True

    async def check(self) -> None:
        """Does the store answer, is the bucket there, do the clocks agree? Raises what is not so."""
        await (self._run(self._ask_anything) if self._bucket_seen else self.ensure_bucket())
        await self.check_clock()

    async def check_clock(self) -> None:
        """Raises ClockSkew if our clock and the store's differ by more than MAX_SKEW.

        Asks the store again if that was a while ago: a clock that was set right counts at once.
        """
        long_ago = time.monotonic() - self._measured > MEASURED_LONG_AGO
        if self._skew is None or (self.clock_is_wrong and long_ago):
            await self._run(self._ask_anything)
        if self.clock_is_wrong:
            raise self._clock_error()

    async def begin(self, job: str, segment: int) -> str:
        """Open a multipart upload whose parts carry CRC32C; its id."""
        await self.check_clock()
        await self.ensure_bucket()
        where = self._where(job, segment)
        answer = await self._run(lambda s3: s3.create_multipart_upload(**where, ChecksumAlgorithm="CRC32C"))
        return str(answer["UploadId"])

    async def sign_parts(
        self, job: str, segment: int, upload: str, parts: Sequence[PartToSign]
    ) -> list[SignedUrl]:
        """PUT URLs, each good for exactly one length and checksum."""
        await self.check_clock()
        where = {**self._where(job, segment), "UploadId": upload}

        def sign(s3: _S3, part: PartToSign) -> SignedUrl:
            bound = {"PartNumber": part.number, "ContentLength": part.length, "ChecksumCRC32C": part.crc32c}
            url = s3.generate_presigned_url(
                "upload_part", Params={**where, **bound}, ExpiresIn=self._url_life
            )
            headers = {"Content-Length": str(part.length), "x-amz-checksum-crc32c": part.crc32c}
            return SignedUrl(url, headers)

        return await self._run(lambda s3: [sign(s3, part) for part in parts])

    async def sign_gets(self, job: str, segments: Sequence[int]) -> list[SignedUrl]:
        """GET URLs, each good for one key."""
        await self.check_clock()

        def sign(s3: _S3, segment: int) -> SignedUrl:
            where = self._where(job, segment)
            return SignedUrl(
                s3.generate_presigned_url("get_object", Params=where, ExpiresIn=self._url_life), {}
            )

        return await self._run(lambda s3: [sign(s3, segment) for segment in segments])

    async def list_parts(self, job: str, segment: int, upload: str) -> PartList:
        """What the store has of an upload. crc32c is empty where the store does not list it (SeaweedFS)."""
        where = {**self._where(job, segment), "UploadId": upload}

        def work(s3: _S3) -> PartList:
            try:
                pages = list(s3.get_paginator("list_parts").paginate(**where))
            except _client_error() as error:
                if _code(error) == "NoSuchUpload":
                    return PartList([], open=False)
                raise
            rows = [row for page in pages for row in page.get("Parts", [])]
            return PartList([_stored_part(row) for row in rows], open=True)

        return await self._run(work)

    async def complete(self, job: str, segment: int, upload: str, parts: Sequence[StoredPart]) -> None:
        """Join the parts. Idempotent: an upload that is gone counts if its object is there in the right size.

        Raises ProtocolError if the store does not accept these parts, or they make another size than stated.
        """
        where = self._where(job, segment)
        size = sum(part.length for part in parts)
        rows = [_part_row(part) for part in parts]

        def work(s3: _S3) -> int | None:
            try:
                s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": rows})
            except _client_error() as error:
                if _code(error) in _PARTS_REFUSED:
                    raise ProtocolError(f"the store does not accept those parts ({_code(error)})") from None
                if _code(error) != "NoSuchUpload":
                    raise
            return _size_of(s3, where)

        found = await self._run(work)
        if found is None:
            raise ProtocolError(f"that upload of segment {segment} is not open any more")
        if found != size:
            raise ProtocolError(f"segment {segment} has {found} bytes, not {size} as stated")

    async def abort(self, job: str, segment: int, upload: str) -> None:
        """Drop an upload and its parts. One that is gone is fine."""
        where = self._where(job, segment)
        await self._run(lambda s3: _abort(s3, where, upload))

    async def erase(self, job: str, uploads: Mapping[int, str]) -> None:
        """Abort the job's uploads and delete its objects. Idempotent.

        uploads: those on record; MinIO does not list uploads by a prefix, so that these are named as well.
        """
        prefix = f"{self._prefix}{job}/"

        def work(s3: _S3) -> None:
            for segment, upload in uploads.items():
                _abort(s3, self._where(job, segment), upload)
            for row in self._listed(s3, "list_multipart_uploads", "Uploads", prefix):
                _abort(s3, {"Bucket": self.bucket, "Key": row["Key"]}, row["UploadId"])
            keys = [{"Key": row["Key"]} for row in self._listed(s3, "list_objects_v2", "Contents", prefix)]
            for at in range(0, len(keys), DELETE_BATCH):
                batch = {"Objects": keys[at : at + DELETE_BATCH], "Quiet": True}
                if s3.delete_objects(Bucket=self.bucket, Delete=batch).get("Errors"):
                    raise StoreUnreachable("the store did not delete some objects")

        await self._run(work)

    async def uploads(self) -> list[OpenUpload]:
        """Every open upload under the prefix that has the shape of one of ours."""

        def work(s3: _S3) -> list[OpenUpload]:
            found = []
            for row in self._listed(s3, "list_multipart_uploads", "Uploads", self._prefix):
                named = _KEY.fullmatch(row["Key"].removeprefix(self._prefix))
                if named:
                    since = row["Initiated"].timestamp()
                    found.append(OpenUpload(named[1], int(named[2]), row["UploadId"], since))
            return found

        return await self._run(work)

    def _where(self, job: str, segment: int) -> dict[str, object]:
        return {"Bucket": self.bucket, "Key": f"{self._prefix}{job}/{segment:06d}"}

    def _listed(self, s3: _S3, listing: str, rows: str, prefix: str) -> list[Answer]:
        try:
            pages = list(s3.get_paginator(listing).paginate(Bucket=self.bucket, Prefix=prefix))
        except _client_error() as error:
            if _code(error) == "NoSuchBucket":
                return []
            raise
        return [row for page in pages for row in page.get(rows, [])]

    def _ask_anything(self, s3: _S3) -> None:
        """Any answer, a refusal too, has a Date."""
        try:
            s3.head_bucket(Bucket=self.bucket)
        except _client_error() as error:
            if self._skew is None:
                raise StoreUnreachable(f"the store gives no date ({_code(error)})") from None

    def _make_bucket(self, s3: _S3) -> None:
        try:
            s3.head_bucket(Bucket=self.bucket)
            return
        except _client_error() as error:
            if _code(error) not in ("404", "NoSuchBucket"):
                raise
        placed: dict[str, object] = {}
        if self._endpoint_url is None and self._region != "us-east-1":  # AWS wants it named everywhere else
            placed = {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        try:
            s3.create_bucket(Bucket=self.bucket, **placed)
        except _client_error() as error:
            if _code(error) == "AccessDenied":
                raise StoreUnreachable(
                    f"there is no bucket {self.bucket}, and the broker may not make it"
                ) from None
            if _code(error) not in _BUCKET_IS_THERE:
                raise

    async def _run(self, work: Callable[[_S3], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._translated, work)

    def _translated(self, work: Callable[[_S3], Result]) -> Result:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            CredentialRetrievalError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        try:
            return work(self._connected())
        except ClientError as error:
            raise self._refusal(_code(error)) from None
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError):
            raise StoreUnreachable(
                "the broker has no credentials for the store",
                hint="give the broker AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ) from None
        except (BotoCoreError, OSError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise StoreUnreachable(f"the store does not answer the broker ({type(error).__name__})") from None

    def _connected(self) -> _S3:
        with self._making:
            if self._client is None:
                import boto3
                from botocore.config import Config

                config = Config(
                    signature_version="s3v4",
                    s3={"addressing_style": "path"},
                    connect_timeout=2,
                    read_timeout=8,
                    retries={"total_max_attempts": 2, "mode": "standard"},
                    max_pool_connections=_THREADS,
                    # The default adds a checksum that stores other than AWS refuse.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )
                client = boto3.session.Session().client(
                    "s3", endpoint_url=self._endpoint_url, region_name=self._region, config=config
                )
                client.meta.events.register("response-received.s3", self._learn_skew)
                self._client = client
            return self._client

    def _learn_skew(self, response_dict: Answer | None, **_event: object) -> None:
        date = (response_dict or {}).get("headers", {}).get("Date")
        if not date:
            return
        try:
            theirs = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        self._skew, self._measured = time.time() - theirs, time.monotonic()

    def _refusal(self, code: str) -> XferError:
        if code == "RequestTimeTooSkewed" or self.clock_is_wrong:
            return self._clock_error()
        if code == "NoSuchBucket":
            self._bucket_seen = False
        return StoreUnreachable(f"the store refuses the broker ({code})")

    def _clock_error(self) -> ClockSkew:
        minutes = max(1, round(abs(self.skew) / 60))
        side = "ahead of" if self.skew > 0 else "behind"
        plural = "" if minutes == 1 else "s"
        return ClockSkew(f"the broker's clock is {minutes} minute{plural} {side} the store's")


def _client_error() -> type[ClientError]:
    from botocore import exceptions

    kind: type[ClientError] = exceptions.ClientError
    return kind


def _code(error: ClientError) -> str:
    """The store's code alone: its message may hold keys and addresses."""
    code = str(error.response.get("Error", {}).get("Code", "no code"))
    return re.sub(r"[^A-Za-z0-9 ]", "", code)[:64]


def _abort(s3: _S3, where: Mapping[str, object], upload: str) -> None:
    try:
        s3.abort_multipart_upload(**where, UploadId=upload)
    except _client_error() as error:
        if _code(error) not in ("NoSuchUpload", "NoSuchBucket"):
            raise


def _size_of(s3: _S3, where: Mapping[str, object]) -> int | None:
    try:
        return int(s3.head_object(**where)["ContentLength"])
    except _client_error() as error:
        if _code(error) in ("404", "NoSuchKey"):
            return None
        raise


def _stored_part(row: Answer) -> StoredPart:
    return StoredPart(
        number=row["PartNumber"],
        etag=row["ETag"].strip('"'),
        length=row["Size"],
        crc32c=row.get("ChecksumCRC32C", ""),
    )


def _part_row(part: StoredPart) -> dict[str, object]:
    checksum = {"ChecksumCRC32C": part.crc32c} if part.crc32c else {}
    return {"PartNumber": part.number, "ETag": part.etag, **checksum}
