"""`xfer up`: local servers, in the foreground or behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from transfer.config import Context
    from transfer.errors import Locked
    from transfer.local.folder import Folder
    from transfer.local.listening import Listening
    from transfer.local.supervisor import Running

EXAMPLES = ("xfer up --detach", "xfer up --listen 0.0.0.0 --advertise files.example")
CONTEXT = "local"
_OURS_ALONE = ("XFER_DETACH", "XFER_QUIET")
"""Variables of options that the process in the background must not take for its own."""


def up(
    dir: Annotated[Path | None, options.folder("Where the servers keep everything")] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST",
            envvar="XFER_LISTEN",
            help="Let others in, with TLS, at this address of ours or 0.0.0.0; "
            "stays so the next time, until: loopback",
        ),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            "--advertise",
            metavar="NAME",
            envvar="XFER_ADVERTISE",
            help="What they dial, here too; needed with 0.0.0.0 [HOST]",
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", envvar="XFER_DETACH", help="Return once they answer; stop them with xfer down"
        ),
    ] = False,
    json: Annotated[bool, options.json("Say what runs where as JSON")] = False,
    quiet: Annotated[bool, options.quiet("No notices about restarts and contexts")] = False,
) -> None:
    """Run NATS, an S3 store and a broker here, until `xfer down`."""
    import asyncio

    from transfer import config
    from transfer.errors import Locked
    from transfer.local import listening
    from transfer.local.folder import Folder
    from transfer.local.supervisor import serve

    def tell(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"xfer up: {text}\n")
            sys.stderr.flush()

    def ready(running: Running) -> None:
        _save_context(running, old, tell)
        if news := _listening_told(folder, before, where, kept=listen is None):
            tell(news)
        _say(running, json=json)

    folder, old = Folder.at(dir), config.contexts().get(CONTEXT)
    before = listening.remembered(folder)
    where = listening.chosen(listen, advertise, before)
    try:
        if detach:
            ready(_detached(folder, where))
        else:
            asyncio.run(serve(folder, on_ready=ready, tell=tell, where=where))
    except Locked as locked:
        raise _run_already(folder, old, tell) or locked from None


def _listening_told(folder: Folder, before: Listening | None, where: Listening | None, *, kept: bool) -> str:
    """What a run's listening means for those who relied on that of the run before; kept: nothing was asked for."""
    import shlex

    from transfer.local.listening import LOOPBACK_ONLY

    if before is None or (before == where and not kept):
        return ""
    if where is None:
        opened = ["--listen", before.host, "--advertise", before.name]
        again = shlex.join(["xfer", "up", *_at(folder), *opened])
        return (
            f"others, who used {before.name}, do not reach the servers any more; `{again}` lets them in again"
        )
    if kept and before == where:
        return f"lets others in at {where.name}, as before; `--listen {LOOPBACK_ONLY}` ends that"
    if before.name != where.name:
        return f"others are let in at {where.name} now, and not at {before.name}: give them new invites"
    return ""


def _run_already(folder: Folder, old: Context | None, tell: Callable[[str], None]) -> Locked | None:
    """Point the context at the servers that somebody else runs there; None while they have no ports yet."""
    import shlex

    from transfer.errors import Locked
    from transfer.local import listening, ports
    from transfer.local.supervisor import Running

    block = ports.remembered(folder.ports)
    if block is None:
        return None
    _save_context(Running.of(folder, block, listening.remembered(folder)), old, tell)
    down = ["xfer", "down", *_at(folder)]
    return Locked(
        f"the servers in {folder.root} run already, and the context {CONTEXT} points to them",
        hint=f"use them, or stop them with `{shlex.join(down)}`",
    )


def _at(folder: Folder) -> list[str]:
    """The option that names it, where it takes one."""
    return [] if folder == type(folder).at(None) else ["--dir", str(folder.root)]


def _detached(folder: Folder, where: Listening | None) -> Running:
    """Start `xfer up` in a session of its own, notices into its log; wait for its one line of JSON."""
    import contextlib
    import os
    import subprocess

    import msgspec

    from transfer.errors import XferError
    from transfer.events import Failure
    from transfer.local.folder import LOG_UP
    from transfer.local.listening import LOOPBACK_ONLY
    from transfer.local.supervisor import Running

    folder.make()
    with folder.hold():  # if they run already, say so here and now
        log = folder.open_log(LOG_UP)
    opened = ["--listen", where.host, "--advertise", where.name] if where else ["--listen", LOOPBACK_ONLY]
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", "up", "--dir", str(folder.root), "--json", *opened],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={name: value for name, value in os.environ.items() if name not in _OURS_ALONE},
            start_new_session=True,
        )
    finally:
        os.close(log)
    assert child.stdout is not None
    try:
        with child.stdout:
            line = child.stdout.readline()
    except BaseException:  # Ctrl-C while waiting: do not leave half a start behind
        child.terminate()
        raise
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(line, type=Running)
    child.wait()
    with contextlib.suppress(msgspec.DecodeError):
        failure = msgspec.json.decode(line, type=Failure)
        raise XferError(failure.message, hint=failure.next)
    raise XferError("the local servers did not start", hint=f"look into {folder.log(LOG_UP)}")


def _save_context(running: Running, old: Context | None, tell: Callable[[str], None]) -> None:
    """old: what the context meant before; a process in the background may have saved the new one already."""
    from transfer import config

    new = config.Context(
        name=CONTEXT,
        nats_url=running.nats_url,
        nats_creds=Path(running.credentials_file),
        ca=Path(running.ca) if running.ca else None,
        user=CONTEXT,
        stun=old.stun if old else [],
        turn=old.turn if old else [],
    )
    config.add(new)
    if old is not None and old.nats_creds != new.nats_creds:
        tell(f"the context {CONTEXT} now means {running.dir}; before it meant {old.public_url}")


def _say(running: Running, *, json: bool) -> None:
    import msgspec

    if json:
        text = msgspec.json.encode(running).decode()
    else:
        store = f"{running.s3_endpoint}/{running.bucket}"
        tls = ", TLS" if running.ca else ""
        text = (
            f"up: NATS {running.nats_url}, S3 {store}, broker{tls}, data in {running.dir}, context {CONTEXT}"
        )
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
