"""Names to addresses without the loop's own threads."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from transfer.transports.lookup import look_up


async def test_an_address_is_itself_and_a_name_is_looked_up() -> None:
    assert await look_up("192.0.2.5") == "192.0.2.5"
    assert await look_up("2001:db8::5") == "2001:db8::5"
    assert await look_up("localhost", socket.AF_INET) == "127.0.0.1"


@pytest.mark.parametrize("host", ["2001:db8::5", "", "no such host", "." * 300, "x" * 300])
async def test_what_has_no_such_address_is_an_os_error(host: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 gaierror, of many texts
        await look_up(host, socket.AF_INET)


async def test_lookups_that_hang_keep_no_thread_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def silent(*_: object) -> None:
        let_go.wait(100)
        raise OSError("nobody answered")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    hanging = [look_up(f"host-{number}") for number in range(50)]
    started = time.monotonic()
    await asyncio.gather(*(asyncio.to_thread(str, number) for number in range(50)))
    assert time.monotonic() - started < 50
    for lookup in hanging:
        lookup.cancel()
    let_go.set()
