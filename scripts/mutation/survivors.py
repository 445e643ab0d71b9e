"""The list of mutants that are known to survive, and why.

A line at the margin is a reason; the indented lines below it are the mutants it holds for, each as
`FILE WHERE: BEFORE => AFTER`, or branches that no test takes, as `FILE branch: LINE => NEXT LINE`.
Lines that begin with # say something about the list.
"""

from __future__ import annotations


class BadList(ValueError):
    """The list cannot be read."""


def read_survivors(text: str) -> dict[str, str]:
    """The reason of each mutant, by its name with its file before it."""
    reason = ""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name or line.startswith("#"):
            continue
        if not line[0].isspace():
            reason = name
        elif not reason:
            raise BadList(f"line {number}: there is no reason above it")
        elif name in found:
            raise BadList(f"line {number}: that mutant is listed twice")
        else:
            found[name] = reason
    return found
