"""The folder of one set of local servers: what lies where in it, and the lock that says who runs them."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transfer.config import state_dir
from transfer.errors import Locked, NotConfigured, UsageError, XferError

LOG_UP = "up"
"""The log of a supervisor that runs detached."""
LOG_LIMIT = 10_000_000
"""Bytes after which a log starts anew; the one before is kept."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Everything the servers keep. All of it is private: the folder is 0700, files with secrets 0600."""

    root: Path

    @classmethod
    def at(cls, root: Path | None) -> Folder:
        """root: None means the default, `local` in the state folder."""
        return cls(Path(os.path.abspath((root or default_dir()).expanduser())))

    @property
    def lock(self) -> Path:
        """Held while the servers run; its content is the process id of whoever holds it."""
        return self.root / "up.lock"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    @property
    def children(self) -> Path:
        """Which processes were started, so that the next run can tell leftovers from strangers."""
        return self.root / "children.json"

    @property
    def listening(self) -> Path:
        """Where the servers listen and what they are called (`listening`); it is not there if on loopback only."""
        return self.root / "listening.json"

    @property
    def tls(self) -> Path:
        """What `authority` makes, for servers that listen for others."""
        return self.root / "tls"

    @property
    def authority(self) -> Path:
        """The certificate that clients are to trust. No secret."""
        return self.tls / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The servers' own. No secret."""
        return self.tls / "server.pem"

    @property
    def certificate_key(self) -> Path:
        """Its private key. Secret."""
        return self.tls / "server.key"

    @property
    def users(self) -> Path:
        """User name to public nkey: whom NATS lets in. No secrets."""
        return self.root / "users.json"

    @property
    def removed(self) -> Path:
        """Names of users that were removed and not added again."""
        return self.root / "removed.json"

    @property
    def nats_config(self) -> Path:
        return self.root / "nats.conf"

    @property
    def rules(self) -> Path:
        """The broker's rules, for people to change (`broker.rules`)."""
        return self.root / "broker.toml"

    @property
    def s3_config(self) -> Path:
        """SeaweedFS's identities. Secret."""
        return self.root / "s3.json"

    @property
    def aws_credentials(self) -> Path:
        """The same keys for the broker, as AWS tools read them. Secret."""
        return self.root / "aws_credentials"

    def seed(self, user: str) -> Path:
        """The nkey seed that proves to NATS who `user` is. Secret."""
        return self.root / "credentials" / f"{user}.nk"

    def log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def make(self) -> None:
        """Create what is missing. Raises XferError if that fails, or if there are other things in it."""
        try:
            if self.root.is_dir() and not self.lock.exists() and any(self.root.iterdir()):
                raise XferError(
                    f"{self.root} holds other things", hint="choose an empty or a new folder with --dir"
                )
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for part in ("", "credentials", "logs", "nats", "store"):
                (self.root / part).mkdir(mode=0o700, exist_ok=True)
            self.root.chmod(0o700)  # it may have been there, empty, with a wider mode
            self.lock.touch(mode=0o600)
        except OSError as error:
            raise XferError(
                f"{self.root} cannot be used: {error.strerror}", hint="choose another folder with --dir"
            ) from None

    def check_made(self) -> None:
        """Raises NotConfigured if no servers ever were here."""
        if not self.lock.exists():
            raise NotConfigured(
                f"there are no servers in {self.root}",
                hint="start some with `xfer up` first, or name the folder of yours with --dir",
            )

    def open_log(self, name: str) -> int:
        """A descriptor that appends to a log, 0600; the caller closes it."""
        path = self.log(name)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LOG_LIMIT:
                path.replace(path.with_suffix(".log.1"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def log_tail(self, name: str, lines: int = 5) -> str:
        """The last lines of a log in one line, for an error message."""
        try:
            with open(self.log(name), "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return " / ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be the one who runs the servers here. Raises Locked if somebody does already."""
        handle = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _try_lock(handle):
                raise Locked(
                    f"the servers in {self.root} run already", hint="use them, or stop them with `xfer down`"
                )
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def holder(self) -> int | None:
        """The process id of who runs the servers here; None if nobody does: the lock is the proof."""
        while True:
            try:
                handle = os.open(self.lock, os.O_RDWR)
            except FileNotFoundError:
                return None
            try:
                if _try_lock(handle):
                    return None
                text = os.pread(handle, 32, 0)
            finally:
                os.close(handle)
            if text.isdigit():
                return int(text)
            time.sleep(0.01)  # it has the lock but has not written its number yet, or is about to let go


def default_dir() -> Path:
    return state_dir() / "local"


def write_private(path: Path, data: bytes) -> None:
    """Write a file atomically, 0600 from its first byte on."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _try_lock(handle: int) -> bool:
    if sys.platform == "win32":
        raise UsageError(
            "local servers need Linux or macOS", hint="name servers elsewhere with `xfer context add`"
        )
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
