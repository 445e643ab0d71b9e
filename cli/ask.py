"""One question to the broker, for commands that ask and print."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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


def print_json(value: object) -> None:
    """One line on stdout."""
    import sys

    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def say_changed(changed: Changed, told: str, *, json: bool, quiet: bool) -> None:
    """What was done to a job: on stdout for programs, on stderr for people."""
    import sys

    if json:
        print_json(changed)
    elif not quiet:
        sys.stderr.write(told + "\n")
