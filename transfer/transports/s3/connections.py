"""urllib3's connections to the store, each of which looks at its TCP connection as it goes, made before they are needed.

For the latter it takes a connection out of urllib3's pool and puts it back, which is not public there.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from transfer.transports.s3.congestion import NetworkPath, Watch
from transfer.transports.s3.proxies import credentials

CHECKED = "2."
"""Versions of urllib3 whose insides these are."""
CONNECT_SECONDS, SILENCE_SECONDS = 5.0, 30.0


def make_pool(connections: int, proxy: str, path: NetworkPath, ca: Path | None = None) -> urllib3.PoolManager:
    """connections: how many are kept. proxy: its URL, or empty. path: what they see of the way.

    ca: PEM file of the authorities that are trusted, and no others; None: those of the system.
    """
    options: dict[str, Any] = {
        "num_pools": 4,
        "maxsize": connections,
        "block": False,
        "blocksize": 1 << 18,
        "timeout": urllib3.Timeout(connect=CONNECT_SECONDS, read=SILENCE_SECONDS),
    }
    if ca is not None:
        options["ca_certs"] = str(ca)
    if proxy:
        asked = credentials(proxy)
        headers = urllib3.make_headers(proxy_basic_auth=asked) if asked is not None else None
        pool: urllib3.PoolManager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
    else:
        pool = urllib3.PoolManager(**options)
    pool.pool_classes_by_scheme = _pool_classes(path)
    return pool


def look(connection: Any) -> None:
    """Have it look at its TCP connection: something came over it."""
    if isinstance(connection, _Watched):
        connection.look()


class _Watched(HTTPConnection):
    _path: NetworkPath
    _watch: Watch | None = None  # a proxy is spoken to before it is connected to the store

    def connect(self) -> None:
        super().connect()
        self._watch = Watch(self.sock, self._path)

    def send(self, data: Any) -> None:
        super().send(data)
        self.look()

    def look(self) -> None:
        if self._watch is not None:
            self._watch.look()


class _WatchedTls(_Watched, HTTPSConnection):
    @property
    def is_connected(self) -> bool:
        """Whether it can be used again, for urllib3, which asks that of an idle one.

        TLS 1.3 servers send session tickets when the handshake is over. urllib3 takes whatever comes for the end, and would
        dial anew; they are read here, and are no data.
        """
        sock = self.sock
        if sock is None:
            return False
        before = sock.gettimeout()
        try:
            sock.settimeout(0)
            sock.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        finally:
            sock.settimeout(before)
        return False  # an end, or what nobody asked for


class _Ready(HTTPConnectionPool):
    def ready(self) -> None:
        """Have one more connection there, for the next request. Raises what connecting does."""
        ready: list[Any] = []
        connection: Any = self._get_conn()
        while connection.is_connected:
            ready.append(connection)
            connection = self._get_conn()
        for each in ready:
            self._put_conn(each)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        finally:
            self._put_conn(connection)  # closed, it keeps its place in the pool


def _pool_classes(path: NetworkPath) -> dict[str, type[HTTPConnectionPool]]:
    """By scheme. urllib3 makes connections by their class and nothing else that is ours."""

    class Plain(_Ready):
        ConnectionCls = type("Watched", (_Watched,), {"_path": path})

    class Tls(_Ready, HTTPSConnectionPool):
        ConnectionCls = type("WatchedTls", (_WatchedTls,), {"_path": path})

    return {"http": Plain, "https": Tls}
