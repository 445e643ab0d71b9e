"""A connection that was not made: the system's reason is told, and nothing is called refused that was not."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from transfer import bus
from transfer.api import SignedUrl
from transfer.errors import StoreUnreachable
from transfer.transports.s3.http import StoreHttp
from transfer.unreachable import why

REASONS = [
    (errno.ECONNREFUSED, "connection refused"),
    (errno.ENETUNREACH, "the network is unreachable from here"),
    (errno.EHOSTUNREACH, "no route leads to that host from here"),
    (errno.EACCES, "permission denied"),
]


@pytest.mark.parametrize(("number", "reason"), REASONS)
def test_of_the_store(number: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "as the system says it")

    monkeypatch.setattr(socket.socket, "connect", fail)
    with pytest.raises(StoreUnreachable) as told:
        StoreHttp(1).get(SignedUrl("http://192.0.2.1:9/o?secret", {}), 0, 1)
    assert told.value.what == f"the store at 192.0.2.1:9 does not answer ({reason})"


@pytest.mark.parametrize(("number", "reason"), REASONS)
def test_of_nats(number: int, reason: str) -> None:
    assert bus._cause([OSError(number, "Connect call failed ('192.0.2.1', 4222)")]) == reason


def test_of_a_server_with_several_addresses() -> None:
    """As asyncio puts it."""
    both = "Multiple exceptions: [Errno 101] Connect call failed ('::1', 9, 0, 0), [Errno 111] Connect call failed"
    assert why(OSError(both)) == "connection refused"


def test_what_openssl_says_is_no_number_of_the_system() -> None:
    refused = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")
    refused.reason = "WRONG_VERSION_NUMBER"
    assert why(refused) == "TLS failed: wrong version number"
    assert why(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")) is None


def test_a_name_that_nobody_knows_is_no_number_of_the_system() -> None:
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert why(unknown) is None
    assert bus._cause([unknown]) == "Name or service not known"
