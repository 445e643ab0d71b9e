"""Tables on stdout: on a terminal within its width, with times as people say them; elsewhere whole, in ISO 8601, a line a row."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from cli.units import ago, iso
from transfer.paths import printable

LEAST = 6
"""Columns that a cell keeps, however narrow the terminal is: so much of a job's id still names it."""
_GAP = "  "
_MOST = 1 << 16
"""Characters of a cell, in any case."""


class When(NamedTuple):
    """A cell with a moment, past or to come. seconds: since 1970; None: not known."""

    seconds: float | None


Cell = str | When


def write(
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    numbers: Collection[str] = (),
    whole: Collection[str] = (),
) -> None:
    """As `table`, to stdout, as wide as it is; nothing where there are no rows."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = table(headings, rows, width, time.time(), numbers=numbers, whole=whole)
    sys.stdout.writelines(line + "\n" for line in lines)


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    width: int | None,
    now: float,
    *,
    numbers: Collection[str] = (),
    whole: Collection[str] = (),
) -> list[str]:
    """The headings and a line for each row; no headings alone.

    Where it would be too wide the widest columns of text become narrower. The last one then goes on in further
    lines, between words; a word that is too long, and any other cell, is cut, which shows as `…`. Numbers never are.

    Args:
        width: columns of the terminal; None: there is none, and nothing is cut or goes on.
        now: seconds since 1970.
        numbers: the headings of the columns that stand to the right. whole: of others that are not cut.
    """
    if not rows:
        return []
    cells = [[_shown(cell, width, now) for cell in row] for row in [headings, *rows]]
    widths = [max(_columns(row[at]) for row in cells) for at in range(len(headings))]
    if width is not None:
        giving = [name not in numbers and name not in whole for name in headings]
        _fit(widths, giving, width - len(_GAP) * (len(widths) - 1))
    told: list[str] = []
    for row in cells:
        last = textwrap.wrap(row[-1], widths[-1], break_long_words=False, break_on_hyphens=False) or [""]
        for number, piece in enumerate(last if width is not None else [row[-1]]):
            line = [*row[:-1], piece] if number == 0 else [*[""] * (len(row) - 1), piece]
            told.append(
                _GAP.join(
                    _filled(cell, columns, right=name in numbers)
                    for cell, columns, name in zip(line, widths, headings, strict=True)
                ).rstrip()
            )
    return told


def _shown(cell: Cell, width: int | None, now: float) -> str:
    if isinstance(cell, str):
        return printable(cell, limit=_MOST)
    if cell.seconds is None:
        return "-"
    return iso(cell.seconds) if width is None else ago(cell.seconds, now)


def _fit(widths: list[int], text: Sequence[bool], room: int) -> None:
    """Narrow the columns of text until all have room, or none can give way any more."""
    giving = [at for at, is_text in enumerate(text) if is_text]
    while sum(widths) > room:
        widest = max(giving, key=lambda at: (widths[at], at), default=None)
        if widest is None or widths[widest] <= LEAST:
            return
        widths[widest] -= 1


def _filled(cell: str, columns: int, *, right: bool) -> str:
    if _columns(cell) > columns:
        while _columns(cell) > columns - 1:
            cell = cell[:-1]
        cell += "…"
    blank = " " * (columns - _columns(cell))
    return blank + cell if right else cell + blank


def _columns(text: str) -> int:
    """How wide it is on a terminal: ideographs take two columns, combining marks none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
