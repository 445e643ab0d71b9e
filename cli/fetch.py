"""`xfer fetch`: arguments to one call of `transfer.fetch.fetch`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Context, Option

EXAMPLES = (
    "xfer fetch xfer1qw3… -o downloads/",
    "xfer fetch --ticket-file t.txt -o - | tar x",
)


def fetch(
    arguments: Context,
    ticket: Annotated[
        str | None,
        Argument(
            metavar="TICKET",
            envvar="XFER_TICKET",
            help="What the sender got (or XFER_TICKET)",
            show_default=False,
        ),
    ] = None,
    ticket_file: Annotated[
        str | None,
        Option(
            "--ticket-file", metavar="F", envvar="XFER_TICKET_FILE", help="Read the ticket from F; - is stdin"
        ),
    ] = None,
    output: Annotated[
        str,
        Option(
            "--output",
            "-o",
            metavar="WHERE",
            envvar="XFER_OUTPUT",
            help="Folder (a final / makes it one), file, or - for stdout",
        ),
    ] = ".",
    overwrite: Annotated[
        bool, Option("--overwrite", envvar="XFER_OVERWRITE", help="Replace what is there")
    ] = False,
    rename: Annotated[
        bool, Option("--rename", envvar="XFER_RENAME", help="Keep what is there, write beside it")
    ] = False,
    unsafe_links: Annotated[
        bool,
        Option("--unsafe-links", envvar="XFER_UNSAFE_LINKS", help="Make links that leave the folder, too"),
    ] = False,
    patience: Annotated[
        str, Option("--patience", metavar="TIME", envvar="XFER_PATIENCE", help="How long to ride out outages")
    ] = "10m",
    concurrency: Annotated[
        int | None,
        Option(
            "--concurrency",
            metavar="N",
            min=1,
            max=64,
            envvar="XFER_CONCURRENCY",
            help="Requests at once; adapts",
        ),
    ] = None,
    bwlimit: Annotated[
        str | None,
        Option(
            "--bwlimit",
            metavar="RATE",
            envvar="XFER_BWLIMIT",
            help="Bytes a second: 20M, or '08:00,2M 19:00,off'",
        ),
    ] = None,
    interface: Annotated[
        list[str] | None,
        Option(
            "--interface",
            metavar="NAME",
            envvar="XFER_INTERFACE",
            help="Meet the peer on this one; repeatable",
        ),
    ] = None,
    context: Annotated[
        str | None, Option("--context", metavar="NAME", envvar="XFER_CONTEXT", help="Which servers")
    ] = None,
    json: Annotated[bool, Option("--json", envvar="XFER_JSON", help="Events as NDJSON on stdout")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", envvar="XFER_QUIET", help="Only errors")] = False,
) -> None:
    """Fetch what a ticket stands for, verify it and put it in place."""
    import sys
    from functools import partial

    from cli.misuse import called, typed
    from cli.run import same_command
    from cli.show import show
    from cli.tickets import read_ticket
    from cli.units import parse_duration, parse_limit
    from transfer.config import load
    from transfer.errors import UsageError

    if not output:
        raise UsageError("-o is empty", hint="name a folder or a file; is a variable not set?")
    if output == "-" and json:
        raise UsageError("-o - and --json both want stdout", hint="choose one of them")
    if output == "-" and sys.__stdout__ is None:
        raise UsageError("stdout is closed", hint="name a folder or a file with -o")
    if overwrite and rename:
        raise UsageError("--overwrite and --rename contradict each other", hint="choose one of them")
    if ticket is not None and ticket_file is not None:
        both = typed(arguments, "ticket"), typed(arguments, "ticket_file")
        if both == (True, True):
            raise UsageError(
                "the ticket is given twice, as argument and with --ticket-file", hint="give it once"
            )
        ticket = None if both == (False, True) else ticket
    claim = read_ticket(ticket, ticket_file)
    seconds = parse_duration(patience, option=called(arguments, "patience"), command="fetch")
    servers = load(context)

    from transfer.fetch import fetch as transfer_fetch

    call = partial(
        transfer_fetch,
        claim,
        sys.stdout.buffer if output == "-" else output,
        context=servers,
        overwrite=overwrite,
        rename=rename,
        unsafe_links=unsafe_links,
        concurrency=concurrency,
        bwlimit=parse_limit(bwlimit, option=called(arguments, "bwlimit"), command="fetch"),
        interfaces=interface or (),
        patience=seconds,
    )
    show(call, json=json, quiet=quiet, resume=same_command())
