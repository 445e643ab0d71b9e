"""The servers that every tool meets: NATS, SeaweedFS and a broker, on an address that the clients reach."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer.local import credentials, nats, ports, probe, store
from transfer.local.folder import Folder, write_private
from transfer.local.programs import find
from transfer.permissions import BROKER

from .link import Namespace

LOCALHOST = "127.0.0.1"
READY_WITHIN = 30.0
VACUUMS = 20
REGION = "us-east-1"
XFER = str(Path(sys.executable).with_name("xfer"))
_STRANGERS = ("AWS_", "NATS_", "WEED_", "XFER_", "RCLONE_", "S3_")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def clean_environment() -> dict[str, str]:
    """Ours without what would lead a tool or a server elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_STRANGERS) and name.lower() not in _PROXIES
    }


class Servers:
    """Running until `close`. keys: access key and secret of the store. Everything they keep is in `folder`."""

    def __init__(self, folder: Path, where: Namespace, host: str) -> None:
        self.where, self.host, self.bucket = where, host, store.BUCKET
        self.folder = Folder.at(folder)
        self.folder.make()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()
        try:
            with where.inside():
                self._start()
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.ports.s3}"

    @property
    def nats_url(self) -> str:
        return f"nats://{self.host}:{self.ports.nats}"

    @property
    def keys(self) -> tuple[str, str]:
        key = json.loads(self.folder.s3_config.read_text())["identities"][0]["credentials"][0]
        return key["accessKey"], key["secretKey"]

    def client_environment(self, home: Path) -> dict[str, str]:
        """For an `xfer` whose state is in `home`."""
        return {
            **clean_environment(),
            "XFER_HOME": str(home),
            "NATS_URL": self.nats_url,
            "NATS_CREDS": str(self.folder.seed(credentials.LOCAL)),
            "XFER_USER": credentials.LOCAL,
            "NO_COLOR": "1",
        }

    def empty(self) -> None:
        """Delete all objects and unfinished uploads, give the room back, and let the disk come to rest."""
        with self.where.inside():
            client = self._client()
            try:
                client.head_bucket(Bucket=self.bucket)
            except client.exceptions.ClientError as error:
                print(f"  the store has lost the bucket ({error}); it gets a new one", file=sys.stderr)
                client.create_bucket(Bucket=self.bucket)
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket):
                for upload in page.get("Uploads", []):
                    client.abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
                keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
                if keys:
                    client.delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})
            for _ in range(VACUUMS):  # the filer lets go of deleted chunks a moment after it said so
                self._weed_shell("lock", "volume.vacuum -garbageThreshold=0.0001", "unlock")
                if (
                    sum(file.stat().st_size for file in self.folder.root.glob(f"store/{self.bucket}_*.dat"))
                    < 1 << 20
                ):
                    break
                time.sleep(0.5)
        os.sync()

    def stored(self) -> int:
        """Bytes that the store has, parts of unfinished uploads included."""
        total = 0
        with self.where.inside():
            client = self._client()
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
                total += sum(item["Size"] for item in page.get("Contents", []))
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket):
                for upload in page.get("Uploads", []):
                    which = {"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    for parts in client.get_paginator("list_parts").paginate(**which):
                        total += sum(part["Size"] for part in parts.get("Parts", []))
        return total

    def close(self) -> None:
        """The broker first, while what it talks to is there."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._processes:
            store.sweep_sockets(self.folder, self.ports)
        self._stack.close()

    def _weed_shell(self, *commands: str) -> None:
        subprocess.run(
            [find("weed"), "shell", f"-master={self.host}:{self.ports.master}"],
            input="\n".join([*commands, "exit", ""]),
            cwd=self.folder.root,
            env=clean_environment(),
            text=True,
            capture_output=True,
            check=True,
            timeout=120,
        )

    def _start(self) -> None:
        self.ports = self._stack.enter_context(ports.claimed(self.folder.ports))
        nats.write_config(self.folder, self.ports, credentials.ensure(self.folder))
        config = json.loads(self.folder.nats_config.read_text())
        config["listen"] = f"{self.host}:{self.ports.nats}"
        write_private(self.folder.nats_config, json.dumps(config).encode())
        self._run("nats", nats.argv(self.folder), clean_environment())
        weed = [argument.replace(LOCALHOST, self.host) for argument in store.argv(self.folder, self.ports)]
        self._run("store", weed, clean_environment())
        self._until_answers(f"http://{self.host}:{self.ports.s3}/healthz")
        keys = {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder.aws_credentials),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "XFER_HOME": str(self.folder.root / "home"),
        }
        argv = [XFER, "broker", "--nats-url", self.nats_url, "--endpoint-url", self.endpoint]
        argv += ["--nats-creds", str(self.folder.seed(BROKER)), "--region", REGION]
        self._broker_argv = [*argv, "--bucket", self.bucket, "--rules", str(self.folder.rules)]
        self._broker_env = clean_environment() | keys
        if not self.folder.rules.exists():
            write_private(self.folder.rules, b"")
        self._run("broker", self._broker_argv, self._broker_env)
        seed = self.folder.seed(credentials.LOCAL)
        answer = probe.broker_answers(self.nats_url, seed, credentials.LOCAL)
        try:
            asyncio.run(asyncio.wait_for(answer, READY_WITHIN))
        except TimeoutError:
            raise OSError(f"the bench's broker does not answer: {self.folder.log_tail('broker')}") from None

    def _run(self, name: str, argv: list[str], env: Mapping[str, str]) -> None:
        log = self.folder.open_log(name)
        try:
            self._processes.append(
                subprocess.Popen(
                    argv,
                    cwd=self.folder.root,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # a terminal's Ctrl-C is for us; we stop them in order
                )
            )
        finally:
            os.close(log)

    def _until_answers(self, url: str) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                with _DIRECT.open(url, timeout=2):
                    return
            except OSError:
                ended = any(process.poll() is not None for process in self._processes)
                if ended or time.monotonic() > deadline:
                    told = self.folder.log_tail("store")
                    raise OSError(f"the bench's store does not answer: {told}") from None
            time.sleep(0.05)

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        access, secret = self.keys
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            config=Config(proxies={}),
        )
