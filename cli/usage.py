"""`xfer usage`: what was used, of how much, and when it begins anew."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from cli import options
from cli.options import ContextName, Json

if TYPE_CHECKING:
    from transfer.api import Used, UserUsage

EXAMPLES = ("xfer usage", "xfer usage --all --json")

BAR = 10
DAY = 86_400


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
    from transfer.errors import UsageError

    if everybody and user:
        raise UsageError("a user and --all contradict each other", hint="leave one of them out")
    if everybody:
        report = ask(context, lambda broker: broker.all_usage())
        if json:
            print_json(report)
        else:
            _write([*_table([*report.users, *([report.total] if report.total else [])])])
        return
    one = ask(context, lambda broker: broker.usage(user))
    if json:
        print_json(one)
    else:
        _write(_page(one, time.time()))


def _page(one: UserUsage, now: float) -> list[str]:
    """Four bars and the requests, within 80 columns."""
    from cli.units import show_size

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
        resets = f"resets in {_until(used.resets - now)}" if used.resets and used.limit is not None else ""
        lines.append(f"  {name:10}  {_bar(used)}  {of:>22}  {left:14}  {resets}".rstrip())
    if one.requests_per_minute is not None:
        lines.append(f"  {'requests':10}  at most {one.requests_per_minute:,} a minute")
    return lines


def _table(users: list[UserUsage]) -> list[str]:
    """One line each, within 80 columns unless a name is long."""
    from cli.units import show_size

    head = ("user", "today", "this month", "stored", "open jobs")
    rows = [
        (
            one.user or "all together",
            *(_of(used, show_size) for used in (one.day, one.month, one.stored)),
            _of(one.jobs, _number),
        )
        for one in users
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in [head, *rows]
    ]


def _of(used: Used, show: object) -> str:
    assert callable(show)
    return f"{show(used.used)}" + ("" if used.limit is None else f"/{show(used.limit)}")


def _number(count: float) -> str:
    return f"{count:,.0f}"


def _bar(used: Used) -> str:
    full, empty = ("█", "░") if "utf" in (sys.stdout.encoding or "").lower() else ("#", "-")
    if used.limit is None:
        return " " * BAR
    share = 1.0 if used.used >= used.limit else used.used / used.limit
    filled = min(BAR, int(share * BAR) + (0 < share * BAR < 1))
    return full * filled + empty * (BAR - filled)


def _until(seconds: float) -> str:
    """Short enough for a line's end."""
    seconds = max(0.0, seconds)
    if seconds >= DAY:
        return f"{seconds / DAY:.0f} d"
    return f"{seconds // 3600:.0f} h" if seconds >= 3600 else f"{seconds // 60:.0f} min"


def _write(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
