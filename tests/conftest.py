"""Real servers for the tests: one `xfer up` a pytest worker, shared with nobody else."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import msgspec
import pytest

from tests.leaks import leaks_below

# A loaded machine takes its time; how long an example takes says nothing.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")
ROOT = Path(__file__).resolve().parent.parent
XFER = [sys.executable, "-P", "-m", "cli"]
# Whoever started us may have had SIGHUP ignored (nohup) or SIGINT (a shell's background job), and children
# inherit that; the tests are about what these signals do.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

STOP_WITHIN = 40.0
"""Seconds; more than all graces of the supervisor together."""


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """For a child process: our own Python, nothing of the developer's contexts, keys and proxies."""
    ours = ("XFER_", "NATS_", "AWS_", "WEED_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "XFER_HOME": str(home), "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **more}


@dataclass(frozen=True)
class Servers:
    """A running `xfer up`. env: for processes that shall use it; its XFER_HOME holds the context `local`."""

    nats_url: str
    s3_endpoint: str
    bucket: str
    dir: Path
    creds: Path
    env: Mapping[str, str]
    process: subprocess.Popen[str]


class _Said(msgspec.Struct):
    nats_url: str
    s3_endpoint: str
    bucket: str
    dir: str
    credentials_file: str


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order", type=int, metavar="SEED", help="run the tests in an order drawn from SEED")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seed = config.getoption("order")
    if seed is not None:  # every worker must come to the same order
        random.Random(seed).shuffle(items)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no garbage collection needs to look at it again."""
    gc.collect()
    gc.freeze()


def _start(home: Path, folder: Path, **more: str) -> Servers:
    """`xfer up --json` in a child process; its notices go to home/up.stderr. Stop what you start."""
    env = clean_environment(home, **more)
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "up.stderr", "ab") as notices:
        process = subprocess.Popen(
            [*XFER, "up", "--dir", str(folder), "--json"],
            env=env,
            cwd=home,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=notices,
            start_new_session=True,  # so that a test can send a terminal's Ctrl-C to the whole group
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        pytest.fail(f"xfer up ended with {process.returncode}: {(home / 'up.stderr').read_text()}")
    said = msgspec.json.decode(line, type=_Said)
    return Servers(
        nats_url=said.nats_url,
        s3_endpoint=said.s3_endpoint,
        bucket=said.bucket,
        dir=Path(said.dir),
        creds=Path(said.credentials_file),
        env=env,
        process=process,
    )


def _stop(servers: Servers) -> int:
    """SIGTERM, and wait until all is gone. Returns the exit code."""
    process = servers.process
    process.terminate()
    try:
        return process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()  # its children go with it
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="session", autouse=True)
def no_secret_is_logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever servers, brokers and commands of this worker logged holds no ticket, no `Authorization`, no signature.

    Set up before all others, so it looks when all of them have ended.
    """
    yield
    found = list(leaks_below(tmp_path_factory.getbasetemp()))
    if found:
        pytest.fail("secrets in logs:\n" + "\n".join(found[:20]), pytrace=False)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The worker's servers. Tests may use them, never stop or break them."""
    base = tmp_path_factory.mktemp("servers")
    running = _start(base / "home", base / "data")
    try:
        yield running
    finally:
        _stop(running)


@pytest.fixture(scope="session")
def start_servers() -> Callable[..., Servers]:
    """start_servers(home, folder, **environment): servers of the test's own; end them with `stop_servers`."""
    return _start


@pytest.fixture(scope="session")
def stop_servers() -> Callable[[Servers], int]:
    """Stops what `start_servers` started and gives the exit code of `xfer up`."""
    return _stop


@pytest.fixture
def xfer(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line as a user would: a process of its own, in a folder of its own.

    Call it as xfer("send", "f", env=servers.env). Without env nothing is configured.
    """
    folder = tmp_path / "cwd"
    folder.mkdir()

    def run(
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = 60.0,
        cwd: Path = folder,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*XFER, *map(str, args)],
            env=dict(env) if env is not None else clean_environment(tmp_path / "xfer-home"),
            cwd=cwd,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
