"""Who may log in to the servers of `xfer up`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.confirm import confirm
from cli.options import Dir, Json, Quiet

if TYPE_CHECKING:
    from transfer.local.folder import Folder

EXAMPLES = ("xfer user add ann", "xfer user ls")
EXAMPLES_OF = {
    "ls": ("xfer user ls", "xfer user ls --dir /srv/xfer --json"),
    "add": ("xfer user add ann", "xfer user add ann --dir /srv/xfer"),
    "rotate": ("xfer user rotate ann", "xfer user rotate ann && xfer invite ann"),
    "rm": ("xfer user rm ann", "xfer user rm ann --dir /srv/xfer"),
}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, _ and, later on, -")]


def ls(dir: Dir = None, json: Json = False) -> None:
    """List the users, and since when each has its key."""
    from cli.ask import print_json
    from cli.table import When, write
    from transfer.local.folder import Folder
    from transfer.local.users import listed

    found = listed(Folder.at(dir))
    if json:
        print_json(found, times=("since",))
        return
    write(("NAME", "KEY MADE", "NKEY"), [(user.name, When(user.since), user.nkey) for user in found])


def add(name: Name, dir: Dir = None, quiet: Quiet = False) -> None:
    """Let a user in; its seed file stays with the servers until it is invited."""
    from transfer.local import users

    folder = _change(dir, lambda folder: users.add(folder, name), f"user {name} may log in", quiet=quiet)
    confirm(f"its seed is in {folder.seed(name)}; `xfer invite {name}` says all in one line", quiet=quiet)


def rotate(name: Name, dir: Dir = None, quiet: Quiet = False) -> None:
    """Give a user a new key; the old one, and invites with it, open nothing any more."""
    from transfer.local import users

    folder = _change(
        dir, lambda folder: users.rotate(folder, name), f"user {name} has a new key", quiet=quiet
    )
    confirm(f"its seed is in {folder.seed(name)}; `xfer invite {name}` says all in one line", quiet=quiet)


def rm(name: Name, dir: Dir = None, quiet: Quiet = False) -> None:
    """Let a user in no more; whoever is logged in as it is thrown out at once."""
    from transfer.local import users

    _change(
        dir, lambda folder: users.remove(folder, name), f"user {name} may not log in any more", quiet=quiet
    )


def _change(dir: Path | None, work: Callable[[Folder], Awaitable[bool]], done: str, *, quiet: bool) -> Folder:
    """Do it, and say since when it holds."""
    from cli.run import run
    from transfer.local.folder import Folder

    folder = Folder.at(dir)

    async def change() -> bool:
        return await work(folder)

    now = run(change, resume="run it again")
    confirm(f"{done}{'' if now else '; the servers do not run, and will know when they start'}", quiet=quiet)
    return folder
