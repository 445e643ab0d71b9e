"""The picture behind scripts/picture: what two real terminals show while one sends and the other fetches.

_picture.py FOLDER-OF-XFER PICTURE.png, in an environment with pyte and matplotlib.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyte  # type: ignore[import-not-found,import-untyped,unused-ignore]
from matplotlib import font_manager  # type: ignore[import-not-found,unused-ignore]
from PIL import Image, ImageDraw, ImageFont  # type: ignore[import-not-found,unused-ignore]

COLUMNS, ROWS = 80, 7
SIZES = {"beach.mov": 34, "crossing.mov": 28, "harbour.jpg": 9, "market.jpg": 6, "tickets.pdf": 1}
"""Of what is sent: MB, under the 100 from which on the store is taken."""
LIMIT = "8M"
HALF = range(45, 70)
"""Per cent at which the picture is taken: of the first file some is to come, of the last one as well."""
PATIENCE = 120.0
"""Seconds for each thing that is waited for."""

FONT = 26
"""Points: drawn for screens of two pixels a point."""
MARGIN, BAR, GAP = 24, 44, 20
PAPER, FRAME, INK, FAINT = "#10161d", "#1f2933", "#dce3ea", "#8494a5"
PALETTE = {
    "default": INK,
    "black": "#3b4754",
    "red": "#f2777a",
    "green": "#7bc4a4",
    "brown": "#e5c07b",
    "blue": "#6cb6ff",
    "magenta": "#c792ea",
    "cyan": "#56c8d8",
    "white": INK,
    "brightblack": FAINT,
}
"""pyte's names; a colour of 256 comes as its six digits."""
COLOURS = 48
"""Of the PNG: letters have soft edges."""


class Screen(pyte.Screen):  # type: ignore[misc,unused-ignore]
    """One that shows what is faint in grey, as terminals do; pyte has no faint."""

    def select_graphic_rendition(self, *attributes: int, **more: Any) -> None:
        super().select_graphic_rendition(*(90 if a == 2 else a for a in attributes), **more)


class Terminal:
    """A shell in a terminal of its own. title: what stands in its bar."""

    def __init__(self, title: str, env: dict[str, str], cwd: Path) -> None:
        self.title = title
        self.screen = Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self._shell, self._end = pty.fork()
        if self._shell == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            os.chdir(cwd)
            os.execve("/bin/sh", ["sh"], env | {"PS1": "$ ", "TERM": "xterm-256color"})
        os.set_inheritable(self._end, False)

    def type(self, text: str) -> None:
        os.write(self._end, text.encode() + b"\n")

    def read(self) -> None:
        """What was written since; waits 20 ms at most."""
        if select.select([self._end], [], [], 0.02)[0]:
            self._stream.feed(os.read(self._end, 65536))

    @property
    def text(self) -> str:
        """Rows joined: a long word goes on in the next one."""
        return "".join(self.screen.display)

    @property
    def share(self) -> int:
        """Per cent of the whole that the bar says; -1: none is shown."""
        found = re.search(r"(\d+) %", self.text)
        return int(found[1]) if found else -1

    def close(self) -> None:
        os.close(self._end)  # hangs up
        os.kill(self._shell, signal.SIGKILL)
        os.waitpid(self._shell, 0)


def main() -> None:
    programs, picture = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    folder = Path(tempfile.mkdtemp(prefix="xfer-picture-"))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XFER_", "NATS_", "AWS_"))}
    env |= {"XFER_HOME": str(folder / "home"), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    servers = subprocess.Popen(
        ["xfer", "up", "--dir", folder / "servers", "--json"], env=env, stdout=subprocess.PIPE, text=True
    )
    terminals: list[Terminal] = []
    try:
        assert servers.stdout is not None
        json.loads(servers.stdout.readline())  # they are up
        for name, size in SIZES.items():
            (folder / "holidays").mkdir(exist_ok=True)
            (folder / "holidays" / name).write_bytes(os.urandom(size * 1_000_000))
        you = Terminal("you", env, folder)
        they = Terminal("they", env, folder)
        terminals += [you, they]
        _until(terminals, lambda: all(t.text.startswith("$ ") for t in terminals))
        you.type(f"xfer send holidays --bwlimit {LIMIT}")
        _until(terminals, lambda: re.search(r"xfer1\w{40,}", you.text) is not None)
        found = re.search(r"xfer1\w+", you.text)
        assert found is not None
        they.type(f"xfer fetch {found[0]} -o inbox")
        _until(terminals, lambda: you.share in HALF and they.share in HALF)
        _draw(terminals, picture)
        # What was shown came true.
        _until(terminals, lambda: all(t.text.count("$ ") == 2 for t in terminals))
        if any(
            (folder / "inbox" / "holidays" / name).stat().st_size != size * 1_000_000
            for name, size in SIZES.items()
        ):
            sys.exit("picture: what arrived is not what was sent")
    finally:
        for terminal in terminals:
            terminal.close()
        servers.terminate()
        servers.wait(PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{picture.name}: {picture.stat().st_size:,} bytes")


def _until(terminals: Iterable[Terminal], done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            said = "\n".join(line for t in terminals for line in t.screen.display)
            sys.exit(f"picture: the terminals do not show what is waited for, but:\n{said}")
        for terminal in terminals:
            terminal.read()


def _draw(terminals: list[Terminal], picture: Path) -> None:
    """One below the other, each with its bar."""
    faces = {
        bold: ImageFont.truetype(
            font_manager.findfont(
                font_manager.FontProperties(family="DejaVu Sans Mono", weight="bold" if bold else "normal")
            ),
            FONT,
        )
        for bold in (False, True)
    }
    wide, high = faces[False].getlength("M"), int(FONT * 1.35)
    rows = max(n + 1 for t in terminals for n, row in enumerate(t.screen.display) if row.strip())
    one = BAR + rows * high + MARGIN
    across = int(COLUMNS * wide) + 2 * MARGIN
    image = Image.new("RGB", (across, len(terminals) * (one + GAP) - GAP), "white")
    draw = ImageDraw.Draw(image)
    for number, terminal in enumerate(terminals):
        top = number * (one + GAP)
        draw.rounded_rectangle((0, top, across - 1, top + one - 1), 14, fill=PAPER)
        draw.rounded_rectangle(
            (0, top, across - 1, top + BAR - 10), 14, fill=FRAME, corners=(True, True, False, False)
        )
        draw.text((MARGIN, top + 3), terminal.title, font=faces[True], fill=FAINT)
        for row in range(rows):
            for column in range(COLUMNS):
                cell = terminal.screen.buffer[row][column]
                if cell.data.strip():
                    place = (MARGIN + column * wide, top + BAR + row * high)
                    draw.text(place, cell.data, font=faces[cell.bold], fill=_colour(cell.fg))
    image.quantize(COLOURS).save(picture, optimize=True)


def _colour(name: str) -> str:
    return PALETTE.get(name) or (f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else INK)


if __name__ == "__main__":
    main()
