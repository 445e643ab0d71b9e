"""NATS, the store and a broker, each of which may be killed, and started again on what it had kept."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from .link import Namespace
from .servers import LOCALHOST, Servers

Name = Literal["nats", "store", "broker"]
ORDER: tuple[Name, ...] = ("nats", "store", "broker")
SWEEPS = {"XFER_SWEEP_EVERY": "1", "XFER_ORPHAN_AGE": "20"}
"""Seconds, so that whoever wants to see an empty store need not wait for long."""


class Mortal(Servers):
    """On loopback. The broker sweeps often."""

    def __init__(self, folder: Path) -> None:
        self._known: dict[str, tuple[list[str], Mapping[str, str], subprocess.Popen[bytes]]] = {}
        super().__init__(folder, Namespace(), LOCALHOST)

    def kill(self, name: Name) -> None:
        """SIGKILL; returns once it is gone. Its ports stay its own."""
        process = self._known[name][2]
        process.kill()
        process.wait()

    def start(self, name: Name) -> None:
        """Again as before. Does not wait until it answers."""
        argv, env, process = self._known[name]
        self._processes.remove(process)
        self._run(name, argv, env)

    def runs(self, name: Name) -> bool:
        return self._known[name][2].poll() is None

    def log(self, name: Name) -> str:
        return self.folder.log(name).read_text(errors="replace")

    def left(self) -> list[str]:
        """Keys of all objects and of all unfinished uploads."""
        client = self._client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        found = [f"object {item['Key']}" for page in pages for item in page.get("Contents", [])]
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket)
        return found + [f"upload {item['Key']}" for page in pages for item in page.get("Uploads", [])]

    def close(self) -> None:
        """The broker first, whichever was started last."""
        self._processes.sort(key=[self._known[name][2] for name in ORDER if name in self._known].index)
        super().close()

    def _run(self, name: str, argv: list[str], env: Mapping[str, str]) -> None:
        if name == "broker":
            env = {**env, **SWEEPS}
        super()._run(name, argv, env)
        self._known[name] = (argv, env, self._processes[-1])
