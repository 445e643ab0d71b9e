"""What becomes of the items of a run: told as it happens, and how it ends."""

from __future__ import annotations

import time

from transfer.errors import DiskFull, JobGone, NothingToDo, PartialDelivery, XferError
from transfer.events import ItemBegun, ItemFailed, Listener, RoomSummary
from transfer.paths import printable
from transfer.room import Posted


class Tally:
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._began = time.monotonic()
        self._had = self._bytes = self._gone = 0
        self._there = self._given_up = self._gone_before = 0
        self._left: set[int] = set()  # by number, as all below: it matches nothing that was asked for
        self._busy: set[int] = set()
        self._failures: dict[int, XferError] = {}  # what came later is none

    def begins(self, there: int, given_up: int) -> None:
        """there: items in the room. given_up: of them, by those who share it."""
        self._there, self._given_up = there, given_up

    def begun(self, posted: Posted) -> None:
        item = posted.item
        assert item is not None
        self._listener(
            ItemBegun(
                number=posted.number,
                job=posted.job,
                label=printable(item.label),
                files=item.files,
                bytes=item.size,
                user=posted.user,
                host=printable(item.host),
                sent=item.sent,
            )
        )

    def came(self, posted: Posted, size: int) -> None:
        """size: bytes."""
        self._failures.pop(posted.number, None)
        self._had, self._bytes = self._had + 1, self._bytes + size

    def gone(self, posted: Posted, *, quietly: bool) -> None:
        """It expired, or was cancelled, before this consumer had it. quietly: and before there was such a consumer."""
        if quietly:
            self._gone_before += 1
            return
        self._gone += 1
        self._tell(posted, JobGone("it expired, or was cancelled, before it was fetched from here"))

    def failed(self, posted: Posted, error: XferError) -> None:
        self._failures[posted.number] = error
        self._tell(posted, error)

    def left(self, posted: Posted) -> None:
        """It was not asked for."""
        self._left.add(posted.number)

    def busy(self, posted: Posted) -> None:
        """Another run has it."""
        self._busy.add(posted.number)

    def end(self, expect: bool) -> RoomSummary:
        """Raises what the run ends with, if not well. expect: nothing new is not well."""
        nothing = None if self._had or self._failures else self._nothing()
        summary = RoomSummary(
            items=self._had,
            bytes=self._bytes,
            failed=len(self._failures),
            gone=self._gone,
            seconds=round(time.monotonic() - self._began, 3),
            nothing=None if nothing is None else nothing.what,
        )
        self._listener(summary)
        if nothing is not None and expect:
            raise nothing
        errors, missed = [*self._failures.values()], len(self._failures) + self._gone
        if nothing is not None or not missed:
            return summary
        if missed == len(errors) and not self._had and (missed == 1 or all(map(_is_full, errors))):
            raise errors[0]
        what = f"{missed} of {missed + self._had} items could not be fetched"
        raise PartialDelivery(f"{what}, {self._gone} of them because they expired" if self._gone else what)

    def _nothing(self) -> NothingToDo:
        """Why there was nothing to fetch: what may change soonest goes first."""
        gone = self._gone + self._gone_before
        if self._busy:
            what = f"what is new in the room is with others already ({_items(len(self._busy))})"
            return NothingToDo(what, hint="run it again later: what they do not finish comes back")
        if self._left:
            what = f"nothing new in the room matches: {_items(len(self._left))} of other names"
            return NothingToDo(what, hint="check --match")
        if gone:
            what = f"nothing new in the room can be fetched: {_items(gone)} expired, or cancelled"
            return NothingToDo(what, hint="have it sent again, for longer (--expire)")
        if self._given_up:
            what = f"nothing new in the room: what is left was given up ({_items(self._given_up)})"
            return NothingToDo(
                what, hint="see `xfer room show`, and have it tried again with `xfer room retry`"
            )
        if self._there:
            what = f"nothing new in the room: what lies there was had, or is gone ({_items(self._there)})"
            return NothingToDo(what, hint="give another name with --as to have it once more")
        return NothingToDo(
            "nothing lies in the room yet", hint="check with `xfer room ls` that it is the one"
        )

    def _tell(self, posted: Posted, error: XferError) -> None:
        label = posted.item.label if posted.item else f"item {posted.number}"
        self._listener(
            ItemFailed(
                number=posted.number,
                job=posted.job,
                label=printable(label),
                code=error.exit_code,
                message=error.what,
                next=error.next_step,
            )
        )


def _is_full(error: XferError) -> bool:
    return isinstance(error, DiskFull)


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"
