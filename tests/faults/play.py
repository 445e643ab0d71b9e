"""Plays a scenario as a user or cron would: the same command again after every bad end, until both ended well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from chaos import Fault, Scenario
from material import prepared, rows_in, same
from stage import SERVERS, Stage

from transfer.events import AnyEvent, Failure, Notice, Progress, Receipt, Stored, Summary, TicketReady
from transfer.ticket import Ticket

XFER = (sys.executable, "-P", "-m", "cli")
TRIES = 12
WITHIN = 150.0
"""Seconds for a whole scenario."""
EXPIRE = "4m"
"""Of what nobody ends: longer than a scenario, and short enough that many rounds fit on a disk."""
PAUSE, LONGEST_PAUSE = 0.3, 5.0
"""Seconds before a command is run again: twice as many from time to time, as SIGTERM keeps SeaweedFS busy for half a minute."""
TICK = 0.02
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "pause": signal.SIGSTOP}
TEMPORARY, THERE, GONE = 5, 8, 4


class Unclean(AssertionError):
    """What the scenario proved wrong."""


class Run:
    """One run of a command with --json; what it said so far."""

    def __init__(
        self, args: list[str], env: Mapping[str, str], cwd: Path, log: Path, stdin: Path | None
    ) -> None:
        self.ticket: str | None = None
        self.done, self.total = 0, 0
        self.stored_at: float | None = None
        self.receipt = False
        self.summary: Summary | None = None
        self.failure: Failure | None = None
        self.notices: list[str] = []
        self.log = log
        with open(log, "wb") as stderr, open(stdin or os.devnull, "rb") as source:
            self.process = subprocess.Popen(
                [*XFER, *args], env=dict(env), cwd=cwd, stdin=source, stdout=subprocess.PIPE, stderr=stderr
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def share(self) -> float:
        """Of the bytes, how much is safe. 1 also for nothing at all, once that is known to be all."""
        if self.summary or self.receipt or self.stored_at:
            return 1.0
        return self.done / self.total if self.total else 0.0

    def ended(self) -> int | None:
        """The exit code, once everything it said has been read."""
        code = self.process.poll()
        if code is not None:
            self._reader.join()
        return code

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else a kill cut it short
                    self._note(msgspec.json.decode(line, type=AnyEvent))

    def _note(self, event: AnyEvent) -> None:
        match event:
            case TicketReady():
                self.ticket = event.ticket
            case Progress():
                self.done, self.total = event.done, event.total or 0
            case Stored():
                self.stored_at = time.monotonic()
            case Receipt():
                self.receipt = True
            case Summary():
                self.summary = event
            case Notice():
                self.notices.append(event.text)
            case Failure():
                self.failure = event
            case _:
                pass


class Side:
    """One end: its command, all its runs, whether it ended well."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs: list[Run] = []
        self.well = False
        self.next_try = 0.0
        self.killed = 0

    @property
    def running(self) -> Run | None:
        return self.runs[-1] if self.runs and self.runs[-1].process.poll() is None else None

    @property
    def share(self) -> float:
        return max((run.share for run in self.runs), default=0.0)

    @property
    def stored_at(self) -> float | None:
        return next((run.stored_at for run in self.runs if run.stored_at is not None), None)


class Play:
    """One scenario on a stage. `run` returns when both sides ended well; raises Unclean if one did not.

    folder: its own, empty. sources: where what is sent is kept from scenario to scenario. mark: stands in
    the environment of every process started here. history: what happened, with the second it did.
    """

    def __init__(self, scenario: Scenario, stage: Stage, folder: Path, sources: Path, mark: str) -> None:
        self.scenario, self.stage, self.folder = scenario, stage, folder
        self.source = prepared(scenario.source, sources)
        self.out = folder / "out"
        self.out.mkdir()
        self.sender, self.receiver = Side("sender"), Side("receiver")
        self.homes = {name: folder / f"home-{name}" for name in ("sender", "receiver")}
        self.history: list[str] = []
        self.applied: list[Fault] = []
        self._mark = mark
        self._pending = list(scenario.faults)
        self._undo: list[tuple[float, str, Callable[[], bool]]] = []
        self._started = time.monotonic()

    @property
    def tickets(self) -> list[str]:
        """All that the sender said, without repeats."""
        return list(dict.fromkeys(run.ticket for run in self.sender.runs if run.ticket))

    @property
    def jobs(self) -> list[str]:
        return [Ticket.parse(ticket).job for ticket in self.tickets]

    def run(self) -> None:
        for side in ("sender", "receiver"):
            self.stage.wires[side, "store"].rate = self.scenario.pace
        try:
            while not (self.sender.well and self.receiver.well):
                self._check(self._now < WITHIN, f"not within {WITHIN:g} s")
                self._break_what_is_due()
                self._mend_what_is_due()
                self._advance(self.sender, self._send)
                if self._fetch_may_start:
                    self._advance(self.receiver, self._fetch)
                time.sleep(TICK)
            self._say("both ended well")
        finally:
            for _, _, undo in self._undo:
                undo()
            for run in (*self.sender.runs, *self.receiver.runs):
                run.stop()

    # what the two sides do

    @property
    def _now(self) -> float:
        return time.monotonic() - self._started

    @property
    def _fetch_may_start(self) -> bool:
        if self.receiver.runs:
            return True
        if not self.tickets:
            return False
        if self.scenario.start == "later":
            return self._now > 2.5
        return self.scenario.start == "with the send" or self.sender.stored_at is not None or self.sender.well

    def _send(self) -> Run:
        s = self.scenario
        args = [
            "send",
            "--json",
            "--via",
            s.route,
            "--wait",
            f"{s.wait:g}s",
            "--patience",
            f"{s.patience:g}s",
        ]
        args += ["--fetches", str(s.fetches)] if s.fetches else ["--expire", EXPIRE]
        args += ["--receipt"] if s.receipt else []
        stream = s.source.kind == "stream"
        args += ["-", "--name", "stream"] if stream else [str(self.source)]
        return self._started_run(self.sender, args, self.source if stream else None)

    def _fetch(self) -> Run:
        patience = f"{self.scenario.patience:g}s"
        args = ["fetch", "--json", self.tickets[0], "-o", f"{self.out}/", "--patience", patience]
        return self._started_run(self.receiver, args, None)

    def _started_run(self, side: Side, args: list[str], stdin: Path | None) -> Run:
        env = self.stage.environment(side.name, self.homes[side.name], CHAOS_MARK=self._mark)
        log = self.folder / f"{side.name}.{len(side.runs)}"
        return Run(args, env, self.folder, log, stdin)

    def _advance(self, side: Side, start: Callable[[], Run]) -> None:
        """Start its command, or again; look whether it ended, and how."""
        if side.well or side.running is not None:
            return
        now = time.monotonic()
        if side.runs and side.next_try == 0.0:
            self._look_at_end(side, side.runs[-1])
            side.next_try = now + min(LONGEST_PAUSE, PAUSE * 2 ** (len(side.runs) - 1))
        if side.well or now < side.next_try:
            return
        self._check(len(side.runs) < TRIES, f"the {side.name} was run {TRIES} times and has not ended well")
        side.runs.append(start())
        side.next_try = 0.0
        self._say(f"{side.name} runs ({len(side.runs)})")

    def _look_at_end(self, side: Side, run: Run) -> None:
        code = run.ended()
        why = f" ({run.failure.kind}: {run.failure.message})" if run.failure else ""
        self._say(f"{side.name} ends {code}{why}")
        if code == 0 or run.summary is not None:
            # What was killed just after its last word may have left a row, and what could give no receipt has one.
            side.well = not rows_in(self.homes[side.name])
        elif code in (THERE, GONE) and side is self.receiver and side.killed:
            # It was killed after everything was done and before it could say so.
            self._check(same(self.source, self.target), f"the receiver says {code}, yet it has not got it")
            side.well = True
        else:
            ended_by_us = side.killed and code in (-signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM)
            self._check(bool(ended_by_us) or code == TEMPORARY, f"the {side.name} ended with {code}{why}")

    @property
    def target(self) -> Path:
        return self.out / ("stream" if self.scenario.source.kind == "stream" else self.source.name)

    # what breaks

    def _break_what_is_due(self) -> None:
        for fault in list(self._pending):
            if self._is_due(fault) and self._apply(fault):
                self._pending.remove(fault)
                self.applied.append(fault)
                self._say(f"{fault.how} {fault.whom}{' ' + '+'.join(fault.what) if fault.what else ''}")

    def _is_due(self, fault: Fault) -> bool:
        if fault.clock == "send":
            return self._now >= fault.at
        if fault.clock == "stored":
            stored = self.sender.stored_at
            return stored is not None and time.monotonic() >= stored + fault.at
        side = self.sender if fault.clock == "sent" else self.receiver
        return side.share >= fault.at and bool(side.runs)

    def _apply(self, fault: Fault) -> bool:
        """False if there is nothing to break just now."""
        whom, until = fault.whom, time.monotonic() + fault.lasts
        if whom in ("sender", "receiver"):
            return self._signal_side(self.sender if whom == "sender" else self.receiver, fault, until)
        if whom.endswith("network"):
            wires = [self.stage.wires[whom.split("'")[0], server] for server in fault.what]
            for wire in wires:
                (wire.cut if fault.how == "cut" else wire.stall)()

            def mend() -> bool:
                for wire in wires:
                    wire.mend()
                return True

            self._undo.append((until, f"{whom} is back", mend))
            return True
        if not self.stage.running or not self.stage.signal(whom, SIGNALS[fault.how]):
            return False
        if whom == "up":
            self._undo.append((until, "up is back", self._up_again))
        elif fault.how == "pause":
            self._undo.append(
                (until, f"{whom} goes on", lambda: self.stage.signal(whom, signal.SIGCONT) or True)
            )
        return True

    def _signal_side(self, side: Side, fault: Fault, until: float) -> bool:
        run = side.running
        if run is None:
            return False
        side.killed += fault.how != "pause"
        run.process.send_signal(SIGNALS[fault.how])
        if fault.how == "pause":

            def go_on() -> bool:
                run.process.send_signal(signal.SIGCONT)
                return True

            self._undo.append((until, f"{side.name} goes on", go_on))
        return True

    def _up_again(self) -> bool:
        if not self.stage.gone:
            return False
        self.stage.up()
        return True

    def _mend_what_is_due(self) -> None:
        for entry in list(self._undo):
            until, text, undo = entry
            if time.monotonic() >= until and undo():
                self._undo.remove(entry)
                self._say(text)

    # what is told

    def _say(self, text: str) -> None:
        self.history.append(f"{self._now:.1f} {text}")

    def _check(self, true: bool, complaint: str) -> None:
        if not true:
            raise Unclean(complaint)

    def told(self) -> str:
        """For a failure: the scenario, one line of history, and what the last runs and the servers' logs said."""
        last = [side.runs[-1] for side in (self.sender, self.receiver) if side.runs]
        texts = [f"{run.log.name}: {run.log.read_text()[-1500:]}" for run in last]
        texts += [f"{name}: {self.stage.log(name)[-1500:]}" for name in SERVERS if name != "store"]
        return "\n".join([str(self.scenario), " · ".join(self.history), *texts])
