"""`xfer batch` and `xfer fetch --room` as cron runs them, while either of them, the broker and NATS are killed.

Whatever dies when: in the end every version that was sent has been delivered once and whole, and nothing is left behind.
What is done follows from a seed; what it meets depends on the machine.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from .mortal import Mortal, Name
from .servers import XFER
from .spool import Inbox, Spool, Version, files_below, hidden_below, read_report, version_of, wrong_in

CONSUMER, LOCK = "night", "nightly"
TOGETHER = 2
"""Runs of a side that may be under way when its next one is due."""
PATIENT, IMPATIENT = "30s", "1s"
WITHIN, EMPTY_WITHIN, QUIET = 150.0, 90.0, 12
"""Seconds for a run; seconds until the sweeper has emptied the store; cycles without faults until all is done."""
TICK = 0.02
SENT_WELL, FETCHED_WELL = {0, 3, 5, 11}, {0, 5, 11}
"""Exit codes of what was not killed. 3: a file changed or went while it was sent."""
OUTCOMES = {0: "complete", 3: "partial", 5: "failed", 128 + signal.SIGTERM: "interrupted"}
"""Of a report, by its run's exit code."""
SIGNALLED = {-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
HARMLESS = ("changed", "is gone", "went away", "not there any more")
"""In the reason of a file that failed: it was stirred."""
WHAT = {
    "kill sender": 4, "kill receiver": 4, "end sender": 1, "end receiver": 1, "broker": 2, "nats": 2,
    "another send": 1, "another fetch": 1, "stir": 3,
}  # fmt: skip


class Deed(NamedTuple):
    """at: seconds after its cycle began. lasts: seconds that a server stays away."""

    what: str
    at: float
    lasts: float


class Cycle(NamedTuple):
    """send: options of the batch. stay: seconds until the next one is due, as long as runs may overlap."""

    send: tuple[str, ...]
    fetch: tuple[str, ...]
    stay: float
    deeds: tuple[Deed, ...]


def cycle(dice: random.Random, sent: Path) -> Cycle:
    removal = dice.choice(((), ("--delete",), ("--delete",), ("--move-to", str(sent))))
    alone = ("--lock", LOCK) if dice.random() < 0.15 else ()
    pack = ("--pack",) if dice.random() < 0.15 else ()
    patience = [("--patience", PATIENT if dice.random() < 0.7 else IMPATIENT) for _ in range(2)]
    chosen = dice.choices(list(WHAT), list(WHAT.values()), k=dice.choice((0, 1, 1, 2, 2, 3)))
    deeds = sorted(
        (Deed(what, dice.uniform(0.2, 2.5), dice.uniform(0.2, 2)) for what in chosen),
        key=lambda deed: deed.at,
    )
    send = (*removal, *alone, *pack, *patience[0])
    return Cycle(send, patience[1], dice.uniform(1.0, 5.0), tuple(deeds))


class Run:
    """A command. hurt: it was sent a signal. before: what lay in the spool when it began; less what was stirred since."""

    def __init__(
        self, side: str, argv: list[str], env: Mapping[str, str], log: Path, report: Path | None
    ) -> None:
        self.side, self.log, self.report = side, log, report
        self.hurt = False
        self.before: set[Version] = set()
        self.began = time.monotonic()
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                argv, env=dict(env), cwd=log.parent, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def signal(self, signum: signal.Signals) -> None:
        if self.code is None:
            self.hurt = True
            self._process.send_signal(signum)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Cron:
    """A sender's and a receiver's machine beside servers that die. wrong: what was seen so far; history: what happened.

    codes: how often each exit code of each side was seen. tell: is told a line a cycle.
    """

    def __init__(self, folder: Path, servers: Mortal, seed: int, tell: Callable[[str], None]) -> None:
        self.seed, self.wrong, self.history = seed, list[str](), list[str]()
        self.codes: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._servers, self._tell = servers, tell
        self._logs, self._sent = folder / "logs", folder / "sent"
        self._logs.mkdir()
        self.spool = Spool(folder)
        self.inbox = Inbox(folder, self.spool)
        self.homes = {side: folder / side for side in ("sender", "receiver")}
        self._env = {side: servers.client_environment(home) for side, home in self.homes.items()}
        self._running: list[Run] = []
        self._number = 0
        self._back: list[tuple[float, Name]] = []
        self._began = time.monotonic()
        room = subprocess.run(
            [XFER, "room", "new", "spool"],
            env=self._env["sender"],
            capture_output=True,
            text=True,
            check=True,
        )
        for env in self._env.values():
            env["XFER_ROOM"] = room.stdout.strip()

    def run(self, cycles: int) -> None:
        """All of it. What is wrong then stands in `wrong`."""
        try:
            for number in range(cycles):
                self._cycle(number, random.Random(f"{self.seed}:{number}"))
                if self.wrong:
                    break
            self._mend()
            self._wait(lambda: not self._running, WITHIN)
            if not self.wrong:
                self._quiet(cycles)
            if not self.wrong:
                self._last()
        finally:
            for run in self._running:
                run.end()
            self._mend()

    # a cycle

    def _cycle(self, number: int, dice: random.Random) -> None:
        plan = cycle(dice, self._sent)
        began = time.monotonic()
        self._say(f"cycle {number}: {' '.join(self._stir(dice, 12))}; {' '.join(plan.send)}")
        self._send(plan.send, number)
        self._fetch(plan.fetch, number)
        deeds = list(plan.deeds)
        while deeds or self._is_busy(time.monotonic() - began > plan.stay):
            if deeds and time.monotonic() - began >= deeds[0].at:
                self._do(deeds.pop(0), plan, number, dice)
            self._look()
            time.sleep(TICK)
        self._checked(self.inbox.look())
        names = ", ".join(deed.what for deed in plan.deeds) or "nothing"
        self._tell(
            f"cycle {number}: {names}; {len(self.inbox.delivered)} delivered, {len(self.spool.past)} made"
        )

    def _is_busy(self, is_due: bool) -> bool:
        """Whether the next cycle is to wait. is_due: this one has had its time, so that runs may overlap."""
        most = TOGETHER if is_due else 1
        return any(sum(run.side == side for run in self._running) >= most for side in self.homes)

    def _do(self, deed: Deed, plan: Cycle, number: int, dice: random.Random) -> None:
        how, _, whom = deed.what.partition(" ")
        self.done[deed.what] += 1
        if how in ("kill", "end"):
            running = [run for run in self._running if run.side == whom and run.code is None]
            for run in running[-1:]:
                run.signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
                self._say(f"{how} {run.log.name} after {time.monotonic() - run.began:.2f} s")
        elif deed.what == "another send":
            self._say(f"another: {self._send(plan.send, number).log.name}")
        elif deed.what == "another fetch":
            self._say(f"another: {self._fetch(plan.fetch, number).log.name}")
        elif deed.what == "stir":
            self._say(f"stir {' '.join(self._stir(dice, 4))}")
        else:
            server: Name = "broker" if deed.what == "broker" else "nats"
            if self._servers.runs(server):
                self._say(f"kill {server} for {deed.lasts:.2f} s")
                self._servers.kill(server)
                self._back.append((time.monotonic() + deed.lasts, server))

    def _stir(self, dice: random.Random, most: int) -> list[str]:
        done = self.spool.stir(dice, most)
        for run in self._running:
            run.before = {version for version in run.before if version.name not in self.spool.touched}
        return done

    def _send(self, options: tuple[str, ...], number: int) -> Run:
        report = self._logs / f"report.{self._number}"
        words = ["batch", str(self.spool.root), "--fetches", "1", "--report", str(report), *options]
        run = self._start("sender", words, report)
        run.before = self.spool.versions()
        return run

    def _fetch(self, options: tuple[str, ...], number: int) -> Run:
        where = self.inbox.root / str(number)
        return self._start("receiver", ["fetch", "--as", CONSUMER, "--rename", "-o", f"{where}/", *options])

    def _start(self, side: str, words: list[str], report: Path | None = None) -> Run:
        log = self._logs / f"{side}.{self._number}.stderr"  # as `tests/leaks.py` looks for them
        self._number += 1
        run = Run(side, [XFER, *words], self._env[side], log, report)
        self._running.append(run)
        return run

    # what is seen

    def _look(self) -> None:
        """Servers that are due come back; runs that ended are judged."""
        for due, server in list(self._back):
            if time.monotonic() >= due:
                self._back.remove((due, server))
                self._servers.start(server)
        for run in list(self._running):
            code = run.code
            if code is None:
                if time.monotonic() - run.began > WITHIN:
                    self._checked([f"{run.log.name} does not end: {run.said[-1000:]}"])
                    run.end()
                continue
            self._running.remove(run)
            self._judge(run, code)

    def _judge(self, run: Run, code: int) -> None:
        self.codes[f"{run.side} {code}"] += 1
        self._say(f"{run.log.name} ends {code} after {time.monotonic() - run.began:.2f} s")
        well = (SENT_WELL if run.side == "sender" else FETCHED_WELL) | (SIGNALLED if run.hurt else set())
        if code not in well or "Traceback" in run.said:
            self._checked([f"{run.log.name} ended with {code}: {run.said[-3000:]}"])
        if run.report is None:
            return
        self.spool.gone()
        report = read_report(run.report)
        self._checked(self.inbox.look())
        self.spool.due |= run.before if code == 0 else set()
        steady = run.before & self.spool.versions() if code == 0 else set()  # another run may remove, too
        if report is None:
            if code in (0, 3):
                self._checked([f"{run.log.name} ended with {code} and wrote no report"])
            return
        wrong = wrong_in(report, self.spool, self.inbox, steady)
        for line in report["files"]:
            if line["outcome"] == "failed":
                self.reasons[line["reason"].replace(line["path"], "F")] += 1
                if code == 3 and not any(word in line["reason"] for word in HARMLESS):
                    wrong.append(f"{line['path']} failed: {line['reason']}")
        outcome = OUTCOMES.get(code, report["outcome"])
        # A signal that comes while the run, done already, hangs up finds its report as it was written.
        if report["outcome"] != outcome and (code, report["outcome"]) != (143, "complete"):
            wrong.append(f"exit {code} and outcome {report['outcome']}")
        self._checked([f"{run.report.name}: {each}" for each in wrong])

    def _checked(self, wrong: list[str]) -> None:
        for each in wrong:
            self._say(f"WRONG: {each}")
        self.wrong += wrong

    def _say(self, text: str) -> None:
        self.history.append(f"{time.monotonic() - self._began:7.2f} {text}")

    # the end

    def _mend(self) -> None:
        for _, server in self._back:
            self._servers.start(server)
        self._back.clear()

    def _wait(self, true: Callable[[], bool], within: float) -> bool:
        deadline = time.monotonic() + within
        while not true() and time.monotonic() < deadline:
            self._look()
            time.sleep(TICK)
        return true()

    def _quiet(self, number: int) -> None:
        """Nothing breaks any more, and locks of those that died go by themselves: until nothing is left to do."""
        for more in range(QUIET):
            sending = self._send(("--delete", "--lock", LOCK, "--wait-lock", "--patience", PATIENT), number)
            self._wait(lambda: not self._running, WITHIN)
            fetching = self._fetch(("--patience", PATIENT), number)
            self._wait(lambda: not self._running, WITHIN)
            codes = sending.code, fetching.code
            if not set(codes) <= {0, 3}:
                self._checked([f"quiet cycle {more} ended with {codes}: {sending.said} {fetching.said}"])
                return
            if codes == (0, 0) and not self.spool.current:
                self._tell(f"all done after {more + 1} quiet cycles")
                return
        self._checked([f"not done after {QUIET} quiet cycles: {sorted(self.spool.current)[:10]}"])

    def _last(self) -> None:
        self._checked(self.inbox.look_again())
        deadline = time.monotonic() + EMPTY_WITHIN
        while (left := self._servers.left()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self._checked([f"left in the store: {each}" for each in left])
        for side, home in self.homes.items():
            for name in ("batch.db", "ledger.db"):
                self._checked([f"{side}'s {name}: {each}" for each in rows_left(home / "state" / name)])
        for path in files_below(self._sent):
            if version_of(path, path.relative_to(self._sent)) not in self.spool.past:
                self._checked([f"{path} was moved there, and is no version that there was"])
        for folder in (self.inbox.root, self.spool.root, self._sent):
            self._checked([f"left over: {path}" for path in hidden_below(folder)])
        if "Traceback" in (log := self._servers.log("broker")):
            self._checked([f"the broker said {log[log.index('Traceback') :][:3000]}"])

    def told(self) -> str:
        return f"seed {self.seed}\n" + "\n".join([*self.history, *self.wrong])

    def figures(self) -> str:
        return (
            f"{len(self.spool.past)} versions made, {len(self.spool.due)} due, {sum(self.inbox.delivered.values())}"
            f" delivered; deeds {dict(sorted(self.done.items()))}; exits {dict(sorted(self.codes.items()))};"
            f" files that failed and went later {dict(self.reasons.most_common(5))}"
        )


WORK = {"batch.db": ("orders", "order_files", "files", "failures"), "ledger.db": ("jobs", "deliveries")}
"""Tables whose rows stand for something to do."""


def rows_left(database: Path) -> list[str]:
    if not database.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        counts = {
            table: opened.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in WORK[database.name]
        }
    return [f"{count} rows in {table}" for table, count in counts.items() if count]
