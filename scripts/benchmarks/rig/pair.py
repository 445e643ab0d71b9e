"""Two processes that are the ends of one channel: started fresh, introduced to each other by pipes, ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from .link import Link, Namespace, Shape, namespace

SENDER, RECEIVER = "sender", "receiver"
LOOK = 0.05
"""Seconds between two looks at whether an end has failed."""
ENDS_WITHIN = 2.0
"""Seconds from the end of what a process says to its own."""


@contextlib.contextmanager
def ends(shape: Shape, program: Path | None, seed: int = 1) -> Iterator[tuple[Namespace, Namespace]]:
    """Where the two are; gone when the context ends. program: of the link; without a rate there is none."""
    if not shape.rate:
        yield Namespace(), Namespace()
        return
    assert program is not None
    name = f"xfer-{os.getpid()}"
    with (
        namespace(f"{name}-a", "cubic") as near,
        namespace(f"{name}-b", "cubic") as far,
        contextlib.closing(Link(shape, near, far, program, seed)),
    ):
        yield near, far


def run(
    command: Callable[[str], Sequence[str]], near: Namespace, far: Namespace, within: float
) -> dict[str, float]:
    """The sender's figures. command: arguments of Python for a role. Raises OSError with what went wrong.

    Each end says `ready` and waits for a line; whatever it says then the other hears, up to a line of JSON that begins
    with `seconds`.
    """
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(_End(command(role), where))
            for role, where in ((SENDER, near), (RECEIVER, far))
        ]
        for end in both:
            if end.hear() != "ready\n":
                raise OSError(f"an end did not start: {end.complaint()}")
        for end in both:
            end.tell("go\n")
        relays = [
            threading.Thread(target=_relay, args=(*pair, said), daemon=True) for pair in (both, both[::-1])
        ]
        for relay in relays:
            relay.start()
        deadline = time.monotonic() + within
        while relays[0].is_alive() and time.monotonic() < deadline and not any(end.failed for end in both):
            relays[0].join(LOOK)
        over = not relays[0].is_alive()  # it has said its figures or is about to end
        failures = [end.complaint() for end in both if end.failed or (over and not said and end.failing())]
    if said:
        figures: dict[str, float] = json.loads(said[0])
        return figures
    raise OSError("; ".join(failures) or f"not done after {within:.0f} s")


class _End(contextlib.AbstractContextManager["_End"]):
    """One of them; killed when the context ends."""

    def __init__(self, argv: Sequence[str], where: Namespace) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        with where.inside():
            self._process = subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()

    @property
    def failed(self) -> bool:
        return bool(self._process.poll())

    def failing(self) -> bool:
        """It fails within a moment: what it writes to ends before it does."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDS_WITHIN)
        return self.failed

    def hear(self) -> str:
        """Its next line; empty at its end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tell(self, text: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def complaint(self) -> str:
        """The last line of its stderr."""
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else "it says nothing"


def _relay(one: _End, other: _End, said: list[str]) -> None:
    while text := one.hear():
        if text.startswith('{"seconds"'):
            said.append(text)
            return
        other.tell(text)
