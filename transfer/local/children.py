"""Child processes that never outlive us: started, watched, stopped, told apart from strangers."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from transfer.local.folder import Folder, write_private

FIRST_DELAY, LAST_DELAY = 0.5, 30.0
STEADY = 60.0
"""Seconds after which a child counts as healthy, so that its next end is a first one again."""
GONE_WITHIN = 10.0
"""Seconds in which the kernel has taken down a process that got SIGKILL, even on a busy disk."""
_PR_SET_PDEATHSIG = 1
"""Source: Linux, prctl(2)."""


class Backoff:
    """The wait before a child starts again: 0.5 s, doubling to 30 s; 0.5 s again after a steady minute."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY

    def after(self, lived: float) -> float:
        """Seconds to wait. lived: seconds that the child ran."""
        if lived >= STEADY:
            self._next = FIRST_DELAY
        delay, self._next = self._next, min(self._next * 2, LAST_DELAY)
        return delay


@dataclass(frozen=True, slots=True)
class Service:
    """What to run. cwd: None means ours. env: all of it. grace: seconds between SIGTERM and SIGKILL."""

    name: str
    argv: Sequence[str]
    cwd: Path | None
    env: Mapping[str, str]
    grace: float


class Child:
    """One process of a service at a time."""

    def __init__(self, service: Service, folder: Folder) -> None:
        self.service, self._folder = service, folder
        self.process: asyncio.subprocess.Process | None = None
        self._started = 0.0

    async def start(self) -> None:
        """Raises OSError if the program cannot be started."""
        log = self._folder.open_log(self.service.name)
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self.service.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.service.cwd,
                env=self.service.env,
                start_new_session=True,  # a terminal's Ctrl-C is for us; we stop the children in order
                preexec_fn=_die_with_parent(),
            )
        finally:
            os.close(log)
        self._started = time.monotonic()
        remember(self._folder, self.service.name, self.process.pid)

    async def ended(self) -> str:
        """Waits for the end of the process; returns how it ended, for people."""
        assert self.process is not None
        code = await self.process.wait()
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with code {code}"

    async def keep(self, tell: Callable[[str], None]) -> None:
        """Start it again whenever it ends, until cancelled."""
        backoff = Backoff()
        while True:
            how = await self.ended()
            while True:
                delay = backoff.after(time.monotonic() - self._started)
                tell(f"{self.service.name} {how}; starting it again in {delay:g} s")
                await asyncio.sleep(delay)
                try:
                    await self.start()
                except OSError as error:
                    how = f"cannot be started ({error.strerror})"
                    continue
                break

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if it is still there after its grace. Idempotent."""
        if self.process is None or self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(self.service.grace):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()

    def kill(self) -> None:
        """At once. Idempotent."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()


class _Remembered(msgspec.Struct):
    pid: int
    stamp: str


def remember(folder: Folder, name: str, pid: int) -> None:
    """Note a process, so that a later run can prove that it is ours."""
    known = _remembered(folder)
    known[name] = _Remembered(pid, stamp(pid) or "")
    write_private(folder.children, msgspec.json.encode(known))


def living(folder: Folder, name: str) -> int | None:
    """The process id of a child of whoever runs the servers; None if it is not proven to be it."""
    child = _remembered(folder).get(name)
    return child.pid if child is not None and child.stamp and stamp(child.pid) == child.stamp else None


def reap_leftovers(folder: Folder) -> list[str]:
    """Kill what an earlier run left behind, and only that: number, start time and command must agree.

    Call it while holding the folder's lock. Blocks until they are gone. Returns the names of what was killed.
    """
    killed = []
    for name, child in _remembered(folder).items():
        if not child.stamp or stamp(child.pid) != child.stamp:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
            killed.append(name)
        deadline = time.monotonic() + GONE_WITHIN
        while stamp(child.pid) == child.stamp and time.monotonic() < deadline:
            time.sleep(0.02)
    folder.children.unlink(missing_ok=True)
    return killed


def _remembered(folder: Folder) -> dict[str, _Remembered]:
    try:
        return msgspec.json.decode(folder.children.read_bytes(), type=dict[str, _Remembered])
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return {}


def stamp(pid: int) -> str | None:
    """What no other process will ever show under this number; None if there is none, or only a zombie."""
    return _linux_stamp(pid) if sys.platform == "linux" else ps_stamp(pid)


def _linux_stamp(pid: int) -> str | None:
    """Source: proc(5): field 3 is the state, field 22 the start in ticks since boot."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def ps_stamp(pid: int) -> str | None:
    """The same for other systems. Source: POSIX ps; BSD, macOS and Linux add lstart."""
    command = ["ps", "-o", "stat=", "-o", "lstart=", "-o", "command=", "-p", str(pid)]
    try:
        shown = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return None
    state, _, rest = shown.stdout.strip().partition(" ")
    return rest.strip() if rest and not state.startswith("Z") else None


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel kills a child whose parent is gone; elsewhere see `reap_leftovers`."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it went before the line above took effect
            os._exit(1)

    return prepare
