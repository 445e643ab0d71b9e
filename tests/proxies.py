"""A small HTTP proxy in a thread."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = "127.0.0.1"


class Proxy(BaseHTTPRequestHandler):
    """Forwards the absolute form, tunnels CONNECT; notes both in `seen`. asks: `name:password`, if it asks for one."""

    seen: list[str]
    asks = ""

    def do_CONNECT(self) -> None:
        if self._admitted():
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port)), 10) as far:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pump, args=(far, self.connection), daemon=True)
                back.start()
                _pump(self.connection, far)
                back.join(10)
        self.close_connection = True

    def _forward(self) -> None:
        if not self._admitted():
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        host, _, path = self.path.removeprefix("http://").partition("/")
        with socket.create_connection((host.split(":")[0], int(host.split(":")[1])), 10) as far:
            kept = [
                f"{k}: {v}" for k, v in self.headers.items() if not k.lower().startswith(("proxy-", "conn"))
            ]
            head = "\r\n".join([f"{self.command} /{path} HTTP/1.1", *kept, "Connection: close", "", ""])
            far.sendall(head.encode() + body)
            _pump(far, self.connection)
        self.close_connection = True

    do_PUT = do_GET = _forward  # noqa: N815

    def _admitted(self) -> bool:
        expected = f"Basic {base64.b64encode(self.asks.encode()).decode()}"
        admitted = not self.asks or self.headers.get("Proxy-Authorization") == expected
        self.seen.append(f"{self.command} {self.path}")
        if not admitted:
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return admitted

    def log_message(self, *_args: object) -> None: ...


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], trust: ssl.SSLContext | None = None) -> Iterator[str]:
    """Gives its host and port."""
    server = ThreadingHTTPServer((HOST, 0), handler)
    server.daemon_threads = True
    if trust is not None:
        server.socket = trust.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
