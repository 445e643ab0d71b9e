"""What a store can do to us with its answers: little."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from transfer.api import SignedUrl
from transfer.errors import StoreUnreachable
from transfer.transports.s3.http import StoreHttp

ZEROS = bytes(1 << 16)
Serve = Callable[[BaseHTTPRequestHandler], None]
Start = Callable[[Serve], SignedUrl]


@pytest.fixture
def store() -> Iterator[Start]:
    """A store that answers as told."""
    servers: list[ThreadingHTTPServer] = []

    def start(serve: Serve) -> SignedUrl:
        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                serve(self)

            do_PUT = do_GET = _answer  # noqa: N815

            def log_message(self, *_args: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return SignedUrl(f"http://127.0.0.1:{server.server_port}/o", {})

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def http() -> Iterator[StoreHttp]:
    made = StoreHttp(1)
    yield made
    made.close()


def test_an_endless_answer_to_a_part_is_not_read_to_its_end(store: Start, http: StoreHttp) -> None:
    def serve(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("ETag", '"e"')
        request.end_headers()
        try:
            while True:
                request.wfile.write(ZEROS)
        except OSError:
            request.close_connection = True

    assert http.put(store(serve), b"part") == "e"


def test_a_compressed_answer_is_not_expanded(store: Start, http: StoreHttp) -> None:
    bomb = gzip.compress(ZEROS)

    def serve(request: BaseHTTPRequestHandler) -> None:
        request.send_response(206)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", str(len(bomb)))
        request.end_headers()
        request.wfile.write(bomb)

    url = store(serve)
    assert http.get(url, 0, len(bomb)) == bomb
    with pytest.raises(StoreUnreachable):
        http.get(url, 0, len(ZEROS))


def test_a_retry_after_that_is_no_number_is_passed_over(store: Start, http: StoreHttp) -> None:
    def serve(request: BaseHTTPRequestHandler) -> None:
        request.send_response(503)
        request.send_header("Retry-After", "\N{SUPERSCRIPT TWO}")
        request.send_header("Content-Length", "0")
        request.end_headers()

    with pytest.raises(StoreUnreachable, match="503"):
        http.get(store(serve), 0, 1)
