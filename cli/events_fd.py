"""`--events-fd N`: the events as NDJSON on a descriptor that whoever started us opened, while stdout stays what it is."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import IO, TYPE_CHECKING, cast

from transfer.errors import UsageError

if TYPE_CHECKING:
    from transfer.events import Event

FIRST = 3
"""0, 1 and 2 have their own meaning; for events on stdout there is `--json`."""
_attached: list[EventsFd] = []


class EventsFd(io.RawIOBase):
    """Takes whole lines. Once nobody reads them any more it takes them all the same: a watcher who leaves, or whose
    disk is full, ends no transfer.

    A reader that is slow holds the transfer up, as one of `--json` does.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._gone = False

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        left = memoryview(data)  # type: ignore[arg-type]
        length = len(left)
        while left and not self._gone:
            try:
                left = left[os.write(self._number, left) :]
            except BlockingIOError:
                select.select([], [self._number], [])
            except OSError:
                self._gone = True
        return length


def attach(number: int, *, option: str) -> None:
    """From now on events go there, the one that ends the run included. Raises UsageError for what cannot be written to."""
    try:
        open_for = os.O_WRONLY
        os.fstat(number)
        if sys.platform != "win32":
            import fcntl

            open_for = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        raise UsageError(
            f"{option} {number} is not open", hint=f"open it where xfer is started: `{number}>events.ndjson`"
        ) from None
    if open_for == os.O_RDONLY:
        raise UsageError(
            f"{option} {number} is open for reading only",
            hint=f"open it for writing: `{number}>events.ndjson`",
        )
    os.set_inheritable(number, False)  # or a command of --from-command would keep it open
    _attached[:] = [EventsFd(number)]


def attached() -> bool:
    return bool(_attached)


def tell(event: Event) -> None:
    """To the descriptor, if there is one."""
    if _attached:
        from cli.render import Ndjson

        Ndjson(cast("IO[bytes]", _attached[0]))(event)
