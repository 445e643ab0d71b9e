"""`xfer invite`: one line that lets a colleague in."""

from __future__ import annotations

import sys

from cli.options import Dir
from cli.user import Name

EXAMPLES = ("xfer invite ann", "xfer invite ann --dir /srv/xfer > ann.txt")


def invite(name: Name, dir: Dir = None) -> None:
    """Print a line for `xfer join`: whoever has it is that user."""
    from cli.run import run
    from transfer.local.folder import Folder
    from transfer.local.listening import is_loopback
    from transfer.local.users import invite

    folder = Folder.at(dir)
    made = run(lambda: invite(folder, name), resume="run it again")
    sys.stdout.write(f"{made}\n")
    sys.stdout.flush()
    if is_loopback(made.host):
        sys.stderr.write("good on this machine only; `xfer up --listen HOST` lets others in\n")
    if folder.holder() is None:
        sys.stderr.write("the servers do not run; start them before the invite is used\n")
