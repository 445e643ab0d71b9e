"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

from typer import Option

Json = Annotated[bool, Option("--json", envvar="XFER_JSON", help="As JSON")]
ContextName = Annotated[
    str | None, Option("--context", metavar="NAME", envvar="XFER_CONTEXT", help="Which servers")
]
Quiet = Annotated[bool, Option("--quiet", "-q", envvar="XFER_QUIET", help="Only errors")]
