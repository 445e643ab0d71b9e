"""What a consumer of a room is called when nothing says so."""

from __future__ import annotations

import platform
import re

SHARED = "work"
"""The consumer that all members share, unless named."""


def own_name() -> str:
    """This host's, as a consumer may be called."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", platform.node())[:64].strip(".-") or "host"
