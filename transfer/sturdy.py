"""nats-py's client, but one that neither a publisher nor a slow server can make deaf."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client


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

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """nats-py takes the email package for this, which is half of what a short message costs it."""
        headers: dict[str, str] = {}
        for line in raw.decode().split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name] = value.strip()
        return headers
