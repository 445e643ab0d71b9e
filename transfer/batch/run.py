"""A run: what the plan says, done, some of it at once, within a time, and every outcome in the state and the report.

Nothing is sent twice and nothing is lost however this ends: see the table in `transfer.batch.state`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal, NamedTuple

from transfer.batch import plan
from transfer.batch.clearing import clear
from transfer.batch.crew import Crew
from transfer.batch.examine import examine
from transfer.batch.outcomes import Outcomes
from transfer.batch.plan import Step, What
from transfer.batch.report import Ended, Report
from transfer.batch.selection import Item
from transfer.batch.sender import EVERYBODYS, Sender
from transfer.batch.state import Order, OrderFile, State
from transfer.errors import Interrupted, JobGone, OutOfTime, PartialSource, SourceChanged, XferError
from transfer.model import MAX_ENTRIES, MAX_MANIFEST
from transfer.paths import printable
from transfer.source import Facts, facts_of, reason_of

PER_NAME = 64
"""Bytes of an entry in a manifest besides its name, generously."""
_GONE = {What.DELETE: "deleted", What.MOVE: "moved"}


class Asked(NamedTuple):
    """What a run is asked for.

    removal: what becomes of a file once somebody has it; `move`: goes below the folder `to`. wanted: by its name, whether
    the rules take it, so that what is excluded now is not removed. pack: all files in one job. only_failed: see
    `plan.sends`. max_duration: seconds after which what is under way is checkpointed; None: no limit.
    """

    removal: Literal["", "delete", "move"] = ""
    to: str = ""
    wanted: Callable[[bytes], bool] = lambda _name: True
    pack: bool = False
    only_failed: bool = False
    concurrency: int = 4
    max_duration: float | None = None


Pause = Callable[[float], None]
"""Waits so many seconds in a thread; ends, by raising, when the run does."""


async def run(
    asked: Asked,
    state: State,
    items: Callable[[Pause], Iterator[Item]],
    sender: Sender,
    report: Report,
    waits: Callable[[], str] = lambda: "",
) -> None:
    """Returns when all that could be done was done; the report is finished in any case.

    items: makes the selection, which runs in a thread. waits: what is waited for at the moment; empty for nothing.

    Raises:
        PartialSource: some files failed; they are in the report.
        OutOfTime: the time was over; what is left is for the next run.
        XferError: one of EVERYBODYS.
    """
    batch = _Batch(asked, state, sender, report)
    outcome: Ended = "interrupted"
    told: str | None = None
    try:
        await _within(asked.max_duration, batch.whole(items), report, waits)
        if report.sums.counts["failed"]:
            raise _partial(report)
        outcome = "complete"
    except Interrupted:
        raise
    except Exception as error:
        outcome = "late" if isinstance(error, OutOfTime) else "failed"
        outcome = "partial" if isinstance(error, PartialSource) else outcome
        told = error.what if isinstance(error, XferError) else type(error).__name__
        raise
    finally:
        report.finish(outcome, told)


async def _within(
    seconds: float | None, whole: Awaitable[None], report: Report, waits: Callable[[], str]
) -> None:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await whole
    except TimeoutError:
        if not limit.expired():
            raise
        at = f": {said}" if (said := waits()) else ""
        raise OutOfTime(
            f"the time was over after {report.sums.counts.total()} files{at}",
            hint="the next run goes on from there",
        ) from None


def _partial(report: Report) -> PartialSource:
    names = ", ".join(f"{printable(each.path)} ({printable(each.reason)})" for each in report.failed[:3])
    count = report.sums.counts["failed"]
    more = f" and {count - 3} more" if count > 3 else ""
    return PartialSource(
        f"{count} of {report.sums.counts.total()} files failed: {names}{more}",
        hint="the next run tries them again, and --retry-failed only them",
    )


class _Batch:
    def __init__(self, asked: Asked, state: State, sender: Sender, report: Report) -> None:
        self._asked, self._state, self._sender = asked, state, sender
        self._outcomes = Outcomes(state, report)
        self._crew = Crew(asked.concurrency)

    async def whole(self, items: Callable[[Pause], Iterator[Item]]) -> None:
        """The parts of the plan, each ended before the next one looks at what it left."""
        asked, state, crew = self._asked, self._state, self._crew
        try:
            await self._each(plan.orders(state, self._examine), self._settle)
            await self._each(plan.receipts(state), self._collect)
            if asked.removal:
                moved = asked.removal == "move"
                await self._each(plan.removals(state, moved=moved, wanted=asked.wanted), self._remove)
            if crew.stopped is None:
                steps = plan.sends(
                    items(crew.pause),
                    state,
                    self._examine,
                    done=self._outcomes.done,
                    only_failed=asked.only_failed,
                )
                if asked.pack:
                    await self._pack(steps)
                else:
                    await self._each(steps, self._send)
            if crew.stopped is None:
                await self._outcomes.forget_gone()
        finally:
            crew.end()
        if crew.stopped is not None:
            raise crew.stopped

    async def _each(self, steps: Iterator[Step], work: Callable[[Step], Awaitable[None]]) -> None:
        await self._crew.each(steps, work, self._outcomes.note)

    def _examine(self, path: str) -> tuple[Facts, bytes]:
        return examine(path, self._crew.checkpoint)

    async def _settle(self, step: Step) -> None:
        """An order of an earlier run."""
        order = step.order
        assert order is not None
        keys = [file.key for file in order.files]
        self._outcomes.done.update(keys)
        if step.what is What.ATTACH:
            await self._deliver(order)
            return
        try:
            complete = await self._sender.recover(order)
        except XferError as error:
            self._failed(order, error)
            return
        if complete:
            self._state.sent(order.ticket.job)
        else:
            self._state.dropped(order.ticket.job)
        self._outcomes.done.difference_update(keys)  # what is there now is another matter

    async def _collect(self, step: Step) -> None:
        assert step.ticket is not None
        job = step.ticket.job
        try:
            at = await self._sender.receipt(step.ticket)
        except JobGone:
            self._outcomes.lapsed(job)
        except XferError as error:
            self._crew.trouble(error)  # else it is for the next run
        else:
            if at is not None:
                self._state.received(job, at)

    async def _remove(self, step: Step) -> None:
        known = step.known
        assert known is not None
        state, to, look = self._state, self._asked.to, self._examine
        work = asyncio.to_thread(clear, step, known, state, to, look, self._crew.checkpoint)
        removing = asyncio.ensure_future(work)
        try:
            gone = await asyncio.shield(removing)
        except asyncio.CancelledError:
            self._crew.end()
            await asyncio.wait({removing})
            raise
        except (OSError, XferError) as error:
            self._state.kept(known.key)
            if not isinstance(error, SourceChanged):
                why = reason_of(error) if isinstance(error, OSError) else error.what
                self._outcomes.failed([known], f"it was sent, but cannot be {_GONE[step.what]}: {why}")
            return
        if gone is not None:
            self._outcomes.removed(known, gone)

    async def _send(self, step: Step) -> None:
        if step.key in self._outcomes.done:  # it is twice in a list
            return
        self._outcomes.done.add(step.key)
        await self._deliver(self._state.intend([_file(step)]))

    async def _pack(self, steps: Iterator[Step]) -> None:
        """In one job, or as few as hold their names."""
        files: dict[bytes, OrderFile] = {}
        room = MAX_MANIFEST // 2
        async for step in self._crew.taken(steps, hurried=False):
            if self._outcomes.note(step) or step.key in files:
                continue
            if room < len(step.name) + PER_NAME or len(files) >= MAX_ENTRIES // 2:
                await self._deliver_all(list(files.values()))
                self._outcomes.done.update(files)
                files, room = {}, MAX_MANIFEST // 2
            if self._crew.stopped is not None:
                return
            files[step.key] = _file(step)
            room -= len(step.name) + PER_NAME
        await self._deliver_all(list(files.values()))

    async def _deliver_all(self, files: list[OrderFile]) -> None:
        """Those that are still as they were: one that is not would keep the others from going."""
        same = await asyncio.to_thread(lambda: [_is_same(file) for file in files])
        left = []
        for file, is_same in zip(files, same, strict=True):
            if is_same:
                left.append(file)
            else:
                self._outcomes.written_to(file)
        if left:
            await self._deliver(self._state.intend(left))

    async def _deliver(self, order: Order) -> None:
        try:
            await self._sender.send(order)
        except Interrupted:
            raise
        except XferError as error:
            if order.again and isinstance(error, JobGone) and not isinstance(error, EVERYBODYS):
                # What an earlier run began can never be complete: begin anew.
                self._state.dropped(order.ticket.job)
                await self._deliver(self._state.intend(order.files))
                return
            self._failed(order, error)
            return
        self._outcomes.sent(order)

    def _failed(self, order: Order, error: XferError) -> None:
        self._crew.trouble(error)
        self._outcomes.failed(order.files, error.what)


def _file(step: Step) -> OrderFile:
    assert step.facts is not None
    assert step.digest is not None
    return OrderFile(step.key, step.name, step.path, step.facts, step.digest)


def _is_same(file: OrderFile) -> bool:
    try:
        return facts_of(os.lstat(file.path)) == file.facts
    except OSError:
        return False
