"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

Json = Annotated[bool, Option("--json", envvar="XFER_JSON", help="As JSON")]
Job = Annotated[str, Argument(metavar="JOB", help="Its id, or how that begins")]
ContextName = Annotated[
    str | None, Option("--context", metavar="NAME", envvar="XFER_CONTEXT", help="Which servers")
]
Quiet = Annotated[bool, Option("--quiet", "-q", envvar="XFER_QUIET", help="Only errors")]
