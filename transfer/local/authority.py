"""The certificate authority of a folder's servers, made once, and the certificate that it gives them."""

from __future__ import annotations

import datetime
import ipaddress
import secrets

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from transfer.errors import XferError
from transfer.local.folder import Folder, write_private
from transfer.local.listening import ANY, Listening

DAY = datetime.timedelta(days=1)
AUTHORITY_LIFE = 3650 * DAY
"""Invites pin the authority, so it has to last."""
SERVER_LIFE = 800 * DAY
"""Under the 825 days beyond which Apple's systems refuse."""
RENEW_BEFORE = 90 * DAY
"""What has less left is made anew at the servers' next start."""
_EARLIER = DAY
"""Valid from then on, for clients whose clocks are behind."""


def ensure(folder: Folder, listening: Listening, now: datetime.datetime | None = None) -> bool:
    """Make what is missing, names something else or expires soon. Returns whether the servers' certificate is new.

    now: for tests. Raises XferError if the authority's own files are damaged: invites hang on them.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    folder.tls.mkdir(mode=0o700, exist_ok=True)
    authority, key = _authority(folder, now)
    if _still_good(folder, authority, listening, now):
        return False
    _issue(folder, authority, key, listening, now)
    return True


def _authority(folder: Folder, now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The key is written first: a certificate that is there has its key."""
    file = folder.tls / "ca.key"
    if folder.authority.exists() and file.exists():
        try:
            key = serialization.load_pem_private_key(file.read_bytes(), None)
            found = x509.load_pem_x509_certificate(folder.authority.read_bytes())
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if isinstance(key, ec.EllipticCurvePrivateKey) and found.public_key() == key.public_key():
            return found, key
        raise XferError(
            f"the certificate authority in {folder.tls} is damaged",
            hint="restore that folder, or remove it and invite everybody again",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    # The name tells two of ours apart, for verifiers that look an issuer up by it.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"xfer {secrets.token_hex(4)}")])
    made = (
        _builder(name, name, key, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(file, _pem(key))
    write_private(folder.authority, made.public_bytes(serialization.Encoding.PEM))
    return made, key


def _still_good(
    folder: Folder, authority: x509.Certificate, listening: Listening, now: datetime.datetime
) -> bool:
    try:
        found = x509.load_pem_x509_certificate(folder.certificate.read_bytes())
        key = serialization.load_pem_private_key(folder.certificate_key.read_bytes(), None)
        found.verify_directly_issued_by(authority)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        found.public_key() == key.public_key()
        and names == _names(listening)
        and found.not_valid_after_utc - now > RENEW_BEFORE
    )


def _issue(
    folder: Folder,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    listening: Listening,
    now: datetime.datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, listening.name[:64])])
    issued = (
        _builder(name, authority.subject, key, now, SERVER_LIFE)
        .add_extension(_names(listening), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    folder.certificate.unlink(
        missing_ok=True
    )  # a crash between the two leaves none, and not one without its key
    write_private(folder.certificate_key, _pem(key))
    write_private(folder.certificate, issued.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _EARLIER,
        not_valid_after=now + life,
    )


def _names(listening: Listening) -> x509.SubjectAlternativeName:
    """What clients dial, and the address itself."""
    dialled = [listening.name, *([] if listening.host in (ANY, listening.name) else [listening.host])]
    return x509.SubjectAlternativeName([_general_name(name) for name in dialled])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
