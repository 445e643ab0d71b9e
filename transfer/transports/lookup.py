"""Names of hosts to addresses, in threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading


def look_up(host: str, family: int = socket.AF_UNSPEC) -> asyncio.Future[str]:
    """An address of that host; fails with OSError. Shield it where several wait for it.

    A resolver that is silent holds a thread for many seconds, and the loop has few, which files are read and
    written in: so it is not one of those.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()

    def settle(address: str | None, error: OSError | None) -> None:
        if future.done():
            return
        if address is None:
            future.set_exception(error or OSError("no such host"))
        else:
            future.set_result(address)

    def work() -> None:
        address, failed = None, None
        try:
            address = str(socket.getaddrinfo(host, None, family, socket.SOCK_DGRAM)[0][4][0])
        except (OSError, UnicodeError) as error:
            failed = error if isinstance(error, OSError) else OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, address, failed)

    threading.Thread(target=work, name=f"look up {host}", daemon=True).start()
    return future
