"""What a run will do about each file and each order, given what is there and what is known. Nothing is changed here.

It runs as it is asked for more, so that a plan of 100,000 files is never in memory, and `--dry-run` is the plan itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import msgspec

from transfer.batch.removal import Examine, same_file, still
from transfer.batch.report import text_of
from transfer.batch.selection import Found, Item, Left
from transfer.batch.state import Failed, Known, Order, OrderFile
from transfer.errors import XferError
from transfer.source import Facts
from transfer.ticket import Ticket


class What(enum.Enum):
    """What becomes of a file in this run."""

    SEND = "send"
    ATTACH = "attach"
    RECOVER = "recover"
    COLLECT = "collect"
    DELETE = "delete"
    MOVE = "move"
    UNCHANGED = "unchanged"
    LEFT = "left"
    FAILED = "failed"


class Step(NamedTuple):
    """facts and digest: as it is now, for SEND and UNCHANGED. known: what was sent of it before. reason: why, for people.

    order: for ATTACH (the same content goes on under its ticket) and RECOVER (its content is not there any more: what it
    was to send has arrived in full, or never will). ticket: for COLLECT.
    """

    what: What
    name: bytes
    key: bytes = b""
    path: str = ""
    facts: Facts | None = None
    digest: bytes | None = None
    known: Known | None = None
    reason: str = ""
    order: Order | None = None
    ticket: Ticket | None = None


class Record(Protocol):
    """The questions of `State` that a plan asks."""

    def known(self, key: bytes) -> Known | None: ...
    def failure(self, key: bytes) -> Failed | None: ...
    def unfinished(self) -> list[Order]: ...
    def owed(self) -> Iterator[Ticket]: ...
    def removable(self) -> Iterator[Known]: ...
    def files_of(self, job: str) -> list[Known]: ...
    def path(self, key: bytes) -> str: ...


def whole(
    items: Iterable[Item],
    record: Record,
    examine: Examine,
    *,
    removal: Literal["", "delete", "move"] = "",
    wanted: Callable[[bytes], bool] = lambda _name: True,
    only_failed: bool = False,
) -> Iterator[Step]:
    """What a run would do that found everything as it is now, and no receipt besides those that were seen."""
    done: set[bytes] = set()
    for step in orders(record, examine):
        if step.what is What.ATTACH and step.order is not None:
            done.update(file.key for file in step.order.files)
        yield step
    yield from receipts(record)
    if removal:
        for step in removals(record, moved=removal == "move", wanted=wanted):
            if _goes(step, examine):
                done.add(step.key)
                yield step
    for step in sends(items, record, examine, done=done, only_failed=only_failed):
        if step.what is What.SEND:
            done.add(step.key)
        yield step


def orders(record: Record, examine: Examine) -> Iterator[Step]:
    """First of all: what an earlier run began and did not end."""
    for order in record.unfinished():
        files: list[OrderFile] = []
        for file in order.files:
            try:
                facts, digest = examine(file.path)
            except XferError as error:
                yield _recover(order, error.what)
                break
            if digest != file.digest:
                yield _recover(order, "it has changed since")
                break
            files.append(file._replace(facts=facts))
        else:
            same = order._replace(files=tuple(files))
            yield Step(
                What.ATTACH, files[0].name, files[0].key, files[0].path, order=same, reason="not ended yet"
            )


def receipts(record: Record) -> Iterator[Step]:
    """Then: the receipts of what was sent before. One step for each job, named by its first file."""
    for ticket in record.owed():
        files = record.files_of(ticket.job)
        first = files[0] if files else None
        yield Step(What.COLLECT, first.name if first else b"", known=first, ticket=ticket)


def removals(record: Record, *, moved: bool, wanted: Callable[[bytes], bool]) -> Iterator[Step]:
    """Then, if that is asked for: files go that somebody has. wanted: by its name, whether the rules take a file."""
    for known in record.removable():
        if wanted(known.name):
            what = What.MOVE if moved else What.DELETE
            yield Step(
                what, known.name, known.key, record.path(known.key), known=known, reason="somebody has it"
            )


def sends(
    items: Iterable[Item],
    record: Record,
    examine: Examine,
    *,
    done: Container[bytes] = (),
    only_failed: bool = False,
) -> Iterator[Step]:
    """At last: what is new or changed by its content.

    done: keys that this run is through with, or that an order stands for. only_failed: only what failed last time, and
    what lapsed.
    """
    for item in items:
        if isinstance(item, Found) and item.key in done:
            continue
        if isinstance(item, Left):
            if item.failed or not only_failed:
                yield Step(What.FAILED if item.failed else What.LEFT, item.name, reason=item.reason)
            continue
        known = record.known(item.key)
        lapsed = known is not None and known.state == "lapsed"
        if only_failed and not lapsed and record.failure(item.key) is None:
            continue
        yield _about(item, known, examine, again=only_failed and lapsed)


def _about(item: Found, known: Known | None, examine: Examine, *, again: bool) -> Step:
    """again: send it though it is what was sent."""
    step = Step(What.UNCHANGED, item.name, item.key, item.path, item.facts, known=known)
    if known is not None and known.state == "removing":
        if same_file(item.facts, known.facts):
            return step._replace(digest=known.digest, reason="it is being removed")
        if item.facts.inode != known.facts.inode:
            known = None  # that one is gone, and another came in its place
    if known is not None and known.facts == item.facts and not again:
        return step._replace(digest=known.digest)
    try:
        facts, digest = examine(item.path)
    except XferError as error:
        return step._replace(what=What.FAILED, reason=error.what)
    step = step._replace(facts=facts, digest=digest)
    if known is None:
        return step._replace(what=What.SEND, known=None, reason="new")
    if digest != known.digest:
        return step._replace(what=What.SEND, reason="changed")
    if again:
        return step._replace(what=What.SEND, reason="no receipt came")
    return step._replace(reason="only touched")


def _goes(step: Step, examine: Examine) -> bool:
    """Whether there is such a file still, as it was sent."""
    known = step.known
    assert known is not None
    try:
        facts = still(
            step.path, known.facts, known.digest, renamed=known.state == "removing", examine=examine
        )
    except (OSError, XferError):
        return False
    return facts is not None


def _recover(order: Order, reason: str) -> Step:
    first = order.files[0]
    return Step(What.RECOVER, first.name, first.key, first.path, order=order, reason=reason)


class Planned(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="planned"):
    """A step for programs. Its fields are those of a report's `Line`; within version 1 fields are only added."""

    v: int = 1
    what: str
    path: str
    path_base64: str | None
    size: int | None
    digest: str | None
    job: str | None
    reason: str


def planned(step: Step) -> Planned:
    text, exact = text_of(step.name)
    ticket = step.ticket or (step.order.ticket if step.order is not None else None)
    known = step.known if step.what is not What.SEND else None
    return Planned(
        what=step.what.value,
        path=text,
        path_base64=exact,
        size=step.facts.size if step.facts is not None else None,
        digest=step.digest.hex() if step.digest is not None else None,
        job=ticket.job if ticket is not None else known.job if known is not None else None,
        reason=step.reason,
    )
