"""The report of a run: what became of every file, as JSON for programs and as lines for people.

One object, written as the run goes on and put in its place at the end, also when the run is interrupted:

    {"v": 1, "room": …, "root": …, "begun": …, "files": [{…}, …],
     "ended": …, "outcome": "complete" | "partial" | "late" | "interrupted" | "failed", "error": … or null,
     "counts": {outcome: number of files}, "bytes": bytes sent}

Times are seconds since 1970. Within version 1 fields are only added. A file's fields are those of `Line`.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, NamedTuple

import msgspec

from transfer.errors import NO_ROOM, DiskFull, UsageError, XferError
from transfer.paths import STAGING_PREFIX, printable
from transfer.source import reason_of
from transfer.units import show_size

Outcome = Literal["sent", "unchanged", "deleted", "moved", "left", "failed"]
Ended = Literal["complete", "partial", "late", "interrupted", "failed"]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A file. path: relative to the root, or as the list gave it; bytes that are no UTF-8 stand as \\xNN in it.

    path_base64: its bytes, only where they are no UTF-8. outcome: `unchanged` was sent before, `left` is not for this
    run. size: bytes. digest: BLAKE3 of the content, in hex. job: the one that sent it. sent, receipt: when that was, and when
    a receipt of it was seen; null if it was not. to: where it was moved. reason: why it was left or failed.
    """

    path: str
    path_base64: str | None = None
    outcome: Outcome
    size: int | None = None
    digest: str | None = None
    job: str | None = None
    sent: float | None = None
    receipt: float | None = None
    to: str | None = None
    reason: str = ""


def line(
    name: bytes,
    outcome: Outcome,
    *,
    size: int | None = None,
    digest: bytes | None = None,
    job: str | None = None,
    sent: float | None = None,
    receipt: float | None = None,
    to: str = "",
    reason: str = "",
) -> Line:
    text, exact = text_of(name)
    return Line(
        path=text,
        path_base64=exact,
        outcome=outcome,
        size=size,
        digest=digest.hex() if digest is not None else None,
        job=job,
        sent=sent,
        receipt=receipt,
        to=os.fsencode(to).decode("utf-8", "backslashreplace") or None,
        reason=reason,
    )


def text_of(name: bytes) -> tuple[str, str | None]:
    """A name as text; and its bytes in base64, only where they are no UTF-8."""
    text = name.decode("utf-8", "backslashreplace")
    return text, None if text.encode() == name else base64.b64encode(name).decode()


class Sums:
    """What a run has done so far. bytes: of what was sent."""

    def __init__(self) -> None:
        self.counts: Counter[Outcome] = Counter()
        self.bytes = 0

    def add(self, line: Line) -> None:
        self.counts[line.outcome] += 1
        if line.outcome == "sent":
            self.bytes += line.size or 0

    def __str__(self) -> str:
        """`2 sent (3.0 MB), 5 unchanged, 1 failed`; what there was none of is not said."""
        said = [f"{count} {outcome}" for outcome, count in self.counts.items() if outcome != "sent"]
        if self.counts["sent"]:
            said.insert(0, f"{self.counts['sent']} sent ({show_size(self.bytes)})")
        return ", ".join(said) or "no files"


class Report:
    """Sums up what it is told, and writes it down where a path is given. Memory does not grow with the number of files."""

    def __init__(
        self,
        path: Path | None,
        room: str,
        root: str,
        tell: Callable[[Line], None] = lambda _line: None,
        sums: Sums | None = None,
    ) -> None:
        """path: of the file; None: only sum up. tell: is told each line, after `sums`.

        Raises UsageError if nothing can be written there.
        """
        self._tell = tell
        self.sums = sums or Sums()
        self.failed: list[Line] = []
        self._path, self._hidden = path, Path()
        self._file: IO[bytes] | None = None
        if path is None:
            return
        self._hidden = path.with_name(f"{STAGING_PREFIX}report-{secrets.token_hex(8)}")
        with self._writing():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._file = open(  # noqa: SIM115
                os.open(self._hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            )
        head = {"v": 1, "room": room, "root": printable(root), "begun": time.time()}
        self._write(msgspec.json.encode(head)[:-1] + b',"files":[')

    def add(self, line: Line) -> None:
        """Raises DiskFull, UsageError: it cannot be written down."""
        self._write((b",\n" if self.sums.counts.total() else b"\n") + msgspec.json.encode(line))
        self.sums.add(line)
        if line.outcome == "failed" and len(self.failed) < SHOWN:
            self.failed.append(line)
        self._tell(line)

    def finish(self, outcome: Ended, error: str | None = None) -> None:
        """Puts it in its place. Raises as `add`."""
        if self._file is None or self._path is None:
            return
        rest = {
            "ended": time.time(),
            "outcome": outcome,
            "error": error,
            "counts": dict(self.sums.counts),
            "bytes": self.sums.bytes,
        }
        with self._writing():
            self._file.write(b"\n]," + msgspec.json.encode(rest)[1:] + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._hidden, self._path)
        self._file = None

    def _write(self, text: bytes) -> None:
        if self._file is not None:
            with self._writing():
                self._file.write(text)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What failed once is not tried again: it is gone, and the run ends with the first error."""
        try:
            yield
        except OSError as error:
            self._discard()
            raise self._trouble(error) from None

    def _trouble(self, error: OSError) -> XferError:
        name = printable(str(self._path))
        if error.errno in NO_ROOM:
            return DiskFull(f"no room left for the report {name}", hint="free some space, then run it again")
        return UsageError(
            f"the report {name} cannot be written: {reason_of(error)}", hint="name another file with --report"
        )

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what it holds back finds no room either
                self._file.close()
            self._file = None
            with contextlib.suppress(OSError):
                self._hidden.unlink()

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was not finished is not left behind."""
        self._discard()


SHOWN = 20
"""Failures that are kept to be shown."""


class Cells(NamedTuple):
    """A line for people. receipt: `yes`, `owed`, or nothing where none is to come."""

    outcome: str
    size: str
    receipt: str
    path: str


def cells(line: Line) -> Cells:
    size = "" if line.size is None else show_size(line.size)
    receipt = "" if line.sent is None else "owed" if line.receipt is None else "yes"
    path = printable(line.path)
    if line.to is not None:
        path += f" -> {printable(line.to)}"
    if line.reason and line.outcome != "sent":
        path += f" ({printable(line.reason)})"
    return Cells(line.outcome, size, receipt, path)
