"""What the tests of the command line without servers share: an environment with nothing in it, and a child of few lines."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from transfer.ticket import Ticket

TICKET = str(Ticket("q" * 16, bytes(range(16))))
Xfer = Callable[..., subprocess.CompletedProcess[str]]
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, pipes or terminals")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def env(home: Path) -> Mapping[str, str]:
    """Nothing is configured."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("XFER_", "NATS_", "AWS_"))
    }
    return {**kept, "XFER_HOME": str(home)}


@pytest.fixture
def configured(env: Mapping[str, str]) -> Mapping[str, str]:
    """A context whose NATS nobody runs."""
    return {**env, "NATS_URL": "nats://127.0.0.1:9"}


CHILD = """
import asyncio, os, sys
import cli.main, cli.run
from transfer import errors

{body}

class Context:
    def __enter__(self): return self
    def __exit__(self, *_): return None
    @property
    def command(self): return self
    def invoke(self, _): return work()
    def make_context(self, *_): return self

cli.main.root = Context
sys.argv = ["xfer", *{args!r}]
cli.main.main()
"""


@pytest.fixture
def child(env: Mapping[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The console script's own ending of things, around work() of the test's own."""
    started: list[subprocess.Popen[str]] = []

    def start(body: str, args: tuple[str, ...] = ("send", "f"), **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(body=textwrap.dedent(body), args=args)],
            env={**env, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


Child = Callable[..., subprocess.Popen[str]]
