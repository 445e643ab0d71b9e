"""What went well is said to people: on stderr, when that is a terminal. Scripts and logs hear of what did not."""

from __future__ import annotations

import sys


def confirm(text: str, *, quiet: bool = False) -> None:
    """Say in a line what was done, or that there was nothing to show."""
    if not quiet and sys.stderr.isatty():
        sys.stderr.write(text + "\n")
