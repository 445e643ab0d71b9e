"""Text on a terminal: sentences broken between words, paths shortened to their end. All of it is `printable` already."""

from __future__ import annotations

import re
from bisect import bisect_left

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_COMMAND = re.compile(r"`[^`]*`")
_GLUE = "\ue000"
"""In place of a blank where no line may be broken. Of the private use area, so `printable` leaves none."""


def wrap(text: str, width: int, console: Console, indent: str = "") -> list[str]:
    """Lines, all but the first indented, never broken within a word or a command in backticks, which are to be copied.

    One that is too wide is left to the terminal. width: cells.
    """
    glued = _COMMAND.sub(lambda found: found[0].replace(" ", _GLUE), text)
    lines = Text(glued, overflow="ignore").wrap(console, max(1, width - len(indent)))
    told = [line.plain.replace(_GLUE, " ").rstrip() for line in lines]
    return [told[0], *(indent + line for line in told[1:])]


def shorten(text: str, width: int, dots: str = "…") -> str:
    """Its end, where it takes more cells than `width`, behind dots: of a path the end says most."""
    if cell_len(text) <= width:
        return text
    if width < cell_len(dots):
        return dots[: max(0, width)]
    room = width - cell_len(dots)
    start = bisect_left(range(len(text)), True, key=lambda at: cell_len(text[at:]) <= room)
    while start < len(text) and not cell_len(text[start]):
        start += 1  # an accent whose letter is cut off
    return dots + text[start:]
