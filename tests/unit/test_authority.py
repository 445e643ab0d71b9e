"""The servers' certificate authority: made once, and its certificate made anew only when it has to be."""

from __future__ import annotations

import datetime
import ssl
import stat
import sys
from pathlib import Path

import pytest
from cryptography import x509

from cli.up import _listening_told
from transfer.errors import UsageError, XferError
from transfer.local import authority, listening
from transfer.local.folder import Folder
from transfer.local.listening import Listening

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="local servers need Linux or macOS")
HERE = Listening("127.0.0.1", "files.example")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder.at(tmp_path / "data")
    folder.make()
    return folder


def served(folder: Folder) -> x509.Certificate:
    return x509.load_pem_x509_certificate(folder.certificate.read_bytes())


def handshake(folder: Folder, name: str, *, trusted: Path | None = None) -> None:
    """Client and server in memory; raises what the client says of the certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder.certificate, folder.certificate_key)
    client = ssl.create_default_context(cafile=trusted or folder.authority)
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by itself
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() == "TLSv1.3"


def test_it_is_made_once_and_secrets_are_private(folder: Folder) -> None:
    assert authority.ensure(folder, HERE)
    before = {path.name: path.read_bytes() for path in folder.tls.iterdir()}
    assert not authority.ensure(folder, HERE)
    assert {path.name: path.read_bytes() for path in folder.tls.iterdir()} == before
    for secret in ("ca.key", "server.key"):
        assert stat.S_IMODE((folder.tls / secret).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.tls.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["files.example", "127.0.0.1"])
def test_a_client_that_pins_it_accepts_the_name_and_the_address(folder: Folder, name: str) -> None:
    authority.ensure(folder, HERE)
    handshake(folder, name)


def test_another_name_and_another_authority_are_refused(folder: Folder, tmp_path: Path) -> None:
    authority.ensure(folder, HERE)
    other = Folder.at(tmp_path / "other")
    other.make()
    authority.ensure(other, HERE)
    for name, trusted in (("files.example", other.authority), ("other.example", folder.authority)):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(folder, name, trusted=trusted)


def test_another_host_gets_another_certificate_of_the_same_authority(folder: Folder) -> None:
    authority.ensure(folder, HERE)
    pinned = folder.authority.read_bytes()
    assert authority.ensure(folder, Listening("127.0.0.1", "new.example"))
    assert folder.authority.read_bytes() == pinned
    handshake(folder, "new.example")


def test_a_certificate_that_soon_expires_is_made_anew(folder: Folder) -> None:
    authority.ensure(folder, HERE)
    end = served(folder).not_valid_after_utc
    assert not authority.ensure(folder, HERE, end - authority.RENEW_BEFORE - datetime.timedelta(hours=1))
    assert authority.ensure(folder, HERE, end - authority.RENEW_BEFORE)
    assert served(folder).not_valid_after_utc > end


@pytest.mark.parametrize("file", ["server.key", "server.pem"])
def test_a_certificate_without_its_key_is_made_anew(folder: Folder, file: str) -> None:
    authority.ensure(folder, HERE)
    (folder.tls / file).unlink()
    assert authority.ensure(folder, HERE)
    handshake(folder, "files.example")


@pytest.mark.parametrize("file", ["ca.key", "ca.pem"])
def test_a_damaged_authority_is_named_and_not_replaced(folder: Folder, file: str) -> None:
    """Everybody's invite pins it."""
    authority.ensure(folder, HERE)
    (folder.tls / file).write_text("damaged")
    with pytest.raises(XferError, match="is damaged"):
        authority.ensure(folder, HERE)
    assert (folder.tls / file).read_text() == "damaged"


def test_a_foreign_certificate_in_its_place_is_replaced(folder: Folder, tmp_path: Path) -> None:
    other = Folder.at(tmp_path / "other")
    other.make()
    authority.ensure(other, HERE)
    authority.ensure(folder, HERE)
    folder.certificate.write_bytes(other.certificate.read_bytes())
    folder.certificate_key.write_bytes(other.certificate_key.read_bytes())
    assert authority.ensure(folder, HERE)
    handshake(folder, "files.example")


# --- what may be listened on


def test_an_address_of_ours_is_also_the_name_unless_another_is_advertised() -> None:
    assert listening.chosen("127.0.0.1", None) == Listening("127.0.0.1", "127.0.0.1")
    assert listening.chosen("127.0.0.1", "files.example") == HERE
    assert listening.chosen("localhost", None) == Listening("127.0.0.1", "localhost")
    assert listening.chosen("0.0.0.0", "files.example") == Listening("0.0.0.0", "files.example")
    assert listening.chosen(None, None) is None


def test_what_was_listened_on_goes_on_until_something_else_is_said() -> None:
    assert listening.chosen(None, None, HERE) == HERE
    assert listening.chosen(None, "new.example", HERE) == Listening("127.0.0.1", "new.example")
    assert listening.chosen("localhost", None, HERE) == Listening("127.0.0.1", "localhost")
    assert listening.chosen("loopback", None, HERE) is None
    with pytest.raises(UsageError, match="--advertise says how"):
        listening.chosen("loopback", "files.example", HERE)
    with pytest.raises(
        UsageError, match=r"192\.0\.2\.1, which is no address of this machine any more"
    ) as gone:
        listening.chosen(None, None, Listening("192.0.2.1", "files.example"))
    assert "--listen loopback" in gone.value.next_step


@pytest.mark.parametrize(
    ("before", "where", "kept", "said"),
    [
        (None, None, True, ""),
        (None, HERE, False, ""),
        (HERE, HERE, False, ""),
        (HERE, HERE, True, "lets others in at files.example, as before; `--listen loopback` ends that"),
        (HERE, None, False, "`xfer up --listen 127.0.0.1 --advertise files.example` lets them in again"),
        (HERE, Listening("127.0.0.1", "new"), False, "at new now, and not at files.example: give them new"),
    ],
)
def test_those_who_were_let_in_before_are_thought_of(
    before: Listening | None, where: Listening | None, kept: bool, said: str
) -> None:
    told = _listening_told(Folder.at(None), before, where, kept=kept)
    assert said in told
    assert bool(said) == bool(told)


@pytest.mark.parametrize(
    ("listen", "advertise", "sentence"),
    [
        ("http://127.0.0.1", None, "always speaks TLS"),
        ("nats://0.0.0.0", "files.example", "always speaks TLS"),
        ("0.0.0.0", None, "clients cannot dial 0.0.0.0"),
        ("0.0.0.0", "0.0.0.0", "neither a host name nor"),
        ("127.0.0.1", "two words", "neither a host name nor"),
        ("127.0.0.1", "files.example:4222", "neither a host name nor"),
        ("192.0.2.1", None, "is no address of this machine"),
        ("::1", None, "has no IPv4 address"),
        ("no such host", None, "has no IPv4 address"),
        (None, "files.example", "--advertise says how others reach what --listen opens"),
    ],
)
def test_what_cannot_be_listened_on_is_refused(
    listen: str | None, advertise: str | None, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        listening.chosen(listen, advertise)


def test_where_they_listen_is_remembered_until_they_do_not(folder: Folder) -> None:
    listening.remember(folder, HERE)
    assert listening.remembered(folder) == HERE
    listening.remember(folder, None)
    assert listening.remembered(folder) is None
