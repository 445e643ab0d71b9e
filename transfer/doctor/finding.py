"""What one check found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from transfer.errors import NotAllowed, Temporary, XferError
from transfer.redact import redact

State = Literal["ok", "note", "skip", "fail"]
"""note: it works, but look at it. skip: not asked, `said` tells why."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """said: one sentence without a final full stop. next: what to do. code: the exit code of a failure."""

    check: str
    state: State
    said: str
    next: str = ""
    code: int = 0


class Report(msgspec.Struct, frozen=True):
    """What `--json` prints. v: within a version fields are only added."""

    code: int
    context: str | None
    checks: list[Finding]
    v: int = 1


def failed(check: str, error: XferError, *, hint: str = "") -> Finding:
    """hint: says more than what the error suggests."""
    return Finding(check, "fail", redact(error.what), redact(hint or error.next_step), error.exit_code)


def away(check: str, said: str, hint: str) -> Finding:
    """Something temporary."""
    return Finding(check, "fail", redact(said), hint, Temporary.code)


def worst(findings: Iterable[Finding]) -> int:
    """The exit code: 0 if nothing failed, 5 if all that failed is temporary, 7 if something is not allowed, else the
    first other one."""
    codes = [finding.code for finding in findings if finding.state == "fail"]
    others = [code for code in codes if code not in (Temporary.code, NotAllowed.code)]
    return next(iter(others), max(codes, default=0))
