"""Runs tests on mutants: each in a process of its own, forked from one that has imported what is not ours.

Everything happens in a copy of the tree. The tests of a module are run once as they are, which tells which of them
come by each line; a mutant has to pass those that come by its lines, the quickest first, and then the others.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest
from hypothesis import HealthCheck, Phase, settings

LEAST_SECONDS, TIMES = 3.0, 4
"""A mutant may take so many seconds of the processor, and so many times what the tests take without it."""
WALL_TIMES = 10
"""And as many times that by the clock: the machine may be busy with others."""
MEMORY = 8 << 30
"""Bytes of addresses: a loop that never ends may fill the memory before its time is over."""
ARGUMENTS = ("-x", "-q", "--assert=plain", "--hypothesis-seed=0")
WITHOUT = ("cacheprovider", "xdist", "unraisableexception", "threadexception")
"""Plugins that cost time, or remember."""


class Outcome(Enum):
    SURVIVED = "survived"
    KILLED = "killed"
    TIMEOUT = "timeout"


class Base(NamedTuple):
    """What the tests do without a mutant.

    seconds: of the processor, by test. lines: the tests that come by each line; those that are run by the import are
    come by by all. missing: what no test takes, as `(line, line)` for a branch. imported: modules that are not ours.
    """

    seconds: dict[str, float]
    lines: dict[int, list[str]]
    missing: list[tuple[int, int]]
    imported: list[str]


class Red(Exception):
    """The tests fail without any mutant."""


class Trial:
    """The tests of one module. root: the copy, which is the working directory and first in `sys.path`."""

    def __init__(self, root: Path, source: str, tests: Sequence[str]) -> None:
        self._file, self._tests = root / source, list(tests)
        self._original = self._file.read_bytes()
        self._base_file = root / ".mutation-base.json"
        self.base = self._measured()

    def run(self, line: int, mutated: bytes) -> Outcome:
        near = set(self.base.lines.get(line, ()))
        rest = set(self.base.seconds) - near
        sys.dont_write_bytecode = (
            True  # of the mutant, that is: what it imports was compiled for the first run
        )
        with self._written(mutated):
            outcome = self._tried(near) if near else Outcome.SURVIVED
            return self._tried(rest) if outcome is Outcome.SURVIVED and rest else outcome

    def _measured(self) -> Base:
        self._base_file.unlink(missing_ok=True)
        sys.dont_write_bytecode = False
        if _forked(lambda: _measure(self._file, self._tests, self._base_file), 3600, 3600) != 0:
            raise Red(f"{' '.join(self._tests)}: failed without any mutant")
        said = json.loads(self._base_file.read_text())
        lines = {int(line): tests for line, tests in said["lines"].items()}
        base = Base(said["seconds"], lines, [(a, b) for a, b in said["missing"]], said["imported"])
        for name in base.imported:
            with contextlib.suppress(Exception):  # what cannot be imported by itself costs time, nothing else
                importlib.import_module(name)
        gc.freeze()  # no child needs to look at it again
        return base

    def _tried(self, tests: set[str]) -> Outcome:
        allowed = LEAST_SECONDS + TIMES * sum(self.base.seconds[test] for test in tests)
        files = sorted({test.partition("::")[0] for test in tests})
        chosen = _Chosen({test: self.base.seconds[test] for test in tests})
        code = _forked(lambda: _pytest(files, chosen), allowed, WALL_TIMES * allowed)
        return {0: Outcome.SURVIVED, None: Outcome.TIMEOUT}.get(code, Outcome.KILLED)

    @contextlib.contextmanager
    def _written(self, mutated: bytes) -> Iterator[None]:
        for cached in self._file.parent.glob(f"__pycache__/{self._file.stem}.*"):
            cached.unlink()
        self._file.write_bytes(mutated)
        try:
            yield
        finally:
            self._file.write_bytes(self._original)


class _Chosen:
    """Has pytest run these tests, the quickest first."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._seconds), key=lambda i: self._seconds[i.nodeid]
        )


class _Watched:
    """Notes what each test takes, and has `coverage` know which one runs."""

    def __init__(self, watch: coverage.Coverage) -> None:
        self._watch = watch
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._watch.switch_context(item.nodeid)
        start = time.process_time()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.process_time() - start
            self._watch.switch_context("")


def _pytest(files: Sequence[str], plugin: object) -> int:
    left_out = [word for name in WITHOUT for word in ("-p", f"no:{name}")]
    return int(pytest.main([*ARGUMENTS, *left_out, *files], [plugin]))


def _measure(file: Path, tests: list[str], result: Path) -> int:
    watch = coverage.Coverage(data_file=None, branch=True, config_file=False, include=[str(file)])
    watched = _Watched(watch)
    watch.start()
    code = _pytest(tests, watched)
    watch.stop()
    if code != 0:
        return code
    report = result.with_suffix(".coverage")
    watch.json_report(outfile=str(report))
    (found,) = json.loads(report.read_text())["files"].values()
    lines: dict[int, list[str]] = {}
    for line, contexts in watch.get_data().contexts_by_lineno(str(file)).items():
        lines[line] = sorted(watched.seconds) if "" in contexts else sorted(contexts)
    ours = str(Path.cwd())
    imported = [
        name
        for name, module in sys.modules.items()
        if getattr(module, "__file__", None) and not str(module.__file__).startswith(ours)
    ]
    said = {
        "seconds": watched.seconds,
        "lines": lines,
        "missing": [*found["missing_branches"], *([line, line] for line in found["missing_lines"])],
        "imported": imported,
    }
    result.write_text(json.dumps(said))
    return 0


def _forked(work: Callable[[], int], seconds: float, wall: float) -> int | None:
    """The exit code of what is done in a child; None if it took too long and was ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            _confine(seconds)
            code = int(work())
        finally:
            os._exit(code)
    ends, done, status = time.monotonic() + wall, 0, 0
    try:
        while not done and time.monotonic() < ends:
            time.sleep(0.01)
            done, status = os.waitpid(child, os.WNOHANG)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # it, and what it left behind
        if not done:
            os.waitpid(child, 0)
    if not done or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return None
    return os.waitstatus_to_exitcode(status)


def _confine(seconds: float) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    whole = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + whole, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # A failure is enough: that hypothesis makes it smaller, or remembers it for the next mutant, would only cost time.
    settings.register_profile(
        "mutation",
        phases=(Phase.explicit, Phase.generate),
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],  # on a busy machine that would pass for a mutant found
    )
    settings.load_profile("mutation")
