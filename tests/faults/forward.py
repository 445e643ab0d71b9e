"""Carries TCP between network namespaces over a Unix socket: `forward.py in PORT SOCKET` or `forward.py out SOCKET PORT`.

`in` listens on 127.0.0.1:PORT and passes each connection to SOCKET; `out` takes it there to 127.0.0.1:PORT.
So a receiver in a namespace of its own reaches servers that listen on another's loopback only, and
the test cuts the peers' own link without touching this one, or this one too by ending the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(way: str, first: str, second: str) -> None:
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if way == "in":
                far_reader, far_writer = await asyncio.open_unix_connection(second)
            else:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(second))
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    if way == "in":
        server = await asyncio.start_server(carry, "127.0.0.1", int(first))
    else:
        server = await asyncio.start_unix_server(carry, first)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
