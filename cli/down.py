"""`xfer down`: the end of `xfer up`."""

from __future__ import annotations

from typing import Annotated

from cli import options
from cli.confirm import confirm
from cli.options import Dir

EXAMPLES = ("xfer down", "xfer down --dir /srv/xfer")


def down(
    dir: Dir = None,
    quiet: Annotated[bool, options.quiet("Say nothing")] = False,
) -> None:
    """Stop the local servers; their data stays."""
    from transfer.local.folder import Folder
    from transfer.local.supervisor import stop

    folder = Folder.at(dir)
    text = "stopped; the data stays in" if stop(folder) else "nothing runs in"
    confirm(f"xfer down: {text} {folder.root}", quiet=quiet)
