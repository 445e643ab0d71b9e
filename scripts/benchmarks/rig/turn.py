"""A TURN server (coturn) on loopback, through which both ends of a channel go."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

from .channel import PASSWORD, USER

HOST = "127.0.0.1"
PROGRAM = "turnserver"
STARTS_WITHIN = 20.0


def why_not() -> str | None:
    """Why there can be none here; None if there can."""
    return None if shutil.which(PROGRAM) else f"there is no `{PROGRAM}` (Debian: apt install coturn)"


@contextlib.contextmanager
def server() -> Iterator[dict[str, str]]:
    """Its URLs, by how it is spoken to: `UDP` and `TCP`. Gone when the context ends. Raises OSError."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="xfer-turn-") as folder, tempfile.TemporaryFile() as log:
        options = {
            "listening-ip": HOST,
            "listening-port": str(port),
            "relay-ip": HOST,
            "user": f"{USER}:{PASSWORD}",
            "realm": "bench",
            "pidfile": f"{folder}/pid",
            "log-file": "stdout",
        }
        flags = ["-n", "--lt-cred-mech", "--allow-loopback-peers", "--no-tls", "--no-dtls", "--no-cli"]
        process = subprocess.Popen(
            [PROGRAM, *flags, *(f"--{name}={value}" for name, value in options.items())],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _until_it_listens(process, port)
            yield {kind: f"turn:{HOST}:{port}?transport={kind.lower()}" for kind in ("UDP", "TCP")}
        finally:
            process.kill()
            process.wait()


def _until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.05)
    raise OSError(f"`{PROGRAM}` did not start")
