"""Copies as AWS CLI 2 does under `preferred_transfer_client = crt`: s3transfer over Amazon's C runtime, its defaults.

    crt.py ENDPOINT REGION SOURCE TARGET      one of the two is s3://BUCKET/KEY; a folder is copied with all in it

AWS CLI 2 is not in the package index, and AWS CLI 1 has no CRT; this is the library under both, with the keys from
AWS_*. It runs in the peers' environment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import botocore.session
from s3transfer.crt import (
    BotocoreCRTCredentialsWrapper,
    BotocoreCRTRequestSerializer,
    CRTTransferManager,
    create_s3_crt_client,
)


def main() -> None:
    endpoint, region, source, target = sys.argv[1:]
    session = botocore.session.Session()
    where = {"endpoint_url": endpoint, "region_name": region}
    keys = BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
    client = create_s3_crt_client(region, keys, use_ssl=endpoint.startswith("https:"))
    serializer = BotocoreCRTRequestSerializer(session, dict(where))  # it keeps and changes what it is given
    with CRTTransferManager(client, serializer) as manager:
        if target.startswith("s3://"):
            bucket, _, key = target.removeprefix("s3://").partition("/")
            futures = [manager.upload(str(file), bucket, name) for file, name in _files(Path(source), key)]
        else:
            bucket, _, key = source.removeprefix("s3://").partition("/")
            pages = session.create_client("s3", **where).get_paginator("list_objects_v2")
            futures = []
            for page in pages.paginate(Bucket=bucket, Prefix=key):
                for item in page.get("Contents", []):
                    path = Path(f"{target}{item['Key'].removeprefix(key)}")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    futures.append(manager.download(bucket, item["Key"], str(path)))
        for future in futures:
            future.result()


def _files(source: Path, key: str) -> Iterator[tuple[Path, str]]:
    if not source.is_dir():
        yield source, key
        return
    for file in sorted(source.rglob("*")):
        if file.is_file():
            yield file, f"{key}/{file.relative_to(source)}"


if __name__ == "__main__":
    main()
