"""A command whose output is sent: run by the shell, its stdout is the source, its exit status the verdict."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from transfer.errors import CommandFailed
from transfer.stream import stream_reader

GRACE = 1.0
"""Seconds that an interrupted command has to end by itself."""
LOOK_EVERY = 0.02


class Command:
    """Begins with the first read: nothing runs for a transfer that never came to be.

    Its stderr is ours, its stdin is empty. Unless we have the terminal, where it may have to ask for a password and
    Ctrl-C reaches it anyway, it gets a process group of its own: so all of a pipeline is ended with it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._closed = False
        self._reading, self._beginning = threading.Lock(), threading.Lock()
        self._own_group = sys.platform != "win32" and not _have_terminal()
        self._process: subprocess.Popen[bytes] | None = None
        self._take: Callable[[int], bytes] | None = None

    def read(self, size: int) -> bytes:
        """Blocking: up to that many bytes, empty at the end."""
        with self._reading:
            take = self._take = self._take or self._begin()
            piece = b"" if self._closed else take(size)
        if self._closed:
            self._hang_up()
        return piece

    def verdict(self) -> None:
        """Raises CommandFailed unless it ended with 0."""
        status = self._process.wait() if self._process is not None else 0
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"failed with exit code {status}"
            raise CommandFailed(f"the command whose output was sent {how}")

    def close(self) -> None:
        """End it, with what it has started, if it still runs; blocks for as long as its grace, and reaps it."""
        with self._beginning:
            self._closed = True
        process = self._process
        if process is not None and process.returncode is None:  # so its number is not anybody else's
            self._signal(process, signal.SIGTERM)
            until = time.monotonic() + GRACE
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            while self._own_group and _group_lives(process.pid) and time.monotonic() < until:
                time.sleep(LOOK_EVERY)
            self._signal(process, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
            process.wait()
        self._hang_up()

    def _begin(self) -> Callable[[int], bytes]:
        with self._beginning:
            if self._closed:
                return lambda _size: b""
            # Unbuffered: a thread that still reads a buffered one at the interpreter's end makes it abort.
            self._process = subprocess.Popen(
                self.text,
                shell=True,
                stdout=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                bufsize=0,
                process_group=0 if self._own_group else None,
            )
        assert self._process.stdout is not None
        return stream_reader(self._process.stdout)  # type: ignore[arg-type]

    def _signal(self, process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
        with contextlib.suppress(OSError):  # there is nobody left
            if self._own_group and sys.platform != "win32":
                os.killpg(process.pid, signum)
            else:
                process.send_signal(signum)

    def _hang_up(self) -> None:
        """Unless a read is under way, which does it then: what the command has started may hold the pipe for long."""
        if self._reading.acquire(blocking=False):
            if self._process is not None and self._process.stdout is not None:
                self._process.stdout.close()
            self._reading.release()


def _group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except OSError:
        return False
    return True


def _have_terminal() -> bool:
    """Whether we are what the terminal talks to just now: others who read from it are stopped."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
