"""`xfer join`: an invite becomes a context."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.confirm import confirm
from cli.options import Json, Quiet

if TYPE_CHECKING:
    from transfer.invite import Invite
    from transfer.joining import Joined

EXAMPLES = ("xfer join - < invite.txt", "xfer join --invite-file invite.txt --name office")


def join(
    line: Annotated[
        str | None,
        typer.Argument(
            metavar="LINE",
            envvar="XFER_INVITE",
            help="What xfer invite printed; others see arguments, - is stdin",
        ),
    ] = None,
    invite_file: Annotated[
        str | None,
        typer.Option(
            "--invite-file", metavar="FILE", envvar="XFER_INVITE_FILE", help="Read it from there; - is stdin"
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", envvar="XFER_JOIN_NAME", help="The context's; default: the server's"
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Log in with an invite, and save it as a context."""
    from cli.ask import print_json
    from cli.run import run
    from transfer.joining import join

    invite = _read(line, invite_file)
    joined = run(lambda: join(invite, name), resume="run it again")
    if json:
        print_json(joined)
    else:
        confirm(_said(joined), quiet=quiet)
        if joined.trouble:
            sys.stderr.write(f"no transfers yet: {joined.trouble}\n")


def _said(joined: Joined) -> str:
    rest = (
        "now `xfer send FILE`"
        if joined.current
        else f"`xfer context use {joined.context}` makes it the current one"
    )
    return f"logged in as {joined.user}, saved the context {joined.context}; {rest}"


def _read(line: str | None, file: str | None) -> Invite:
    from transfer.errors import MissingPath, UsageError
    from transfer.invite import MAX_TEXT, Invite

    if line is not None and line != "-":
        if file is not None:
            raise UsageError("an invite and a file with one are too much", hint="give one of them")
        return Invite.parse(line)
    source = "-" if line == "-" else file
    if source is None:
        raise UsageError("no invite", hint="give it on stdin (-), with --invite-file or in XFER_INVITE")
    try:
        if source == "-":
            raw = sys.stdin.buffer.read(MAX_TEXT)
        else:
            with open(source, "rb") as opened:
                raw = opened.read(MAX_TEXT)
    except OSError as error:
        raise MissingPath(f"the invite file {source!r} cannot be read: {error.strerror}") from None
    return Invite.parse(raw.decode("ascii", errors="replace"))
