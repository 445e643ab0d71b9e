"""One question to the broker, for commands that ask and print."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from transfer.api import Changed
    from transfer.broker_client import BrokerClient

Answer = TypeVar("Answer")


def ask(context: str | None, question: Callable[[BrokerClient], Awaitable[Answer]]) -> Answer:
    """Connect, ask, hang up. context: its name, None for the one in force.

    Raises what `config.load`, `bus.connect` and the question raise; nothing is ridden out for long: nothing is under way.
    """
    from cli.run import run
    from transfer import config
    from transfer.broker_client import FIRST_CONTACT, Patience, connected

    where = config.load(context)

    async def work() -> Answer:
        async with connected(where, "xfer", Patience(FIRST_CONTACT)) as (_client, broker):
            return await question(broker)

    return run(work, resume="run it again")


def print_json(value: object, *, times: Collection[str] = ()) -> None:
    """One line on stdout. times: the fields, at any depth, that hold seconds since 1970; they are written as ISO 8601."""
    import sys

    import msgspec

    shown = _with_iso(msgspec.to_builtins(value), times) if times else value
    sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
    sys.stdout.flush()


def _with_iso(value: object, times: Collection[str]) -> object:
    from cli.units import iso

    if isinstance(value, list):
        return [_with_iso(item, times) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: iso(item) if key in times and isinstance(item, int | float) else _with_iso(item, times)
        for key, item in value.items()
    }


def say_changed(changed: Changed, told: str, *, json: bool, quiet: bool) -> None:
    """What was done to a job: on stdout for programs, on a terminal for people."""
    from cli.confirm import confirm

    if json:
        print_json(changed, times=("expires",))
    else:
        confirm(told, quiet=quiet)
