"""What the end-to-end tests share: commands in the background, two machines, trees, what lies on disk."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from transfer.events import AnyEvent, Event, Failure, Progress, Summary, TicketReady
from transfer.paths import STAGING_PREFIX

SOON = 40.0
"""Seconds in which what must happen has happened, on a machine that runs other tests as well."""
XFER = (sys.executable, "-P", "-m", "cli")
MIB = 1 << 20
E = TypeVar("E", bound=Event)


class Background:
    """An `xfer` command in a process of its own; its stdout is read as it comes.

    peak: the most memory it had, bytes; known once it has ended. others: whom a failure shows as well.
    """

    def __init__(
        self, args: Iterable[object], *, env: Mapping[str, str], cwd: Path, log: Path, stdin: int | IO[bytes],
        prefix: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.args = [*prefix, *XFER, *map(str, args)]
        self._log = log
        self.others: list[Background] = []
        self._lines: list[bytes] = []
        self._news = threading.Condition()
        self._code: int | None = None
        self.peak = 0
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen(
                self.args, env=dict(env), cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
            )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._reap)]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> bool:
        return self._code is None

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    @property
    def stdout(self) -> bytes:
        return b"".join(self._lines)

    @property
    def events(self) -> list[AnyEvent]:
        return [msgspec.json.decode(line, type=AnyEvent) for line in list(self._lines)]

    @property
    def ticket(self) -> str:
        """Waits for it. From the event, or from the first line of a command without --json."""
        if "--json" in self.args:
            ticket = self.event(TicketReady).ticket
            assert ticket is not None, "it went to a file"
            return ticket
        self.until(lambda: bool(self._lines))
        return self._lines[0].decode().strip()

    def event(self, kind: type[E], true: Callable[[E], bool] = lambda _event: True) -> E:
        """The first such event; waits for it."""
        seen = 0

        def found() -> bool:
            nonlocal seen
            for line in self._lines[seen:]:
                event = msgspec.json.decode(line, type=AnyEvent)
                if isinstance(event, kind) and true(event):
                    return True
                seen += 1
            return False

        self.until(found)
        event = msgspec.json.decode(self._lines[seen], type=AnyEvent)
        assert isinstance(event, kind)
        return event

    def moved(self, least: int) -> Progress:
        """Waits until so many raw bytes are safe."""
        return self.event(Progress, lambda progress: progress.done >= least)

    def feed(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def signal(self, signum: signal.Signals) -> None:
        if self.running:
            os.kill(self.process.pid, signum)

    def end(self, within: float = SOON) -> Background:
        """Waits for its end."""
        for thread in self._threads:
            thread.join(within)
        if self.running:
            others = "\n".join(process._told() for process in self.others if process is not self)
            raise AssertionError(f"{self._told()} did not end within {within} s; the others:\n{others}")
        return self

    def stop(self) -> None:
        self.signal(signal.SIGKILL)
        for thread in self._threads:
            thread.join(10)
        if self.process.stdin is not None:
            self.process.stdin.close()

    @property
    def code(self) -> int:
        self.end()
        assert self._code is not None
        return self._code

    @property
    def summary(self) -> Summary:
        """Waits for a good end."""
        assert self.code == 0, self._told()
        last = self.events[-1]
        assert isinstance(last, Summary), self._told()
        return last

    def _told(self) -> str:
        shown = (
            self._lines if len(self._lines) < 30 else [*self._lines[:20], b"(and so on)\n", *self._lines[-5:]]
        )
        lines = b"".join(shown).decode(errors="replace") if "--json" in self.args else ""
        return f"{self.args[len(XFER) :]} (exit {self._code})\n{lines}{self.stderr}"

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SOON
        with self._news:
            while not true():
                left = deadline - time.monotonic()
                assert self.running or self._threads[0].is_alive(), f"it ended too early: {self._told()}"
                assert left > 0, f"not within {SOON} s: {self._told()}"
                self._news.wait(min(left, 0.5))

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()

    def _reap(self) -> None:
        """In place of Popen.wait, which does not tell how much memory was used."""
        while True:
            self.peak = max(self.peak, high_water(self.process.pid))
            pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(status)
        self.process.returncode = code
        if sys.platform == "darwin":
            self.peak = used.ru_maxrss
        with self._news:
            self._code = code
            self._news.notify_all()


def high_water(pid: int) -> int:
    """The most memory that a running process had so far, bytes; 0 once it is a zombie, and where there is no /proc.

    Not wait4's ru_maxrss: on Linux that begins at what the parent had when it started the child.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


@dataclass
class Two:
    """A sender's and a receiver's machine: the same servers, a state of their own each.

    out: where the receiver fetches to. Everything started here ends with the test.
    """

    tmp: Path
    here: dict[str, str]
    there: dict[str, str]
    out: Path
    started: list[Background]

    def start(
        self, *args: object, env: Mapping[str, str] | None = None, cwd: Path | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL, prefix: Iterable[str] = (),
    ) -> Background:  # fmt: skip
        """Any command; on the sender's machine unless told otherwise."""
        log = self.tmp / f"stderr.{len(self.started)}"
        new = Background(args, env=env or self.here, cwd=cwd or self.tmp, log=log, stdin=stdin, prefix=prefix)
        self.started.append(new)
        new.others = self.started
        return new

    def send(self, *args: object, **more: object) -> Background:
        """`xfer send --json` in the background."""
        return self.start("send", "--json", *args, **more)  # type: ignore[arg-type]

    def stream(self, *args: object) -> Background:
        """`xfer send -` with a pipe to `feed` and `hang_up`."""
        return self.send("-", "--name", "stream", *args, stdin=subprocess.PIPE)

    def store(self, *args: object) -> str:
        """Send to the store, to the end. Returns the ticket."""
        sent = self.send("--wait", "0", *args)
        assert sent.summary.outcome == "stored"
        return sent.ticket

    def fetch(self, ticket: str, *args: object, **more: object) -> Background:
        """`xfer fetch --json` in the background, to `out` unless told otherwise."""
        where = () if "-o" in args else ("-o", self.out)
        return self.start("fetch", "--json", ticket, *where, *args, **{"env": self.there, **more})  # type: ignore[arg-type]

    def file(self, name: str, size: int) -> Path:
        """Bytes that do not compress."""
        return write(self.tmp / name, size)

    @property
    def arrived(self) -> list[str]:
        """What stands under a final name."""
        return [name for name in sorted(os.listdir(self.out)) if not name.startswith(STAGING_PREFIX)]

    @property
    def left_over(self) -> list[str]:
        """What an unfinished fetch keeps for the next one."""
        return [name for name in sorted(os.listdir(self.out)) if name.startswith(STAGING_PREFIX)]

    def close(self) -> None:
        for process in self.started:
            process.stop()


def at_a_terminal(
    *args: object, env: Mapping[str, str], cwd: Path | None = None, input: str = "", columns: int = 1000
) -> tuple[int, str]:
    """Run a command whose stderr is a terminal, so wide unless told that nothing is broken. Returns its exit code, and
    what it said there."""
    ours, theirs = os.openpty()
    try:
        code = subprocess.run(
            [*XFER, *map(str, args)],
            env={**env, "COLUMNS": str(columns), "TERM": "dumb"},
            cwd=cwd,
            input=input,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            text=True,
            timeout=90,
        ).returncode
        os.set_blocking(ours, False)
        try:
            said = os.read(ours, 4096)
        except BlockingIOError:
            said = b""
    finally:
        os.close(ours)
        os.close(theirs)
    return code, said.decode().replace("\r\n", "\n")


def write(path: Path, size: int) -> Path:
    """Bytes that do not compress, a megabyte at a time."""
    with open(path, "wb") as file:
        file.writelines(os.urandom(min(MIB, size - at)) for at in range(0, size, MIB))
    return path


def complaint(ended: Background) -> Failure:
    """The error event of a --json command that failed; it agrees with the exit code and with stderr."""
    code = ended.code
    last = ended.events[-1]
    assert isinstance(last, Failure), ended.stderr
    assert last.code == code
    assert last.message in ended.stderr.replace("\n      ", " "), ended.stderr
    assert "Traceback" not in ended.stderr
    return last


def seconds(iso: str) -> float:
    """Since 1970, of a time in what a command says with --json."""
    assert iso.endswith("Z")
    return datetime.fromisoformat(iso).timestamp()


def same_tree(one: Path, other: Path) -> None:
    """Bytes, names, links (`diff -r`), modes and mtimes."""
    said = subprocess.run(
        ["diff", "-r", "--no-dereference", one, other], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout[:2000], said.stderr) == (0, "", "")
    assert listing(one) == listing(other)


def listing(root: Path) -> dict[bytes, tuple[int, int, bytes]]:
    """Relative path to mode with type, mtime in nanoseconds (0 of a link) and link target."""
    top = os.fsencode(root)
    found = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            seen = os.lstat(path)
            link = stat.S_ISLNK(seen.st_mode)
            target = os.readlink(path) if link else b""
            found[os.path.relpath(path, top)] = (seen.st_mode, 0 if link else seen.st_mtime_ns, target)
    return found


ODD_NAMES = (
    b" leading", b"trailing ", b"-rf", b"*", b"what?", b"back\\slash", b"quo\"te's", b"a:b|c<d>", b"CON", b"nul.txt",
    b"%1B", b"~", b"#", b"$HOME", b"`id`", b";", b"tr\xc3\xa9s", b"tre\xcc\x81s", b"\xe6\x96\x87\xe4\xbb\xb6",
    b"\xf0\x9f\x93\xa6", b"not utf-8 \xff\xfe", b"n" * 255, b"Case", b"case", b".hidden", b"...", b"a.xfer-b",
)  # fmt: skip


def make_tree(root: Path, files: int) -> Path:
    """About so many files, 50 a folder; odd names, links of every sort, empty files and folders, modes, mtimes."""
    text = b"a line that compresses well\n"
    modes = (0o644, 0o600, 0o755, 0o444, 0o400, 0o640)
    for number in range(files):
        folder = root / f"part-{number // 500}" / f"{number // 50 % 10}"
        if number % 50 == 0:
            folder.mkdir(parents=True)
        path = folder / f"{number}.txt"
        path.write_bytes(os.urandom(700) if number % 3 else text * (number % 97))
        path.chmod(modes[number % len(modes)])
    odd = root / "odd"
    odd.mkdir()
    for odd_name in ODD_NAMES:
        with open(os.path.join(os.fsencode(odd), odd_name), "wb") as file:
            file.write(b"named " + odd_name)
    for empty in ("empty", "empty folder/below/it"):
        (root / empty).mkdir(parents=True)
    (root / "nothing").touch()
    links = root / "links"
    links.mkdir()
    for link, target in (
        ("to a file", "../nothing"), ("to a folder", "../odd"), ("to nowhere", "not/there"), ("to itself", "to itself"),
        ("up", ".."), ("to a link", "to a file"),
    ):  # fmt: skip
        (links / link).symlink_to(target)
    (root / "locked").mkdir()
    (root / "locked" / "inside").write_bytes(b"kept")
    (root / "locked").chmod(0o555)
    for number, (folder_name, _, names) in enumerate(os.walk(root, topdown=False)):
        for name in names:
            os.utime(
                Path(folder_name, name), ns=(0, 1_500_000_000_123_456_789 + number), follow_symlinks=False
            )
        os.utime(folder_name, ns=(0, 1_400_000_000_987_654_321 + number))
    return root
