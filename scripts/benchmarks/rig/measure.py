"""One command, measured from outside: seconds, processor time, the most memory it had."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .link import Namespace

SAMPLE = 0.04
"""Seconds between two looks at a process' high-water mark; what it grows in its last ones is not seen."""

LOOK = 0.005
"""Seconds between two looks at what a process said."""


@dataclass(frozen=True)
class Ran:
    """cpu: seconds, user and system, of the process and its children. peak: bytes of its own.

    code: exit code; None: it did not end in time.
    """

    seconds: float
    cpu: float
    peak: int
    code: int | None
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Of a command with --json."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def ticket(self) -> str:
        """Of a send with --json."""
        return str(next(event["ticket"] for event in self.events if event["event"] == "ticket"))

    @property
    def summary(self) -> dict[str, Any]:
        """The last of them, if it tells how the transfer ended."""
        last = self.events[-1] if self.stdout else {}
        return last if last.get("event") == "summary" else {}

    @property
    def failure(self) -> str | None:
        """Why it is no result, in a line; None if it is one."""
        if self.code == 0:
            return None
        how = "did not end in time" if self.code is None else f"exit {self.code}"
        last = [line.strip() for line in self.stderr.splitlines() if line.strip()][-2:]
        return f"{how}: {' / '.join(last)}"[:300] if last else how


class Running:
    """A command in a namespace. Its output goes to files, so that it never waits for us.

    started: by time.perf_counter.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        where: Namespace,
        *,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        with contextlib.ExitStack() as files:
            self._out = files.enter_context(tempfile.TemporaryFile())
            self._err = files.enter_context(tempfile.TemporaryFile())
            self._files = files.pop_all()
        self._peak = 0
        with where.inside():
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                argv, env=dict(env), stdin=stdin, stdout=self._out, stderr=self._err, start_new_session=True
            )
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._reap, self._watch)]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return not self._over.is_set()

    def event(self, kind: str, within: float = 60.0) -> dict[str, Any]:
        """The latest --json event of that kind; waits for one. Raises OSError."""
        deadline = time.monotonic() + within
        while self.alive and time.monotonic() < deadline:
            found = [line for line in self._text(self._out).splitlines(True) if f'"event":"{kind}"' in line]
            if found and found[-1].endswith("\n"):
                event: dict[str, Any] = json.loads(found[-1])
                return event
            time.sleep(0.01)
        raise OSError(f"no {kind} event: {self._text(self._err)[-300:]}")

    def until(self, wanted: Callable[[dict[str, Any]], bool], within: float = 60.0) -> float:
        """When the first --json event that is wanted was seen, perf_counter; LOOK s late at most. Raises OSError."""
        deadline, seen = time.monotonic() + within, 0
        while True:
            alive = self.alive
            lines = self._text(self._out).splitlines(True)
            whole = [line for line in lines if line.endswith("\n")]
            if any(wanted(json.loads(line)) for line in whole[seen:]):
                return time.perf_counter()
            seen = len(whole)
            if not alive or time.monotonic() > deadline:
                raise OSError(f"the event did not come: {self._text(self._err)[-300:]}")
            time.sleep(LOOK)

    def says(self, text: str, within: float) -> None:
        """Wait until that is in its stderr. Raises OSError."""
        deadline = time.monotonic() + within
        while text not in (said := self._text(self._err)):
            if not self.alive or time.monotonic() > deadline:
                raise OSError(f"it does not say {text!r}: {said[-300:]}")
            time.sleep(LOOK)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, how: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, how)

    def end(self, within: float) -> Ran:
        """Wait for it, and kill it after so many seconds."""
        try:
            in_time = self._over.wait(within)
        finally:
            self.kill()  # also on Ctrl-C, which is for us: it has a session of its own
        for thread in self._threads:
            thread.join()
        with self._files:
            return Ran(
                seconds=self._ended - self.started,
                cpu=self._used.ru_utime + self._used.ru_stime,
                peak=self._peak,
                code=self._process.returncode if in_time else None,
                stdout=self._text(self._out),
                stderr=self._text(self._err),
            )

    def _reap(self) -> None:
        """In place of Popen.wait, which does not tell what was used."""
        _, status, self._used = os.wait4(self._process.pid, 0)
        self._ended = time.perf_counter()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE):
            self._peak = max(self._peak, high_water(self._process.pid))

    @staticmethod
    def _text(file: Any) -> str:
        data: bytes = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
        return data.decode(errors="replace")


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    where: Namespace,
    within: float,
    *,
    stdin: int = subprocess.DEVNULL,
) -> Ran:
    return Running(argv, env, where, stdin=stdin).end(within)


def high_water(pid: int) -> int:
    """The most memory that a running process had so far, bytes; 0 once it is a zombie, and where there is no /proc.

    Not wait4's ru_maxrss: on Linux that begins at what the parent had when it started the child.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
