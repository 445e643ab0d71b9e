"""Say where the servers are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.confirm import confirm
from cli.options import Ca, Json, NatsCreds, Quiet

if TYPE_CHECKING:
    from transfer.config import Context

EXAMPLES = (
    "xfer context add office --nats-url nats://bus.example:4222 --nats-creds me.creds",
    "xfer context use office",
)

EXAMPLES_OF = {
    "ls": ("xfer context ls", "xfer context ls --json"),
    "add": (
        EXAMPLES[0],
        "xfer context add lab --nats-url tls://lab.example --turn turn:lab.example:3478 --turn-user ann "
        "--turn-password-file turn.txt",
    ),
    "use": ("xfer context use office", "xfer context use local"),
    "show": ("xfer context show", "xfer context show office --json"),
    "rm": ("xfer context rm office", "xfer context rm local"),
}

Name = Annotated[str, typer.Argument(metavar="NAME", help="The context's name")]


def ls(json: Json = False) -> None:
    """List the contexts; a star marks the current one."""
    from cli.table import write
    from transfer import config

    current, contexts = config.current(), config.contexts()
    if json:
        _write_json([_shown(context) | {"current": name == current} for name, context in contexts.items()])
        return
    rows = [
        ("*" if name == current else "", name, context.user, context.public_url)
        for name, context in contexts.items()
    ]
    write(("", "NAME", "USER", "NATS"), rows)


def add(
    name: Name,
    nats_url: Annotated[str, options.nats_url()],
    nats_creds: NatsCreds = None,
    ca: Ca = None,
    user: Annotated[
        str | None,
        typer.Option("--user", envvar="XFER_USER", help="Our name on the bus [that of the .creds file]"),
    ] = None,
    stun: Annotated[
        list[str] | None,
        typer.Option("--stun", metavar="URL", envvar="XFER_STUN", help="stun:HOST:3478; repeatable"),
    ] = None,
    turn: Annotated[
        list[str] | None,
        typer.Option("--turn", metavar="URL", envvar="XFER_TURN", help="turn:HOST:3478; repeatable"),
    ] = None,
    turn_user: Annotated[
        str,
        typer.Option(
            "--turn-user", metavar="NAME", envvar="XFER_TURN_USER", help="Who we are to the TURN relays"
        ),
    ] = "",
    turn_password_file: Annotated[
        Path | None,
        typer.Option(
            "--turn-password-file",
            metavar="FILE",
            envvar="XFER_TURN_PASSWORD_FILE",
            help="Holds the password",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Save a context, replacing one of that name; the first becomes current."""
    from transfer import config

    creds = Path(nats_creds).expanduser().absolute() if nats_creds else None
    password = _first_line(turn_password_file) if turn_password_file else ""
    config.add(
        config.Context(
            name=name,
            nats_url=nats_url,
            nats_creds=creds,
            ca=Path(ca).expanduser().absolute() if ca else None,
            user=user or config.user_of(creds, nats_url),
            stun=stun or [],
            turn=[config.Turn(url, turn_user, password) for url in turn or []],
        )
    )
    rest = "it is current" if config.current() == name else f"`xfer context use {name}` makes it current"
    confirm(f"saved the context {name}; {rest}", quiet=quiet)


def use(name: Name) -> None:
    """Make a context the current one."""
    from transfer import config

    config.use(name)


def show(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Default: the one that is in force")
    ] = None,
    json: Json = False,
) -> None:
    """Show a context as it is in force, variables included; never a password."""
    from transfer import config

    shown = _shown(config.load(name))
    if json:
        _write_json(shown)
        return
    for key, value in shown.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        sys.stdout.write(f"{key:10}  {text or '-'}\n")


def rm(name: Name) -> None:
    """Forget a context; the servers it names are not touched."""
    from transfer import config

    config.remove(name)


def _shown(context: Context) -> dict[str, object]:
    return {
        "name": context.name,
        "nats_url": context.public_url,
        "nats_creds": str(context.nats_creds) if context.nats_creds else None,
        "ca": str(context.ca) if context.ca else None,
        "user": context.user,
        "stun": list(context.stun),
        "turn": [turn.url for turn in context.turn],
    }


def _first_line(path: Path) -> str:
    from transfer.errors import MissingPath

    try:
        return path.read_text().partition("\n")[0].strip()
    except OSError as error:
        raise MissingPath(f"{path} cannot be read: {error.strerror}") from None


def _write_json(value: object) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
