"""`xfer usage`: what was used, of how much, and when it begins anew."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from cli import options
from cli.options import ContextName, Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from transfer.api import Used, UserUsage

EXAMPLES = ("xfer usage", "xfer usage --all --json")

COLUMNS = ("USER", "TODAY", "THIS MONTH", "STORED", "OPEN JOBS")
BAR = 8


def usage(
    user: Annotated[
        str | None,
        Argument(
            metavar="USER", envvar="XFER_USAGE_USER", help="Somebody else, for admins", show_default=False
        ),
    ] = None,
    everybody: Annotated[
        bool, options.everything("Everybody, and all together; for admins", "XFER_USAGE_ALL")
    ] = False,
    json: Json = False,
    context: ContextName = None,
) -> None:
    """Show what you have used of your quota."""
    from cli.ask import ask, print_json
    from cli.table import write
    from transfer.errors import UsageError

    if everybody and user:
        raise UsageError("a user and --all contradict each other", hint="leave one of them out")
    if everybody:
        report = ask(context, lambda broker: broker.all_usage())
        if json:
            print_json(report, times=("resets",))
        else:
            write(
                COLUMNS,
                _rows([*report.users, *([report.total] if report.total else [])]),
                numbers=COLUMNS[1:],
            )
        return
    one = ask(context, lambda broker: broker.usage(user))
    if json:
        print_json(one, times=("resets",))
    else:
        sys.stdout.writelines(f"{line}\n" for line in _page(one, time.time()))


def _page(one: UserUsage, now: float) -> list[str]:
    """Four bars and the requests, within 80 columns."""
    from cli.units import ago, show_size

    rows = [
        ("today", one.day, show_size),
        ("this month", one.month, show_size),
        ("stored", one.stored, show_size),
        ("open jobs", one.jobs, _number),
    ]
    lines = [f"{one.user}"]
    for name, used, show in rows:
        of = f"{show(used.used)} of {show(used.limit)}" if used.limit is not None else show(used.used)
        left = "no limit" if used.limit is None else f"{show(max(0, used.limit - used.used))} left"
        resets = f"resets {ago(used.resets, now)}" if used.resets and used.limit is not None else ""
        lines.append(f"  {name:10}  {_bar(used)}  {of:>22}  {left:14}  {resets}".rstrip())
    if one.requests_per_minute is not None:
        lines.append(f"  {'requests':10}  at most {one.requests_per_minute:,} a minute")
    return lines


def _rows(users: list[UserUsage]) -> list[tuple[str, ...]]:
    from cli.units import show_size

    return [
        (
            one.user or "all together",
            *(_of(used, show_size) for used in (one.day, one.month, one.stored)),
            _of(one.jobs, _number),
        )
        for one in users
    ]


def _of(used: Used, show: Callable[[float], str]) -> str:
    """`1.3 kB/1.00 GB`, `999.00/999.00 GB`: the unit once where it is the same."""
    if used.limit is None:
        return show(used.used)
    have, most = show(used.used).split(), show(used.limit).split()
    return f"{' '.join(have[:1] if have[1:] == most[1:] else have)}/{' '.join(most)}"


def _number(count: float) -> str:
    return f"{count:,.0f}"


def _bar(used: Used) -> str:
    full, empty = ("█", "░") if "utf" in (sys.stdout.encoding or "").lower() else ("#", "-")
    if used.limit is None:
        return " " * BAR
    share = 1.0 if used.used >= used.limit else used.used / used.limit
    filled = min(BAR, int(share * BAR) + (0 < share * BAR < 1))
    return full * filled + empty * (BAR - filled)
