"""One question to a STUN or TURN server, outside of any transfer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from transfer.ice_urls import Relay
from transfer.transports.inside_aioice import (
    Candidate,
    StunProtocol,
    TransactionError,
    server_reflexive_candidate,
)
from transfer.transports.lookup import look_up
from transfer.transports.turn import relayed_candidate


class Refused(OSError):
    """code: the server's error code, 0 if it did not answer."""

    def __init__(self, code: int) -> None:
        super().__init__("no answer" if code == 0 else f"it refuses ({code})")
        self.code = code


class _Nobody:
    """What aioice's protocol hands packets on to."""

    def data_received(self, data: bytes, component: int) -> None: ...
    def request_received(self, message: Any, address: Any, protocol: Any) -> None: ...
    def protocol_lost(self, protocol: Any) -> None: ...


async def ask_stun(host: str, port: int) -> str:
    """The address that it sees us at. Raises OSError; bound it in time."""
    address = await look_up(host)
    loop = asyncio.get_running_loop()
    here = "::" if ":" in address else "0.0.0.0"
    transport, protocol = await loop.create_datagram_endpoint(_protocol, local_addr=(here, 0))
    try:
        protocol.local_candidate = Candidate(
            foundation="0", component=1, transport="udp", priority=1, host=here, port=0, type="host"
        )
        with _translated():
            candidate, _ = await server_reflexive_candidate(protocol, (address, port))
        return _shown(candidate)
    finally:
        transport.close()


async def ask_turn(relay: Relay) -> str:
    """The address of an allocation, which is given back. Raises Refused, OSError; bound it in time."""
    with _translated():
        candidate, protocol = await relayed_candidate(relay, _protocol)
    protocol.transport.close()
    return _shown(candidate)


def _protocol() -> StunProtocol:
    return StunProtocol(_Nobody())  # type: ignore[arg-type]  # it needs no more of a connection


def _shown(candidate: Any) -> str:
    host = f"[{candidate.host}]" if ":" in candidate.host else candidate.host
    return f"{host}:{candidate.port}"


@contextlib.contextmanager
def _translated() -> Any:
    try:
        yield
    except KeyError:
        raise Refused(0) from None
    except TransactionError as error:
        response = getattr(error, "response", None)
        said = response.attributes.get("ERROR-CODE", (0, "")) if response is not None else (0, "")
        raise Refused(int(said[0])) from None
