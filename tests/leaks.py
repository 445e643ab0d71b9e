"""What no log of a whole test session may hold: a ticket, an `Authorization` header, a signature, a seed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from transfer.redact import SECRETS

LOGS = ("log", "*.log", "*.log.1", "*.stderr", "stderr*")
"""How the tests and the local servers call what a process said."""
_DATABASE = re.compile(r"[0-9]+\.log")
"""The store's own journals, which are data."""
SHOWN = 12
"""Characters of a secret that a failure shows, so that it can be found; never all of it."""


def secrets_in(text: str) -> list[str]:
    """Handle it as what it is."""
    return [found[0] for found in SECRETS.finditer(text)]


def leaks_in(text: str) -> list[str]:
    """The beginning of each secret that is in there."""
    return [f"{secret[:SHOWN]}…" for secret in secrets_in(text)]


def leaks_below(folder: Path) -> Iterator[str]:
    """`file: what` for each secret in a log below a folder."""
    seen = {path for pattern in LOGS for path in folder.rglob(pattern)}
    for path in sorted(path for path in seen if path.is_file() and not _DATABASE.fullmatch(path.name)):
        yield from (
            f"{path.relative_to(folder)}: {leak}" for leak in leaks_in(path.read_text(errors="replace"))
        )
