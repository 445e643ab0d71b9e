"""A terminal as far as we use one: what its screen shows after all that was written to it."""

from __future__ import annotations

import io
import os
import re
import unicodedata

_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(.)", re.DOTALL)


class Screen(io.StringIO):
    """columns: may be changed by `resize`, which breaks long lines anew, as most terminals do.

    wrapped: whether a line ever came to its end and went on in the next row. cursor: whether it is to be seen.
    raw: all that was written.
    """

    def __init__(self, columns: int = 80, rows: int = 24, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding
        self.columns, self.height = columns, rows
        self.cursor = True
        self.wrapped = False
        self.raw = ""
        self._rows: list[list[str]] = [[]]
        self._goes_on = [False]
        self._row = self._column = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True

    def size(self, _fd: int = 0) -> os.terminal_size:
        return os.terminal_size((self.columns, self.height))

    @property
    def shown(self) -> list[str]:
        """The rows, without blanks at their ends and empty ones at the foot."""
        rows = ["".join(row).rstrip() for row in self._rows]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def write(self, text: str) -> int:
        self.raw += text
        for match in _TOKEN.finditer(text):
            parameters, command, char = match.groups()
            if command:
                self._obey(parameters, command)
            else:
                self._put(char)
        return len(text)

    def resize(self, columns: int) -> None:
        """Rows that went on are joined, and lines that are too long are broken; the cursor stays in its line."""
        lines: list[tuple[list[str], bool]] = []
        for number, row in enumerate(self._rows):
            here = number == self._row
            if number and self._goes_on[number - 1]:
                assert not here, "the cursor is left in the middle of a line"
                lines[-1] = (lines[-1][0] + row, lines[-1][1])
            else:
                lines.append((list(row), here))
        self._rows, self._goes_on = [], []
        for line, here in lines:
            pieces = [line[at : at + columns] for at in range(0, len(line), columns)] or [[]]
            if here:
                self._row = len(self._rows)
            self._rows += pieces
            self._goes_on += [True] * (len(pieces) - 1) + [False]
        self.columns = columns

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._down()
            self._column = 0
        else:
            assert char.isprintable() or char == " ", repr(char)
            self._print(char)

    def _print(self, char: str) -> None:
        row = self._rows[self._row]
        if unicodedata.combining(char) and row:
            row[self._column - 1] += char
            return
        wide = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if self._column + wide > self.columns:
            self.wrapped = True
            self._goes_on[self._row] = True
            self._down()
            self._column = 0
            row = self._rows[self._row]
        row += [" "] * (self._column + wide - len(row))
        row[self._column : self._column + wide] = [char, ""][:wide]
        self._column += wide

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])
            self._goes_on.append(False)

    def _obey(self, parameters: str, command: str) -> None:
        if command == "A":
            self._row = max(0, self._row - int(parameters or 1))
        elif command == "K":
            assert parameters == "2"
            self._rows[self._row].clear()
            self._goes_on[self._row] = False
        elif parameters == "?25":
            self.cursor = command == "h"
        else:
            assert command == "m", (parameters, command)
