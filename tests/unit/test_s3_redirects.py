"""A signed URL is a secret: it goes to the store that it names, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from transfer.api import SignedUrl
from transfer.errors import XferError
from transfer.transports.s3.http import StoreHttp, crc32c


class Store(BaseHTTPRequestHandler):
    """Sends everybody elsewhere; `elsewhere` is a server of its own that notes who came."""

    status, elsewhere = 307, ""
    seen: list[str]

    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Location", self.server.elsewhere + self.path)  # type: ignore[attr-defined]
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_GET  # noqa: N815

    def log_message(self, *_args: object) -> None: ...


def serve(status: int, elsewhere: str) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    server.status, server.elsewhere, server.seen = status, elsewhere, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.fixture(params=[301, 302, 303, 307, 308])
def two(request: pytest.FixtureRequest) -> Iterator[tuple[ThreadingHTTPServer, ThreadingHTTPServer]]:
    """A store that redirects, and where it redirects to."""
    thief = serve(200, "")
    store = serve(request.param, f"http://127.0.0.1:{thief.server_address[1]}")
    yield store, thief
    for server in (store, thief):
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("method", ["put", "get"])
def test_a_redirect_is_never_followed_with_a_signed_url(
    two: tuple[ThreadingHTTPServer, ThreadingHTTPServer], method: str
) -> None:
    store, thief = two
    url = f"http://127.0.0.1:{store.server_address[1]}/b/k?X-Amz-Signature=s"
    http, data = StoreHttp(1), b"abc"
    headers = {"Content-Length": "3", "x-amz-checksum-crc32c": crc32c([data])}
    put, get = SignedUrl(url, headers), SignedUrl(url, {})
    with pytest.raises(XferError) as refused:
        http.put(put, [data]) if method == "put" else http.get(get, 0, 3)
    http.close()
    assert store.seen  # type: ignore[attr-defined]
    assert thief.seen == []  # type: ignore[attr-defined]
    assert "X-Amz" not in refused.value.what
