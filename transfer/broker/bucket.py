"""One bucket of an S3 store: the connection to it, whether it is there, its opinion of our clock. The only importer of boto3.

boto3 blocks, so its calls run in threads of their own; its errors end here and become ours.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from transfer.broker.observer import SILENT, Observer
from transfer.errors import ClockSkew, StoreUnreachable, Temporary, XferError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

Result = TypeVar("Result")
Answer = dict[str, Any]

CHECKED = "1."
"""The versions of botocore whose insides were looked at: how these begin. Nowhere described is one, the event
`response-received`, which tells the store's clock; nothing else imports botocore."""
MAX_SKEW = 300.0
"""Seconds. S3 refuses beyond 15 minutes; before that URLs and expiry are already wrong by as much."""
MEASURED_LONG_AGO = 2.0
_THREADS = 16
_IS_THERE = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists", "OperationAborted"}


class S3(Protocol):
    """What we use of boto3's client. Source: boto3 reference, S3.Client."""

    def head_bucket(self, **parameters: object) -> Answer: ...
    def create_bucket(self, **parameters: object) -> Answer: ...
    def get_bucket_lifecycle_configuration(self, **parameters: object) -> Answer: ...
    def put_bucket_lifecycle_configuration(self, **parameters: object) -> Answer: ...
    def create_multipart_upload(self, **parameters: object) -> Answer: ...
    def complete_multipart_upload(self, **parameters: object) -> Answer: ...
    def abort_multipart_upload(self, **parameters: object) -> Answer: ...
    def list_objects_v2(self, **parameters: object) -> Answer: ...
    def head_object(self, **parameters: object) -> Answer: ...
    def delete_objects(self, **parameters: object) -> Answer: ...
    def get_paginator(self, name: str) -> _Paginator: ...
    def generate_presigned_url(self, method: str, *, Params: Mapping[str, object], ExpiresIn: int) -> str: ...


class _Paginator(Protocol):
    def paginate(self, **parameters: object) -> Iterable[Answer]: ...


class Bucket:
    """Every call may be made many times at once.

    Raises (any call): StoreUnreachable; ClockSkew if that is why the store refuses.
    """

    def __init__(
        self, *, endpoint_url: str | None, bucket: str, region: str | None = None, ca: Path | None = None
    ) -> None:
        """endpoint_url: None means AWS. ca: PEM file of who may vouch for it, where it is not AWS; None: the system's."""
        self.bucket = bucket
        self.origin = ""
        """Scheme, host and port of the URLs that are signed here; empty until the store was first needed."""
        self.observer: Observer = SILENT
        self._ca = str(ca) if ca is not None and endpoint_url is not None else None
        self._endpoint_url, self._region = endpoint_url, region or "us-east-1"
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")
        self._making = threading.Lock()
        self._client: S3 | None = None
        self._bucket_seen = False
        self._skew: float | None = None
        self._measured = -math.inf

    @property
    def skew(self) -> float:
        """Seconds that our clock is ahead of the store's, as far as is known."""
        return self._skew or 0.0

    @property
    def measured_skew(self) -> float | None:
        """The same; None until the store has answered."""
        return self._skew

    @property
    def clock_is_wrong(self) -> bool:
        """Whether our clock and the store's differ by more than MAX_SKEW."""
        return abs(self.skew) > MAX_SKEW

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def ensure_bucket(self) -> None:
        """Make the bucket unless it is there. Whoever may not make one may still use one."""
        if not self._bucket_seen:
            await self.run(self._make_bucket)
            self._bucket_seen = True

    async def check(self) -> None:
        """Does the store answer, is the bucket there, do the clocks agree? Raises what is not so."""
        await (self.run(self._ask_anything) if self._bucket_seen else self.ensure_bucket())
        await self.check_clock()

    async def check_clock(self) -> None:
        """Raises ClockSkew if our clock and the store's differ by more than MAX_SKEW.

        Asks the store again if that was a while ago: a clock that was set right counts at once.
        """
        long_ago = time.monotonic() - self._measured > MEASURED_LONG_AGO
        if self._skew is None or (self.clock_is_wrong and long_ago):
            await self.run(self._ask_anything)
        if self.clock_is_wrong:
            raise self._clock_error()

    async def run(self, work: Callable[[S3], Result]) -> Result:
        """Do something with boto3's client in a thread. What `work` leaves of boto3's errors is translated."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._translated, work)
        except Temporary as error:
            self.observer.store_failed(type(error).__name__)
            raise

    def _ask_anything(self, s3: S3) -> None:
        """Any answer, a refusal too, has a Date."""
        try:
            s3.head_bucket(Bucket=self.bucket)
        except client_error() as error:
            if self._skew is None:
                raise StoreUnreachable(f"the store gives no date ({code_of(error)})") from None

    def _make_bucket(self, s3: S3) -> None:
        try:
            s3.head_bucket(Bucket=self.bucket)
            return
        except client_error() as error:
            if code_of(error) not in ("404", "NoSuchBucket"):
                raise
        placed: dict[str, object] = {}
        if self._endpoint_url is None and self._region != "us-east-1":  # AWS wants it named everywhere else
            placed = {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        try:
            s3.create_bucket(Bucket=self.bucket, **placed)
        except client_error() as error:
            if code_of(error) == "AccessDenied":
                raise StoreUnreachable(
                    f"there is no bucket {self.bucket}, and the broker may not make it"
                ) from None
            if code_of(error) not in _IS_THERE:
                raise

    def _translated(self, work: Callable[[S3], Result]) -> Result:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            CredentialRetrievalError,
            NoCredentialsError,
            PartialCredentialsError,
            SSLError,
        )

        try:
            return work(self._connected())
        except ClientError as error:
            raise self._refusal(code_of(error)) from None
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError):
            raise StoreUnreachable(
                "the broker has no credentials for the store",
                hint="give the broker AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ) from None
        except SSLError:
            raise StoreUnreachable(
                "the broker does not trust the store's certificate",
                hint="give the broker the authority's certificate: --ca or XFER_CA",
            ) from None
        except (BotoCoreError, OSError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise StoreUnreachable(f"the store does not answer the broker ({type(error).__name__})") from None

    def _connected(self) -> S3:
        with self._making:
            if self._client is None:
                import boto3
                from botocore.config import Config

                config = Config(
                    signature_version="s3v4",
                    s3={"addressing_style": "path"},
                    connect_timeout=2,
                    read_timeout=3.5,  # tried twice before `service.ANSWER_WITHIN` is over: whose fault it is can be told
                    retries={"total_max_attempts": 2, "mode": "standard"},
                    max_pool_connections=_THREADS,
                    # The default adds a checksum that stores other than AWS refuse.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                )
                client = boto3.session.Session().client(
                    "s3",
                    endpoint_url=self._endpoint_url,
                    region_name=self._region,
                    config=config,
                    verify=self._ca,
                )
                client.meta.events.register("response-received.s3", self._learn_skew)
                at = urlsplit(client.meta.endpoint_url)
                self._client, self.origin = client, f"{at.scheme}://{at.netloc.rpartition('@')[2]}"
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


def client_error() -> type[ClientError]:
    """boto3's error for an answer that is a refusal; imported when there may be one."""
    from botocore import exceptions

    kind: type[ClientError] = exceptions.ClientError
    return kind


def code_of(error: ClientError) -> str:
    """The store's code alone: its message may hold keys and addresses."""
    code = str(error.response.get("Error", {}).get("Code", "no code"))
    return re.sub(r"[^A-Za-z0-9 ]", "", code)[:64]


def status_of(error: ClientError) -> int:
    """The HTTP status; 0 if there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
