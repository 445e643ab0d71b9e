"""The way to the store through a proxy, and who vouches for the store: a real proxy, a real store with TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.proxies import HOST, Proxy, serving
from transfer.api import SignedUrl
from transfer.errors import StoreUnreachable, UntrustedServer, UsageError
from transfer.local import authority
from transfer.local.folder import Folder
from transfer.local.listening import Listening
from transfer.transports.s3.http import StoreHttp
from transfer.transports.s3.proxies import credentials, proxy_for, shown

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Store(BaseHTTPRequestHandler):
    """Keeps what is put, gives it back."""

    kept = b""

    def do_PUT(self) -> None:
        type(self).kept = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"")

    def do_GET(self) -> None:
        self._answer(206, self.kept)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def proxy() -> Iterator[tuple[type[Proxy], str]]:
    kind = type("Noting", (Proxy,), {"seen": []})
    with serving(kind) as address:
        yield kind, address


@pytest.fixture
def plain() -> Iterator[str]:
    with serving(type("Plain", (Store,), {})) as address:
        yield f"http://{address}/b/k?X-Amz-Signature=s"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Certificates for the store, by an authority of its own."""
    folder = Folder.at(tmp_path_factory.mktemp("authority"))
    folder.make()
    authority.ensure(folder, Listening(HOST, HOST))
    return folder


@pytest.fixture
def secure(ours: Folder) -> Iterator[str]:
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(ours.certificate, ours.certificate_key)
    with serving(type("Secure", (Store,), {}), trust) as address:
        yield f"https://{address}/b/k?X-Amz-Signature=s"


def there_and_back(url: str, ca: Path | None = None) -> None:
    http, signed = StoreHttp(1, ca=ca), SignedUrl(url, {"Content-Length": "9"})
    try:
        assert http.put(signed, [b"some ", b"data"]) == "e"
        assert http.get(SignedUrl(url, {}), 0, 9) == b"some data"
    finally:
        http.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_plain_requests_go_to_the_proxy_in_absolute_form(
    proxy: tuple[type[Proxy], str], plain: str, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    monkeypatch.setenv(variable, scheme + proxy[1])
    there_and_back(plain)
    assert proxy[0].seen == [f"PUT {plain}", f"GET {plain}"]


def test_requests_over_tls_go_through_a_tunnel_and_the_authority_of_the_context_vouches(
    proxy: tuple[type[Proxy], str], secure: str, ours: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy[1]}")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    there_and_back(secure, ours.authority)
    assert set(proxy[0].seen) == {f"CONNECT {secure.removeprefix('https://').partition('/')[0]}"}


@pytest.mark.parametrize("through", [True, False])
def test_without_somebody_to_vouch_for_it_nothing_is_sent_to_the_store(
    proxy: tuple[type[Proxy], str], secure: str, ours: Folder, monkeypatch: pytest.MonkeyPatch, through: bool
) -> None:
    if through:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy[1]}")
    with pytest.raises(UntrustedServer):
        there_and_back(secure)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.authority))
    there_and_back(secure)


@pytest.mark.parametrize("unless", [f"elsewhere.example,{HOST}", "*", "{address}"])
def test_hosts_of_no_proxy_are_reached_directly(
    proxy: tuple[type[Proxy], str], plain: str, monkeypatch: pytest.MonkeyPatch, unless: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{proxy[1]}")
    monkeypatch.setenv("NO_PROXY", unless.format(address=plain.split("/")[2]))
    there_and_back(plain)
    assert proxy[0].seen == []
    assert (proxy_for("http://other.example/") == "") == (unless == "*")


@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_that_asks_for_a_password_gets_it_and_nobody_is_shown_it(
    proxy: tuple[type[Proxy], str],
    plain: str,
    secure: str,
    ours: Folder,
    monkeypatch: pytest.MonkeyPatch,
    tls: bool,
) -> None:
    kind, address = proxy
    kind.asks = "ann:pa ss"
    url, ca = (secure, ours.authority) if tls else (plain, None)
    variable = "HTTPS_PROXY" if tls else "HTTP_PROXY"
    monkeypatch.setenv(variable, f"http://ann:pa%20ss@{address}")
    there_and_back(url, ca)
    monkeypatch.setenv(variable, f"http://ann:wrong@{address}")
    with pytest.raises(StoreUnreachable) as refused:
        there_and_back(url, ca)
    assert f"(by way of the proxy http://{address})" in refused.value.what
    assert "wrong" not in refused.value.what
    assert "X-Amz" not in refused.value.what


def test_a_proxy_that_is_away_is_named(plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(StoreUnreachable, match=r"by way of the proxy http://127.0.0.1:9\) does not answer"):
        there_and_back(plain)


@pytest.mark.parametrize("given", ["socks5h://ann:secret@127.0.0.1:9", "http://"])
def test_what_is_no_http_proxy_is_wrong_usage(
    plain: str, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", given)
    with pytest.raises(UsageError, match="HTTP_PROXY names no HTTP proxy") as refused:
        there_and_back(plain)
    assert "secret" not in refused.value.what


def test_a_proxy_is_shown_without_its_password() -> None:
    assert shown("http://ann:s%40d@proxy.example:3128") == "http://proxy.example:3128"
    assert credentials("http://ann:s%40d@proxy.example:3128") == "ann:s@d"
    assert credentials("http://proxy.example:3128") is None
