"""What the broker does at the store for jobs: multipart uploads, signed URLs, and emptying what is of no more use."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from transfer.api import PartList, PartToSign, SignedUrl, StoredPart
from transfer.broker.bucket import S3, Answer, Bucket, client_error, code_of
from transfer.broker.keys import Place, key_of, place_of
from transfer.errors import ProtocolError, StoreUnreachable

DELETE_BATCH = 1000
"""Source: S3 API reference, DeleteObjects takes up to 1,000 keys."""
PROBE_LIFE = 60
"""Seconds that the URLs of a probe are good for."""
_PARTS_REFUSED = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "BadDigest", "InvalidRequest"}


class OpenUpload(NamedTuple):
    """A multipart upload that the store has open. since: seconds since 1970 by the store's clock."""

    place: Place
    upload: str
    since: float


class StoredObject(NamedTuple):
    """since: as above, when it was made."""

    place: Place
    since: float


class Store(Bucket):
    """Our part of a bucket. A folder is where a job's objects lie: `keys.folder_of`.

    Every call may be made many times at once. Raises (any call): StoreUnreachable; ClockSkew if that is why the
    store refuses.
    """

    def __init__(
        self,
        *,
        endpoint_url: str | None,
        bucket: str,
        region: str | None = None,
        prefix: str = "xfer/",
        url_life: float = 900.0,
        ca: Path | None = None,
    ) -> None:
        """endpoint_url: None means AWS. prefix: of every key, ends with "/". url_life: seconds. ca: as of `Bucket`."""
        super().__init__(endpoint_url=endpoint_url, bucket=bucket, region=region, ca=ca)
        self.prefix = prefix
        self._url_life = math.ceil(url_life)

    async def begin(self, folder: str, segment: int) -> str:
        """Open a multipart upload whose parts carry CRC32C; its id."""
        await self.check_clock()
        await self.ensure_bucket()
        where = self._where(folder, segment)
        answer = await self.run(lambda s3: s3.create_multipart_upload(**where, ChecksumAlgorithm="CRC32C"))
        return str(answer["UploadId"])

    async def sign_parts(
        self, folder: str, segment: int, upload: str, parts: Sequence[PartToSign]
    ) -> list[SignedUrl]:
        """PUT URLs, each good for exactly one length and checksum."""
        await self.check_clock()
        where = {**self._where(folder, segment), "UploadId": upload}

        def sign(s3: S3, part: PartToSign) -> SignedUrl:
            bound = {"PartNumber": part.number, "ContentLength": part.length, "ChecksumCRC32C": part.crc32c}
            url = s3.generate_presigned_url(
                "upload_part", Params={**where, **bound}, ExpiresIn=self._url_life
            )
            headers = {"Content-Length": str(part.length), "x-amz-checksum-crc32c": part.crc32c}
            return SignedUrl(url, headers)

        return await self.run(lambda s3: [sign(s3, part) for part in parts])

    async def sign_gets(self, folder: str, segments: Sequence[int]) -> list[SignedUrl]:
        """GET URLs, each good for one key."""
        await self.check_clock()

        def sign(s3: S3, segment: int) -> SignedUrl:
            where = self._where(folder, segment)
            return SignedUrl(
                s3.generate_presigned_url("get_object", Params=where, ExpiresIn=self._url_life), {}
            )

        return await self.run(lambda s3: [sign(s3, segment) for segment in segments])

    async def sign_probe(self, key: str, length: int, crc32c: str) -> tuple[SignedUrl, SignedUrl]:
        """To put exactly these bytes at a key (without the prefix) and to read them, for a minute."""
        await self.check_clock()
        await self.ensure_bucket()
        where = {"Bucket": self.bucket, "Key": self.prefix + key}
        bound = {**where, "ContentLength": length, "ChecksumCRC32C": crc32c}

        def sign(s3: S3) -> tuple[SignedUrl, SignedUrl]:
            put = s3.generate_presigned_url("put_object", Params=bound, ExpiresIn=PROBE_LIFE)
            get = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=PROBE_LIFE)
            headers = {"Content-Length": str(length), "x-amz-checksum-crc32c": crc32c}
            return SignedUrl(put, headers), SignedUrl(get, {})

        return await self.run(sign)

    async def delete_probe(self, key: str) -> None:
        """key: without the prefix. One that is gone is fine."""
        await self.run(lambda s3: self._delete(s3, [self.prefix + key]))

    async def list_parts(self, folder: str, segment: int, upload: str) -> PartList:
        """What the store has of an upload. crc32c is empty where the store does not list it (SeaweedFS)."""
        where = {**self._where(folder, segment), "UploadId": upload}

        def work(s3: S3) -> PartList:
            try:
                pages = list(s3.get_paginator("list_parts").paginate(**where))
            except client_error() as error:
                if code_of(error) == "NoSuchUpload":
                    return PartList([], open=False)
                raise
            rows = [row for page in pages for row in page.get("Parts", [])]
            return PartList([_stored_part(row) for row in rows], open=True)

        return await self.run(work)

    async def complete(self, folder: str, segment: int, upload: str, parts: Sequence[StoredPart]) -> None:
        """Join the parts. Idempotent: an upload that is gone counts if its object is there in the right size.

        Raises ProtocolError if the store does not accept these parts, or they make another size than stated.
        """
        where = self._where(folder, segment)
        size = sum(part.length for part in parts)
        rows = [_part_row(part) for part in parts]

        def work(s3: S3) -> int | None:
            try:
                s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": rows})
            except client_error() as error:
                if code_of(error) in _PARTS_REFUSED:
                    raise ProtocolError(f"the store does not accept those parts ({code_of(error)})") from None
                if code_of(error) != "NoSuchUpload":
                    raise
            return _size_of(s3, where)

        found = await self.run(work)
        if found is None:
            raise ProtocolError(f"that upload of segment {segment} is not open any more")
        if found != size:
            raise ProtocolError(f"segment {segment} has {found} bytes, not {size} as stated")

    async def abort(self, folder: str, segment: int, upload: str) -> None:
        """Drop an upload and its parts. One that is gone is fine."""
        where = self._where(folder, segment)
        await self.run(lambda s3: _abort(s3, where, upload))

    async def abort_all(self, folder: str) -> None:
        """Drop every upload in a job's folder that the store lists; MinIO lists none by a prefix."""
        await self.run(lambda s3: self._abort_all(s3, f"{self.prefix}{folder}/"))

    async def delete(self, folder: str, segments: Iterable[int]) -> None:
        """Delete these objects. Those that are gone are fine."""
        keys = [self.prefix + key_of(folder, segment) for segment in segments]
        await self.run(lambda s3: self._delete(s3, keys))

    async def erase(self, folder: str, uploads: Mapping[str, int]) -> None:
        """Abort all uploads in a job's folder, then delete its objects. Idempotent.

        In this order: an upload that was being completed is then either gone or has become an object that is listed.

        uploads: those on record, id to segment; MinIO lists none by a prefix, so that these are named as well.
        """
        prefix = f"{self.prefix}{folder}/"

        def work(s3: S3) -> None:
            for upload, segment in uploads.items():
                _abort(s3, self._where(folder, segment), upload)
            self._abort_all(s3, prefix)
            self._delete(s3, [row["Key"] for row in self._listed(s3, "list_objects_v2", "Contents", prefix)])

        await self.run(work)

    async def uploads(self) -> list[OpenUpload]:
        """Every open upload under the prefix that has the shape of one of ours."""

        def work(s3: S3) -> list[OpenUpload]:
            rows = self._listed(s3, "list_multipart_uploads", "Uploads", self.prefix)
            found = [(self._place(row), row) for row in rows]
            return [OpenUpload(p, row["UploadId"], row["Initiated"].timestamp()) for p, row in found if p]

        return await self.run(work)

    async def objects(self, root: str) -> AsyncGenerator[list[StoredObject], None]:
        """Every object below `root` (a folder of folders, ends with "/") that has the shape of one of ours.

        In pages, and in the order of their keys: a job's objects come one after the other.
        """
        more: dict[str, object] = {}
        while True:
            page = await self.run(functools.partial(self._page, prefix=self.prefix + root, more=more))
            rows = [(self._place(row), row["LastModified"].timestamp()) for row in page.get("Contents", [])]
            yield [StoredObject(place, since) for place, since in rows if place]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _where(self, folder: str, segment: int) -> dict[str, object]:
        return {"Bucket": self.bucket, "Key": self.prefix + key_of(folder, segment)}

    def _place(self, row: Answer) -> Place | None:
        return place_of(row["Key"].removeprefix(self.prefix))

    def _listed(self, s3: S3, listing: str, rows: str, prefix: str) -> list[Answer]:
        found: list[Answer] = []
        with _no_bucket_is_empty():
            for page in s3.get_paginator(listing).paginate(Bucket=self.bucket, Prefix=prefix):
                found += page.get(rows, [])
        return found

    def _abort_all(self, s3: S3, prefix: str) -> None:
        for row in self._listed(s3, "list_multipart_uploads", "Uploads", prefix):
            _abort(s3, {"Bucket": self.bucket, "Key": row["Key"]}, row["UploadId"])

    def _page(self, s3: S3, prefix: str, more: Mapping[str, object]) -> Answer:
        page: Answer = {}
        with _no_bucket_is_empty():
            page.update(s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **more))
        return page

    def _delete(self, s3: S3, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), DELETE_BATCH):
            batch = {"Objects": [{"Key": key} for key in keys[at : at + DELETE_BATCH]], "Quiet": True}
            with _no_bucket_is_empty():
                if s3.delete_objects(Bucket=self.bucket, Delete=batch).get("Errors"):
                    raise StoreUnreachable("the store did not delete some objects")


@contextlib.contextmanager
def _no_bucket_is_empty() -> Iterator[None]:
    """Without a bucket there is nothing in it."""
    try:
        yield
    except client_error() as error:
        if code_of(error) != "NoSuchBucket":
            raise


def _abort(s3: S3, where: Mapping[str, object], upload: str) -> None:
    try:
        s3.abort_multipart_upload(**where, UploadId=upload)
    except client_error() as error:
        if code_of(error) not in ("NoSuchUpload", "NoSuchBucket"):
            raise


def _size_of(s3: S3, where: Mapping[str, object]) -> int | None:
    try:
        return int(s3.head_object(**where)["ContentLength"])
    except client_error() as error:
        if code_of(error) in ("404", "NoSuchKey"):
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
