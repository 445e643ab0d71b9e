"""`xfer doctor`: is everything there that a transfer needs?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from cli.options import ContextName, Json

if TYPE_CHECKING:
    from transfer.config import Context
    from transfer.doctor import Finding

EXAMPLES = ("xfer doctor", "xfer doctor --context office --json")
WIDTH = 80
_LEFT = 16
"""Columns of mark and check."""
_COLOURS = {"ok": "32", "note": "33", "skip": "2", "fail": "1;31"}
"""Source: ECMA-48, SGR."""
_MARKS = {"ok": "ok", "note": "note", "skip": "-", "fail": "FAIL"}


def doctor(context: ContextName = None, json: Json = False) -> None:
    """Check the servers, the store, the clocks and this machine."""
    from cli.run import run
    from transfer.doctor import Report, examine, worst

    where, missing = _context(context)
    found: list[Finding] = [missing] if missing else []

    def tell(finding: Finding) -> None:
        if not json:
            _print(finding)

    for finding in found:
        tell(finding)
    found += run(lambda: examine(where, tell), resume="run it again")
    code = worst(found)
    if json:
        from cli.ask import print_json

        print_json(Report(code, where.name if where else None, found))
    if code:
        raise typer.Exit(code)


def _context(name: str | None) -> tuple[Context | None, Finding | None]:
    from transfer import config
    from transfer.doctor.finding import failed
    from transfer.errors import Misuse

    try:
        return config.load(name), None
    except Misuse as error:
        return None, failed("context", error)


def _print(finding: Finding) -> None:
    """One check: what it found, and what to do in lines below."""
    import textwrap

    from cli.exits import coloured
    from transfer.paths import printable

    mark, blank = _MARKS[finding.state].ljust(5), " " * _LEFT
    if coloured(sys.stdout):
        mark = f"\x1b[{_COLOURS[finding.state]}m{mark}\x1b[0m"
    said = textwrap.wrap(printable(finding.said, limit=1000), WIDTH - _LEFT, break_on_hyphens=False)
    lines = [f"{mark} {finding.check:{_LEFT - 6}}{said[0]}", *(blank + line for line in said[1:])]
    if finding.next:
        lines += [
            blank + line for line in textwrap.wrap(f"→ {finding.next}", WIDTH - _LEFT, break_on_hyphens=False)
        ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
