"""Whom a client trusts: an authority that is pinned is the only one, and who does not show it hears nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from transfer import bus
from transfer.api import SignedUrl
from transfer.config import config_dir, to_trust
from transfer.errors import NotConfigured, UntrustedServer
from transfer.local import authority
from transfer.local.credentials import make_nkey
from transfer.local.folder import Folder
from transfer.local.listening import Listening
from transfer.transports.s3.http import StoreHttp

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="local servers need Linux or macOS")


def certified(root: Path, name: str = "127.0.0.1") -> Folder:
    folder = Folder.at(root)
    folder.make()
    authority.ensure(folder, Listening("127.0.0.1", name))
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return certified(tmp_path_factory.mktemp("ours") / "data")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return certified(tmp_path_factory.mktemp("theirs") / "data")


def server_side(folder: Folder) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.certificate, folder.certificate_key)
    return context


# --- the store


@pytest.fixture
def store(ours: Folder) -> Iterator[tuple[str, list[str]]]:
    """An HTTPS store, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_args: object) -> None:
            """A client that refuses us is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    server.socket = server_side(ours).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}/part", asked
    server.shutdown()
    server.server_close()
    thread.join(10)


def put(url: str, ca: Path | None) -> str:
    http = StoreHttp(1, ca=ca)
    try:
        return http.put(SignedUrl(url, {"Content-Length": "4"}), [b"data"])
    finally:
        http.close()


def test_a_store_that_the_pinned_authority_vouches_for_is_used(
    store: tuple[str, list[str]], ours: Folder
) -> None:
    assert put(store[0], ours.authority) == "e"
    assert store[1] == ["/part"]


def test_a_connection_that_was_made_early_is_used_though_session_tickets_came_over_it(
    store: tuple[str, list[str]], ours: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS 1.3: they are no data, and not the end that urllib3 takes them for."""
    from transfer.transports.s3 import connections

    made: list[connections._WatchedTls] = []

    class Counted(connections._WatchedTls):
        def connect(self) -> None:
            made.append(self)
            super().connect()

    monkeypatch.setattr(connections, "_WatchedTls", Counted)
    http = StoreHttp(1, ca=ours.authority)
    try:
        http.connect(store[0].removesuffix("/part"))
        [early] = made
        assert select.select([early.sock], [], [], 20)[0], "they have come"
        assert http.put(SignedUrl(store[0], {"Content-Length": "4"}), [b"data"]) == "e"
    finally:
        http.close()
    assert made == [early]


@pytest.mark.parametrize("who", ["another authority", "those of the system"])
def test_a_store_that_nobody_trusted_vouches_for_is_sent_nothing_and_not_tried_again(
    store: tuple[str, list[str]], theirs: Folder, who: str
) -> None:
    with pytest.raises(
        UntrustedServer, match=r"the store at 127\.0\.0\.1:\d+ is not to be trusted"
    ) as raised:
        put(store[0], theirs.authority if who == "another authority" else None)
    assert raised.value.exit_code == 7
    assert "/part" not in raised.value.what
    assert store[1] == []
    assert advised(raised.value, theirs if who == "another authority" else None)


def advised(error: UntrustedServer, authority: Folder | None) -> bool:
    """Whether what to do next fits one who was given an authority, or none, and no invite."""
    fits = str(authority.authority) if authority else "name its certificate with --ca (XFER_CA)"
    return fits in error.next_step and "invite" not in error.next_step


def test_only_who_has_the_authority_of_an_invite_is_sent_for_a_new_one() -> None:
    invited = config_dir() / "credentials" / "office.pem"
    assert "new invite" in to_trust(invited)
    assert "invite" not in to_trust(config_dir() / "office.pem")


def test_a_store_of_another_name_is_not_trusted(store: tuple[str, list[str]], ours: Folder) -> None:
    with pytest.raises(UntrustedServer):
        put(store[0].replace("127.0.0.1", "localhost"), ours.authority)
    assert store[1] == []


# --- the bus


class Told:
    """What a server was told, after the handshake if there is one."""

    def __init__(self) -> None:
        self.data, self.anything = b"", asyncio.Event()

    def take(self, data: bytes) -> None:
        self.data += data
        self.anything.set()


@contextlib.asynccontextmanager
async def nats_like(folder: Folder, *, tls: bool) -> AsyncIterator[tuple[str, Told]]:
    """Greets as NATS does, with or without TLS to follow; what it was told."""
    told = Told()
    greeting = {"server_id": "x", "version": "2.14.0", "max_payload": 1 << 20, "nonce": "n" * 16}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            writer.write(b"INFO " + json.dumps({**greeting, "tls_required": tls}).encode() + b"\r\n")
            await writer.drain()
            if tls:
                await writer.start_tls(server_side(folder))
            while data := await reader.read(1000):
                told.take(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}", told
    finally:
        server.close()


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    path = tmp_path / "ann.nk"
    path.write_text(make_nkey()[0])
    return path


@pytest.mark.parametrize("who", ["another authority", "those of the system"])
async def test_a_bus_that_nobody_trusted_vouches_for_is_told_nothing(
    ours: Folder, theirs: Folder, seed: Path, who: str
) -> None:
    ca = theirs.authority if who == "another authority" else None
    async with nats_like(ours, tls=True) as (url, told):
        with pytest.raises(UntrustedServer, match="is not to be trusted") as raised:
            await bus.connect(url, seed, "ann", "test", ca=ca)
    assert told.data == b""
    assert raised.value.exit_code == 7
    assert advised(raised.value, theirs if ca else None)


async def test_a_bus_that_pretends_to_have_no_tls_is_told_nothing(ours: Folder, seed: Path) -> None:
    """Whoever stands between could change the greeting, which is in the clear."""
    async with nats_like(ours, tls=False) as (url, told):
        with pytest.raises(UntrustedServer, match="it does not speak TLS") as raised:
            await bus.connect(url, seed, "ann", "test", ca=ours.authority)
    assert told.data == b""
    assert "check its address" in raised.value.next_step


async def test_a_bus_with_the_right_certificate_is_talked_to(ours: Folder, seed: Path) -> None:
    async with nats_like(ours, tls=True) as (url, told):
        dialling = asyncio.create_task(bus.connect(url, seed, "ann", "test", ca=ours.authority, within=60))
        async with asyncio.timeout(30):
            await told.anything.wait()
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)
    assert told.data.startswith(b"CONNECT ")


async def test_a_missing_or_damaged_authoritys_file_is_named(seed: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.pem").write_text("nothing of the kind")
    for name in ("missing.pem", "damaged.pem"):
        with pytest.raises(NotConfigured, match=name):
            await bus.connect("tls://127.0.0.1:9", seed, "ann", "test", ca=tmp_path / name)
