"""`xfer down`: the end of `xfer up`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = ("xfer down", "xfer down --dir /srv/xfer")


def down(
    dir: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", envvar="XFER_DIR", help="The folder given to xfer up"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", envvar="XFER_QUIET", help="Say nothing")] = False,
) -> None:
    """Stop the local servers; their data stays."""
    from transfer.local.folder import Folder
    from transfer.local.supervisor import stop

    folder = Folder.at(dir)
    text = "stopped; the data stays in" if stop(folder) else "nothing runs in"
    if not quiet:
        sys.stderr.write(f"xfer down: {text} {folder.root}\n")
