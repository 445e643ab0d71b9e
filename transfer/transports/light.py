"""aioice, the version that we know, without dnspython: whoever needs aioice imports it from here.

Raises XferError if another one is installed; then `plain` carries the transfer.

It imports dnspython for names that only browsers use (80 ms). A stand-in for that module of aioice's takes its
place, and becomes the real one when the first such name comes.
"""

from __future__ import annotations

import importlib.machinery
import re
import sys
import types
from typing import Any

from transfer.errors import XferError


def _without_mdns() -> None:
    if "aioice" in sys.modules:
        return
    light = types.ModuleType("aioice.mdns")
    name = re.compile(r"[a-zA-Z0-9-]{1,63}\.local")

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        found = importlib.machinery.PathFinder.find_spec("aioice.mdns", sys.modules["aioice"].__path__)
        assert found is not None
        assert found.loader is not None
        vars(light).pop("__getattr__", None)
        found.loader.exec_module(light)
        return getattr(light, attribute)

    vars(light).update(
        is_mdns_hostname=lambda host: name.fullmatch(host) is not None, MDnsProtocol=object, __getattr__=load
    )
    sys.modules["aioice.mdns"] = light


_without_mdns()
try:
    import aioice
    from aioice.candidate import candidate_foundation, candidate_priority
    from aioice.ice import CandidatePair, StunProtocol, server_reflexive_candidate
    from aioice.stun import Message, TransactionError
    from aioice.turn import DEFAULT_ALLOCATION_LIFETIME, TurnClientMixin, TurnTransport
except ImportError as missing:
    raise XferError(f"the installed aioice is another than the direct route knows: {missing}") from None

KNOWN = "0.13."
if not aioice.__version__.startswith(KNOWN):
    raise XferError(f"aioice {aioice.__version__} is installed, but the direct route was made for {KNOWN}x")

__all__ = [
    "DEFAULT_ALLOCATION_LIFETIME",
    "CandidatePair",
    "Message",
    "StunProtocol",
    "TransactionError",
    "TurnClientMixin",
    "TurnTransport",
    "aioice",
    "candidate_foundation",
    "candidate_priority",
    "server_reflexive_candidate",
]
