"""Lines at the foot of a terminal that are drawn anew in place, whatever its width, and what fits there.

Widths are in cells: what a terminal takes for a character, 0 to 2. All text here is `printable` already.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TextIO

Span = tuple[str, str]
"""Text, and the parameters of its colour (ECMA-48, SGR), empty for none."""
Row = Sequence[Span]
Size = Callable[[], tuple[int, int]]

USUAL = (80, 24)
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_KEEP = re.compile(r"( *)((?:`[^`]*`|\S)+)")
"""What no line is broken within: words, and commands in backticks, which are to be copied."""


def cells(text: str) -> int:
    """Its width. Where terminals differ, the larger one: a line that is too short wraps nowhere."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return int(char == "\ufe0f")  # the selector that makes some terminals draw a sign two cells wide
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, width: int, dots: str = "…") -> str:
    """Its end, where it is too wide, behind dots: of a path the end says most."""
    if cells(text) <= width:
        return text
    if width < cells(dots):
        return dots[: max(0, width)]
    left, start = width - cells(dots), len(text)
    while start and (left := left - _cells(text[start - 1])) >= 0:
        start -= 1
    while start < len(text) and not _cells(text[start]):
        start += 1  # an accent whose letter is cut off
    return dots + text[start:]


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Lines, all but the first indented, broken between words; a word that is too wide is left to the terminal."""
    lines = [""]
    for gap, word in _KEEP.findall(text):
        if lines[-1].strip() and cells(lines[-1] + gap + word) > width:
            lines.append(indent + word)
        else:
            lines[-1] += gap + word
    return lines


def size_of(file: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal just now; the usual ones where it does not say."""
    try:
        columns, rows = os.get_terminal_size(file.fileno())
    except (OSError, ValueError):
        return USUAL
    return columns or USUAL[0], rows or USUAL[1]


def reflows(variables: Mapping[str, str]) -> bool:
    """Whether the terminal breaks long lines anew when it becomes narrower. A few cut them off."""
    if "TMUX" in variables:
        return True
    term = variables.get("TERM", "")
    return not (term == "linux" or term.startswith("screen") or "XTERM_VERSION" in variables)


if sys.platform == "win32":

    def _made_obey(fd: int) -> bool:
        import ctypes
        import msvcrt

        kernel, mode = ctypes.windll.kernel32, ctypes.c_ulong()
        handle = msvcrt.get_osfhandle(fd)
        if not kernel.GetConsoleMode(handle, ctypes.byref(mode)):
            return False
        # ENABLE_VIRTUAL_TERMINAL_PROCESSING. Source: Microsoft, «SetConsoleMode».
        return bool(kernel.SetConsoleMode(handle, mode.value | 4))


def obeys(file: TextIO) -> bool:
    """Whether it is a terminal that does what control sequences say. Of Windows' that is asked for, once."""
    if not file.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    if sys.platform == "win32":
        return _made_obey(file.fileno())
    return True


class Live:
    """The foot of a terminal. What else is written there is written after `clear`.

    Between two calls the cursor stands at the start of the last line drawn, hidden. No line reaches the last
    column, so none wraps by itself; those that a narrower window has broken since are counted as it broke them.
    """

    def __init__(self, file: TextIO, size: Size, *, coloured: bool, reflows: bool) -> None:
        self._file, self._size, self._coloured, self._reflows = file, size, coloured, reflows
        self._drawn: list[int] = []  # the lines' cells

    @property
    def width(self) -> int:
        """Cells that a line may take."""
        return max(1, self._size()[0] - 1)

    def draw(self, rows: Sequence[Row]) -> None:
        """In place of what was drawn before; the first rows where the window is too low for all."""
        columns, height = self._size()
        rows = rows[: max(1, height - 1)]
        start = self._start(columns) if self._drawn else _HIDE
        lines = "\r\n".join(self._line(row) + "\x1b[K" for row in rows)
        self._write(f"{start}{lines}\x1b[J\r")
        self._drawn = [sum(cells(text) for text, _ in row) for row in rows]

    def clear(self) -> None:
        """Leave nothing; the cursor is where the first line began. Idempotent."""
        if self._drawn:
            columns = self._size()[0]
            rows = sum(self._rows(width, columns) for width in self._drawn)
            # Row by row: all at once from the top of the screen, it would be kept in tmux' history.
            wiped = "\r\n".join(["\x1b[K"] * rows)
            self._write(f"{self._start(columns)}{wiped}{_up(rows - 1)}{_SHOW}")
            self._drawn = []

    def _start(self, columns: int) -> str:
        """Up to the first line drawn. The last one's own start is where the cursor is."""
        return _up(sum(self._rows(width, columns) for width in self._drawn[:-1]))

    def _rows(self, width: int, columns: int) -> int:
        """How many a line takes by now."""
        return max(1, -(-width // columns)) if self._reflows else 1

    def _line(self, row: Iterable[Span]) -> str:
        return "".join(
            f"\x1b[{style}m{text}\x1b[0m" if style and self._coloured else text for text, style in row
        )

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def _up(rows: int) -> str:
    return f"\r\x1b[{rows}A" if rows else "\r"
