"""nats-py's client, but one that neither a publisher nor a slow server can make deaf, nor whoever stands between talk openly.

It reaches into what is not public of nats-py, and so do the functions at the end: the place to look at when a new version
comes. Nothing else in `transfer` does.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from transfer.later import later

# JetStream's client is a third of what nats-py takes to import, and only a broker needs it.
with later("nats.js"):
    from nats.aio.client import DEFAULT_BUFFER_SIZE, Client
    from nats.aio.transport import TcpTransport
    from nats.errors import Error

if TYPE_CHECKING:
    import ssl
    from urllib.parse import ParseResult

    from nats.micro.request import Request
    from nats.micro.service import Service

CHECKED = "2.16."
"""The versions whose insides were looked at: how these begin."""


class PlainServer(Error):
    """TLS was asked for, and the server does not offer it."""


class _Tls(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        """Over TLS no half of a connection can be kept; nats-py's protocol keeps it, and asyncio complains on stderr."""
        super().eof_received()
        return False


class _Transport(TcpTransport):
    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """As nats-py does it, with a protocol that knows what it is on."""
        assert self._io_writer is not None
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=buffer_size)
        protocol = _Tls(reader)
        name = uri if isinstance(uri, str) else uri.hostname
        upgrade = loop.start_tls(self._io_writer.transport, protocol, ssl_context, server_hostname=name)
        async with asyncio.timeout(connect_timeout):
            transport = await upgrade
        self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)  # type: ignore[arg-type]


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

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """After what was said before it; nats-py's own overtakes that, and so `flush` returned before the server had it."""
        if self.is_connected and self._transport is not None and self._pending:
            self._transport.writelines(self._pending)
            self._pending, self._pending_data_size = [], 0
        await super()._send_ping(future)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """nats-py takes the email package for this, which is half of what a short message costs it."""
        headers: dict[str, str] = {}
        for line in raw.decode().split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name] = value.strip()
        return headers

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """nats-py speaks TLS where the server's greeting says so, whatever the URL does: whoever changes that reads all."""
        server = self._current_server
        wanted = server is not None and (
            server.uri.scheme == "tls" or (server.uri.scheme == "nats" and "tls" in self.options)
        )
        if initial_connection and wanted and not info.get("tls_required"):
            raise PlainServer("nats: the server does not speak TLS")
        await super()._process_info(info, initial_connection)

    async def _connect_to_server(self, server: Any) -> None:
        if server.uri.scheme not in ("nats", "tls"):
            await super()._connect_to_server(server)
            return
        server.last_attempt = time.monotonic()
        if not isinstance(self._transport, _Transport):
            self._transport = _Transport()  # type: ignore[no-untyped-call]
        within: int = self.options["connect_timeout"]
        await self._transport.connect(server.uri, DEFAULT_BUFFER_SIZE, within)


def tls_of(client: Client) -> ssl.SSLObject | None:
    """What encrypts its connection; None where nothing does."""
    writer = getattr(client._transport, "_io_writer", None)
    secure: ssl.SSLObject | None = writer and writer.get_extra_info("ssl_object")
    return secure


def version_of(client: Client) -> str:
    """The server's, as its greeting said it."""
    return str(client._server_info.get("version", ""))


async def drain(service: Service) -> None:
    """No new requests, and what has arrived is handled; `Service.stop` would throw that away."""
    for endpoint in service._endpoints:
        if endpoint._subscription is not None:
            await endpoint._subscription.drain()


def reply_of(inquiry: Request) -> str:
    """The subject that its answer goes to."""
    return str(inquiry._msg.reply)
