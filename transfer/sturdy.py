"""nats-py's client, but one that neither a publisher nor a slow server can make deaf, nor whoever stands between talk openly."""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client
from nats.errors import Error


class PlainServer(Error):
    """TLS was asked for, and the server does not offer it."""


class SturdyClient(Client):
    """Drops a message that nats-py cannot read; error_cb is told.

    NATS passes on whatever bytes a publisher chooses for subject, reply and headers. nats-py takes them for UTF-8,
    and an error there ends its read loop while the connection still counts as up, for the minutes until two pings
    are missed: any user could silence a broker with one message. Source: nats-py 2.16, Client._read_loop.
    """

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except (ValueError, LookupError) as error:
            await self._error_cb(error)

    async def _process_pong(self) -> None:
        """A server that was frozen answers a ping whose `flush` has given up; nats-py's read loop would end there."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """nats-py speaks TLS where the server's greeting says so, whatever the URL does: whoever changes that reads all."""
        server = self._current_server
        if initial_connection and server and server.uri.scheme == "tls" and not info.get("tls_required"):
            raise PlainServer("nats: the server does not speak TLS")
        await super()._process_info(info, initial_connection)
