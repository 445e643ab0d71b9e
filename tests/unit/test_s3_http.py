"""What a store can do to us with its answers: little."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from transfer.api import SignedUrl
from transfer.broker_client import JobPaused
from transfer.bwlimit import BwLimit
from transfer.errors import StoreUnreachable
from transfer.hold import Hold
from transfer.transports.s3 import http as http_module
from transfer.transports.s3.http import PIECE, SIT_OUT, Moved, SlowDown, StoreHttp

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
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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

    assert http.put(store(serve), [b"pa", b"rt"]) == "e"


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


BODY = bytes(range(256)) * 1200


def sized(request: BaseHTTPRequestHandler, status: int, body: bytes = b"") -> None:
    request.send_response(status)
    request.send_header("ETag", '"e"')
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def test_a_connection_that_was_made_early_serves_the_first_request(
    store: Start, http: StoreHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfer.transports.s3 import connections

    made: list[object] = []

    class Counted(connections._Watched):
        def connect(self) -> None:
            made.append(self)
            super().connect()

    monkeypatch.setattr(connections, "_Watched", Counted)
    url = store(lambda request: sized(request, 200))
    http.connect(url.url.removesuffix("/o"))
    assert len(made) == 1
    assert http.put(url, [b"part"]) == "e"
    assert len(made) == 1
    assert http.put(url, [b"part"]) == "e"
    assert len(made) == 2, "this store closes each after its answer"


def test_each_early_connection_is_one_more(store: Start) -> None:
    http, url = StoreHttp(3), store(lambda request: sized(request, 200))
    origin = url.url.removesuffix("/o")
    for _ in range(3):
        http.connect(origin)
    pool = http._pool(origin).connection_from_url(origin)
    assert pool.pool is not None
    there = [pool.pool.get_nowait() for _ in range(3)]
    assert [connection.is_connected for connection in there] == [True] * 3
    for connection in there:
        connection.close()
    http.close()


@pytest.mark.parametrize("origin", ["http://127.0.0.1:9", "ftp://nobody", "https://", "nonsense"])
def test_connecting_early_is_never_an_error(http: StoreHttp, origin: str) -> None:
    http.connect(origin)


class Clock:
    """In place of `time`: who sleeps moves it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.longest = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.longest = max(self.longest, seconds)


@pytest.mark.parametrize("rate", [50_000, 1_000_000])
def test_what_is_sent_and_read_keeps_to_the_limit_and_in_small_pieces(
    store: Start, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(http_module, "time", clock)

    def serve(request: BaseHTTPRequestHandler) -> None:
        sized(request, 206, BODY if request.command == "GET" else b"")

    limited = StoreHttp(1, BwLimit(rate, clock.monotonic))
    url = store(serve)
    url.headers["Content-Length"] = str(len(BODY))
    assert limited.put(url, [BODY]) == "e"
    sent = clock.now - 100
    del url.headers["Content-Length"]
    assert limited.get(url, 0, len(BODY)) == BODY
    read = clock.now - 100 - sent
    limited.close()
    for took in (sent, read):
        assert took == pytest.approx(len(BODY) / rate, abs=0.06)
    assert clock.longest <= 0.06
    assert limited.moved == 2 * len(BODY)


def test_what_moves_is_counted_as_it_goes(store: Start, http: StoreHttp) -> None:
    """The pace looks at it several times a second, and a part takes many."""
    seen: list[int] = []
    counted = http._count

    def look(length: int) -> None:
        counted(length)
        seen.append(http.moved)

    http._count = look  # type: ignore[method-assign]
    body = bytes(3 * PIECE + 5)
    url = store(lambda request: sized(request, 200))
    url.headers["Content-Length"] = str(len(body))
    assert http.put(url, [body]) == "e"
    assert seen == [PIECE, 2 * PIECE, 3 * PIECE, 3 * PIECE + 5]


def test_a_store_that_asks_for_less_is_told_from_one_that_is_down(store: Start, http: StoreHttp) -> None:
    said = b"<Error><Code>SlowDown</Code></Error>"
    for status, body, slow in (
        (503, b"", True),
        (429, said, True),
        (500, b"", False),
        (502, said[:9], False),
    ):
        with pytest.raises(StoreUnreachable) as refused:
            http.get(store(partial(sized, status=status, body=body)), 0, 1)
        assert isinstance(refused.value, SlowDown) is slow


class Paused(Hold):
    """Its pause comes when so many bytes have left."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.http = at, StoreHttp(1)

    @property
    def paused(self) -> bool:
        return self.http.moved >= self.at


@pytest.mark.parametrize(("left", "ends"), [(0.28, True), (0.4, False), (3.0, False)])
def test_a_pause_lets_a_part_end_that_can_do_so_at_once_and_stops_any_other_where_it_is(
    store: Start, monkeypatch: pytest.MonkeyPatch, left: float, ends: bool
) -> None:
    """left: seconds that the rest takes at the rate of `--bwlimit`."""
    clock, rate, body = Clock(), 100_000, bytes(500_000)
    monkeypatch.setattr(http_module, "time", clock)
    hold = Paused(len(body) - int(left * rate))
    hold.http = held = StoreHttp(1, BwLimit(rate, clock.monotonic), hold)
    url = SignedUrl(store(lambda request: sized(request, 200)).url, {"Content-Length": str(len(body))})
    moved = Moved()
    if ends:
        assert held.put(url, [body], moved) == "e"
        assert (held.moved, moved.bytes) == (len(body), len(body))
    else:
        with pytest.raises(JobPaused):
            held.put(url, [body], moved)
        assert held.moved <= hold.at + 5_000  # a piece
        assert moved.bytes == 0
        assert clock.now - 100 == pytest.approx(held.moved / rate + SIT_OUT, abs=0.2)
    held.close()


def test_a_part_that_slows_down_as_it_ends_in_a_pause_is_stopped_after_all(
    store: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, rate, body = Clock(), 100_000, bytes(500_000)
    monkeypatch.setattr(http_module, "time", clock)
    hold = Paused(len(body) - 25_000)
    limit = BwLimit(rate, clock.monotonic)
    hold.http = held = StoreHttp(1, limit, hold)
    url = SignedUrl(store(lambda request: sized(request, 200)).url, {"Content-Length": str(len(body))})
    debt = limit.debt
    monkeypatch.setattr(limit, "debt", lambda length: debt(length) + (0.2 if hold.paused else 0.0))
    with pytest.raises(JobPaused):
        held.put(url, [body])
    assert hold.at < held.moved <= hold.at + 10_000
    held.close()


def test_a_part_that_is_half_sent_sits_out_a_short_pause_and_gives_up_a_long_one(
    store: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("ETag", '"e"')
        request.send_header("Content-Length", "0")
        request.end_headers()

    hold = Hold()
    held = StoreHttp(1, None, hold)
    url = store(serve)
    url = SignedUrl(url.url, {"Content-Length": str(2 * PIECE)})
    body = [bytes(PIECE), bytes(PIECE)]
    hold.set(True)
    timer = threading.Timer(0.3, lambda: hold.set(False))
    timer.start()
    assert held.put(url, body) == "e"
    assert held.moved == 2 * PIECE
    timer.join()
    monkeypatch.setattr(http_module, "SIT_OUT", 0.2)
    hold.set(True)
    with pytest.raises(JobPaused):
        held.put(url, body)
    assert held.moved == 2 * PIECE
    hold.set(False)
    assert held.put(url, body) == "e"
    held.close()
