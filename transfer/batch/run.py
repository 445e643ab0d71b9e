"""A run: what the plan says, done, some of it at once, within a time, and every outcome in the state and the report.

Nothing is sent twice and nothing is lost however this ends: see the table in `transfer.batch.state`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from blake3 import blake3

from transfer.batch import plan
from transfer.batch.clearing import clear
from transfer.batch.examine import examine
from transfer.batch.plan import Step, What
from transfer.batch.report import Ended, Outcome, Report, line
from transfer.batch.selection import Item
from transfer.batch.sender import EVERYBODYS, Sender
from transfer.batch.state import Known, Order, OrderFile, State
from transfer.errors import (
    Interrupted,
    JobGone,
    Locked,
    OutOfTime,
    PartialSource,
    SourceChanged,
    XferError,
)
from transfer.lock import FileLock
from transfer.model import MAX_ENTRIES, MAX_MANIFEST
from transfer.paths import printable
from transfer.source import Facts, facts_of, reason_of
from transfer.tasks import ended

TOGETHER = 256
"""Steps that are taken from the plan at once, where none of them is to be begun without delay."""
LOOK_AGAIN = 0.5
"""Seconds between looks at a lock that another run holds."""
PER_NAME = 64
"""Bytes of an entry in a manifest besides its name, generously."""


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
    asked: Asked, state: State, items: Callable[[Pause], Iterator[Item]], sender: Sender, report: Report
) -> None:
    """Returns when all that could be done was done; the report is finished in any case.

    items: makes the selection, which runs in a thread.

    Raises:
        PartialSource: some files failed; they are in the report.
        OutOfTime: the time was over; what is left is for the next run.
        XferError: one of EVERYBODYS.
    """
    batch = _Batch(asked, state, sender, report)
    outcome: Ended = "interrupted"
    told: str | None = None
    try:
        await _within(asked.max_duration, batch.whole(items), report)
        if report.counts["failed"]:
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


async def _within(seconds: float | None, whole: Awaitable[None], report: Report) -> None:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await whole
    except TimeoutError:
        if not limit.expired():
            raise
        raise OutOfTime(
            f"the time was over after {report.counts.total()} files", hint="the next run goes on from there"
        ) from None


def lock_path(locks: Path, room: str, root: str) -> Path:
    """What the run of a scope holds."""
    scope = blake3(os.fsencode(room) + b"\0" + os.fsencode(root)).hexdigest()
    return locks / f"batch-{scope[:32]}.lock"


@contextlib.asynccontextmanager
async def alone(path: Path, what: str, *, wait: bool) -> AsyncIterator[None]:
    """Hold the lock of a scope. Raises Locked if another run does, unless it is to be waited for."""
    while True:
        try:
            lock = FileLock(path, what)
            break
        except Locked:
            if not wait:
                raise
        await asyncio.sleep(LOOK_AGAIN)
    with lock:
        yield


def _partial(report: Report) -> PartialSource:
    names = ", ".join(f"{printable(each.path)} ({printable(each.reason)})" for each in report.failed[:3])
    count = report.counts["failed"]
    more = f" and {count - 3} more" if count > 3 else ""
    return PartialSource(
        f"{count} of {report.counts.total()} files failed: {names}{more}",
        hint="the next run tries them again, and --retry-failed only them",
    )


class _Over(Exception):
    """The run has ended, and its thread is to end as well."""


class _Batch:
    def __init__(self, asked: Asked, state: State, sender: Sender, report: Report) -> None:
        self._asked, self._state, self._sender, self._report = asked, state, sender, report
        self._over = threading.Event()
        self._done: set[bytes] = set()
        """Keys that this run is through with, or that an order stands for."""
        self._stop: XferError | None = None

    async def whole(self, items: Callable[[Pause], Iterator[Item]]) -> None:
        """The parts of the plan, each ended before the next one looks at what it left."""
        asked, state = self._asked, self._state
        try:
            await self._each(plan.orders(state, self._examine), self._settle)
            await self._each(plan.receipts(state), self._collect)
            if asked.removal:
                moved = asked.removal == "move"
                await self._each(plan.removals(state, moved=moved, wanted=asked.wanted), self._remove)
            if self._stop is None:
                steps = plan.sends(
                    items(self._pause), state, self._examine, done=self._done, only_failed=asked.only_failed
                )
                if asked.pack:
                    await self._pack(steps)
                else:
                    await self._each(steps, self._send)
            if self._stop is None:
                await self._forget_gone()
        finally:
            self._over.set()
        if self._stop is not None:
            raise self._stop

    # how

    async def _each(self, steps: Iterator[Step], work: Callable[[Step], Awaitable[None]]) -> None:
        """As many at once as were asked for; none anew after a trouble that is everybody's."""
        running: set[asyncio.Future[None]] = set()
        try:
            async for step in self._pulled(steps):
                if self._stop is not None:
                    break
                if step.what in _NOTHING_TO_DO:
                    self._note(step)
                    continue
                running.add(asyncio.ensure_future(work(step)))
                if len(running) >= self._asked.concurrency:
                    running = await _some(running, asyncio.FIRST_COMPLETED)
            await _some(running, asyncio.ALL_COMPLETED)
        finally:
            await ended(*running)

    async def _pulled(self, steps: Iterator[Step]) -> AsyncIterator[Step]:
        """Taken in a thread: files are looked at, and read, for them."""
        while True:
            taking = asyncio.ensure_future(asyncio.to_thread(self._take, steps))
            try:
                taken = await asyncio.shield(taking)
            except asyncio.CancelledError:
                self._over.set()
                await asyncio.wait({taking}, timeout=1.0)  # it may be stuck in a read that never ends
                raise
            if not taken:
                return
            for step in taken:
                yield step

    def _take(self, steps: Iterator[Step]) -> list[Step]:
        taken: list[Step] = []
        with contextlib.suppress(_Over):
            for step in steps:
                taken.append(step)
                if len(taken) >= TOGETHER or (step.what in _AT_ONCE and not self._asked.pack):
                    break
        return taken

    def _examine(self, path: str) -> tuple[Facts, bytes]:
        return examine(path, self._checkpoint)

    def _pause(self, seconds: float) -> None:
        self._over.wait(seconds)
        self._checkpoint()

    def _checkpoint(self) -> None:
        if self._over.is_set():
            raise _Over

    # what

    async def _settle(self, step: Step) -> None:
        """An order of an earlier run."""
        order = step.order
        assert order is not None
        keys = [file.key for file in order.files]
        self._done.update(keys)
        if step.what is What.ATTACH:
            await self._deliver(order)
            return
        try:
            complete = await self._sender.recover(order)
        except XferError as error:
            self._trouble(error)
            self._failed(order.files, error.what)
            return
        if complete:
            self._state.sent(order.ticket.job)
        else:
            self._state.dropped(order.ticket.job)
        self._done.difference_update(keys)  # what is there now is another matter

    async def _collect(self, step: Step) -> None:
        assert step.ticket is not None
        job = step.ticket.job
        try:
            at = await self._sender.receipt(step.ticket)
        except JobGone:
            for known in self._state.files_of(job):
                reason = "its job was gone before a receipt was seen; it stays"
                self._done.add(known.key)
                self._report.add(
                    line(known.name, "failed", digest=known.digest, job=job, sent=known.sent, reason=reason)
                )
            self._state.lapsed(job)
        except XferError as error:
            self._trouble(error)  # else it is for the next run
        else:
            if at is not None:
                self._state.received(job, at)

    async def _remove(self, step: Step) -> None:
        known = step.known
        assert known is not None
        state, to, look = self._state, self._asked.to, self._examine
        work = asyncio.to_thread(clear, step, known, state, to, look, self._checkpoint)
        removing = asyncio.ensure_future(work)
        try:
            gone = await asyncio.shield(removing)
        except asyncio.CancelledError:
            self._over.set()
            await asyncio.wait({removing})
            raise
        except (OSError, XferError) as error:
            self._state.kept(known.key)
            if not isinstance(error, SourceChanged):
                why = reason_of(error) if isinstance(error, OSError) else error.what
                self._failed([known], f"it was sent, but cannot be {_GONE[step.what]}: {why}")
            return
        if gone is None:
            return
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

    async def _send(self, step: Step) -> None:
        if step.key in self._done:  # it is twice in a list
            return
        self._done.add(step.key)
        await self._deliver(self._state.intend([_file(step)]))

    async def _pack(self, steps: Iterator[Step]) -> None:
        """In one job, or as few as hold their names."""
        files: dict[bytes, OrderFile] = {}
        room = MAX_MANIFEST // 2
        async for step in self._pulled(steps):
            if step.what in _NOTHING_TO_DO:
                self._note(step)
            elif step.key not in files:
                if room < len(step.name) + PER_NAME or len(files) >= MAX_ENTRIES // 2:
                    await self._deliver_all(list(files.values()))
                    self._done.update(files)
                    files, room = {}, MAX_MANIFEST // 2
                if self._stop is not None:
                    return
                files[step.key] = _file(step)
                room -= len(step.name) + PER_NAME
        await self._deliver_all(list(files.values()))

    async def _deliver_all(self, files: list[OrderFile]) -> None:
        """Those that are still as they were: one that is not would keep the others from going."""
        same = await asyncio.to_thread(lambda: [_is_same(file) for file in files])
        for file, is_same in zip(files, same, strict=True):
            if not is_same:
                self._report.add(line(file.name, "left", reason="it is being written"))
        left = [file for file, is_same in zip(files, same, strict=True) if is_same]
        if left:
            await self._deliver(self._state.intend(left))

    async def _deliver(self, order: Order) -> None:
        job = order.ticket.job
        try:
            await self._sender.send(order)
        except Interrupted:
            raise
        except XferError as error:
            if order.again and isinstance(error, JobGone) and not isinstance(error, EVERYBODYS):
                self._state.dropped(job)  # what an earlier run began can never be complete: begin anew
                await self._deliver(self._state.intend(order.files))
                return
            self._trouble(error)
            self._failed(order.files, error.what)
            return
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

    # what is said of it

    async def _forget_gone(self) -> None:
        """What failed and is not there any more has nothing left to fail."""
        paths = {key: self._state.path(key) for key in self._state.failing()}
        there = await asyncio.to_thread(lambda: {key for key in paths if os.path.lexists(paths[key])})
        for key in paths.keys() - there:
            self._state.mended(key)

    def _note(self, step: Step) -> None:
        """Of what needs nothing done."""
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

    def _failed(self, files: Iterable[Known | OrderFile], reason: str) -> None:
        for file in files:
            self._done.add(file.key)
            self._state.failed(file.key, reason)
            self._report.add(
                line(file.name, "failed", size=file.facts.size, digest=file.digest, reason=reason)
            )

    def _trouble(self, error: XferError) -> None:
        if isinstance(error, EVERYBODYS) and self._stop is None:
            self._stop = error


_GONE = {What.DELETE: "deleted", What.MOVE: "moved"}
_AT_ONCE = (What.SEND, What.ATTACH)
_NOTHING_TO_DO: dict[What, Outcome] = {What.UNCHANGED: "unchanged", What.LEFT: "left", What.FAILED: "failed"}


async def _some(running: set[asyncio.Future[None]], when: str) -> set[asyncio.Future[None]]:
    """Wait for some of it; what failed raises here. Gives what still runs."""
    if not running:
        return running
    done, left = await asyncio.wait(running, return_when=when)
    for task in done:
        task.result()
    return left


def _file(step: Step) -> OrderFile:
    assert step.facts is not None
    assert step.digest is not None
    return OrderFile(step.key, step.name, step.path, step.facts, step.digest)


def _is_same(file: OrderFile) -> bool:
    try:
        return facts_of(os.lstat(file.path)) == file.facts
    except OSError:
        return False
