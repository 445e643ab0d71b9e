"""Keys of the local servers: made once, kept in 0600 files, handed to a process as a file name only."""

from __future__ import annotations

import base64
import binascii
import json
import secrets

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from transfer.config import USER
from transfer.errors import UsageError
from transfer.local.folder import Folder, write_private

BROKER = "broker"
LOCAL = "local"
_SEED_PREFIX, _USER_PREFIX = 18 << 3, 20 << 3
"""First bits of an encoded nkey: they come out as `S` and `U`. Source: github.com/nats-io/nkeys."""


def ensure(folder: Folder) -> dict[str, str]:
    """Make what is missing. Returns user name to public nkey: whom NATS lets in."""
    for user in (BROKER, LOCAL):
        add_user(folder, user)
    if not (folder.s3_config.exists() and folder.aws_credentials.exists()):
        _make_s3_keys(folder)
    return users(folder)


def users(folder: Folder) -> dict[str, str]:
    try:
        return msgspec.json.decode(folder.users.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}


def add_user(folder: Folder, user: str) -> str:
    """Let a user in from the next start of NATS on: makes a seed file. Returns the public nkey. Idempotent.

    Raises UsageError for a name that cannot be one token of a subject.
    """
    if not USER.fullmatch(user):
        raise UsageError(f"{user!r} cannot be a user on the bus", hint="use letters, digits, `-` and `_`")
    known = users(folder)
    if user in known and folder.seed(user).exists():
        return known[user]
    seed, public = make_nkey()
    write_private(folder.seed(user), seed.encode() + b"\n")
    write_private(folder.users, json.dumps({**known, user: public}, indent=1).encode())
    return public


def make_nkey() -> tuple[str, str]:
    """A user nkey: the seed (`SU…`, secret) and the public key (`U…`)."""
    raw = secrets.token_bytes(32)
    public = (
        Ed25519PrivateKey.from_private_bytes(raw).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    )
    seed_head = bytes([_SEED_PREFIX | _USER_PREFIX >> 5, (_USER_PREFIX & 31) << 3])
    return _encode(seed_head + raw), _encode(bytes([_USER_PREFIX]) + public)


def _encode(data: bytes) -> str:
    checksum = binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(data + checksum).decode().rstrip("=")


def _make_s3_keys(folder: Folder) -> None:
    access, secret = "xfer" + secrets.token_hex(8), secrets.token_urlsafe(32)
    identity = {
        "name": "xfer",
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": ["Admin"],
    }
    write_private(folder.s3_config, json.dumps({"identities": [identity]}).encode())
    ini = f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
    write_private(folder.aws_credentials, ini.encode())
