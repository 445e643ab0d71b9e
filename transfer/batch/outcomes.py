"""What became of each file: in the state, for the next run, and in the report, for people."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

from transfer.batch.clearing import Gone
from transfer.batch.plan import Step, What
from transfer.batch.report import Outcome, Report, line
from transfer.batch.state import Known, Order, OrderFile, State

_NOTHING_TO_DO: dict[What, Outcome] = {What.UNCHANGED: "unchanged", What.LEFT: "left", What.FAILED: "failed"}


class Outcomes:
    """done: keys that this run is through with, or that an order stands for."""

    def __init__(self, state: State, report: Report) -> None:
        self._state, self._report = state, report
        self.done: set[bytes] = set()

    def note(self, step: Step) -> bool:
        """Whether it needs nothing done but this."""
        if step.what not in _NOTHING_TO_DO:
            return False
        known = step.known
        if step.what is What.FAILED and step.key:
            self._state.failed(step.key, step.reason)
        if step.what is What.UNCHANGED and known is not None:
            if step.facts is not None and step.facts != known.facts and known.state != "removing":
                self._state.touched(step.key, step.facts)
            if self._state.failure(step.key) is not None:  # a look is cheap, and a commit waits for the disk
                self._state.mended(step.key)
        self._report.add(
            line(
                step.name,
                _NOTHING_TO_DO[step.what],
                size=step.facts.size if step.facts else None,
                digest=step.digest,
                job=known.job if known else None,
                sent=known.sent if known else None,
                receipt=known.received if known else None,
                reason=step.reason,
            )
        )
        return True

    def sent(self, order: Order) -> None:
        job = order.ticket.job
        self._state.sent(job)
        for file in order.files:
            known = self._state.known(file.key)
            self._report.add(
                line(
                    file.name,
                    "sent",
                    size=file.facts.size,
                    digest=file.digest,
                    job=job,
                    sent=known.sent if known else None,
                )
            )

    def failed(self, files: Iterable[Known | OrderFile], reason: str) -> None:
        for file in files:
            self.done.add(file.key)
            self._state.failed(file.key, reason)
            self._report.add(
                line(file.name, "failed", size=file.facts.size, digest=file.digest, reason=reason)
            )

    def written_to(self, file: OrderFile) -> None:
        """It is not what the plan saw; another run takes it."""
        self._report.add(line(file.name, "left", reason="it is being written"))

    def lapsed(self, job: str) -> None:
        """It is not known whether somebody has its files."""
        for known in self._state.files_of(job):
            reason = "its job was gone before a receipt was seen; it stays"
            self.done.add(known.key)
            self._report.add(
                line(known.name, "failed", digest=known.digest, job=job, sent=known.sent, reason=reason)
            )
        self._state.lapsed(job)

    def removed(self, known: Known, gone: Gone) -> None:
        self._state.removed(known.key)
        self._report.add(
            line(
                known.name,
                gone.outcome,
                size=known.facts.size,
                digest=known.digest,
                job=known.job,
                sent=known.sent,
                receipt=known.received,
                to=gone.to,
            )
        )

    async def forget_gone(self) -> None:
        """What failed and is not there any more has nothing left to fail."""
        paths = {key: self._state.path(key) for key in self._state.failing()}
        there = await asyncio.to_thread(lambda: {key for key in paths if os.path.lexists(paths[key])})
        for key in paths.keys() - there:
            self._state.mended(key)
