"""What went well is said to people: on stderr, when that is a terminal. Scripts and logs hear of what did not."""

from __future__ import annotations

import sys

_INDENT = "  "


def confirm(text: str, *, quiet: bool = False) -> None:
    """Say in a sentence what was done, or that there was nothing to show; broken between words, to the terminal's width."""
    if quiet or not sys.stderr.isatty():
        return
    from rich.console import Console

    from cli.wrap import wrap

    console = Console(stderr=True)
    sys.stderr.write("\n".join(wrap(text, console.width, console, _INDENT)) + "\n")
