"""What becomes of the items of a run: told as it happens, and how it ends."""

from __future__ import annotations

import time

from transfer.errors import JobGone, NothingToDo, PartialDelivery, XferError
from transfer.events import ItemBegun, ItemFailed, Listener, RoomSummary
from transfer.paths import printable
from transfer.room import Posted


class Tally:
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._began = time.monotonic()
        self._had = self._bytes = self._gone = 0
        self._failures: dict[int, XferError] = {}  # by number; what came later is none

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

    def gone(self, posted: Posted) -> None:
        """It expired, or was cancelled, before this consumer had it."""
        self._gone += 1
        self._tell(posted, JobGone("it expired, or was cancelled, before it was fetched from here"))

    def failed(self, posted: Posted, error: XferError) -> None:
        self._failures[posted.number] = error
        self._tell(posted, error)

    def end(self, expect: bool) -> RoomSummary:
        """Raises what the run ends with, if not well. expect: nothing new is not well."""
        summary = RoomSummary(
            items=self._had,
            bytes=self._bytes,
            failed=len(self._failures),
            gone=self._gone,
            seconds=round(time.monotonic() - self._began, 3),
        )
        self._listener(summary)
        missed = len(self._failures) + self._gone
        if missed == 1 and not self._had and self._failures:
            raise next(iter(self._failures.values()))
        if missed:
            what = f"{missed} of {missed + self._had} items could not be fetched"
            raise PartialDelivery(
                f"{what}, {self._gone} of them because they expired" if self._gone else what
            )
        if expect and not self._had:
            raise NothingToDo("there is nothing new in the room")
        return summary

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
