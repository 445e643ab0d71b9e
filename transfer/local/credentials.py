"""Keys of the local servers: made once, kept in 0600 files, handed to a process as a file name only."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from transfer.errors import UsageError
from transfer.local.folder import Folder, write_private
from transfer.permissions import BROKER

LOCAL = "local"
_SEED_PREFIX, _USER_PREFIX = 18 << 3, 20 << 3
"""First bits of an encoded nkey: they come out as `S` and `U`. Source: github.com/nats-io/nkeys."""


def ensure(folder: Folder) -> dict[str, str]:
    """Make what is missing. Returns user name to public nkey: whom NATS lets in."""
    for user in (BROKER, LOCAL):
        if user not in users(folder) or not folder.seed(user).exists():
            new_key(folder, user)
    if not (folder.s3_config.exists() and folder.aws_credentials.exists()):
        _make_s3_keys(folder)
    return users(folder)


def users(folder: Folder) -> dict[str, str]:
    try:
        return msgspec.json.decode(folder.users.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}


def removed(folder: Folder) -> set[str]:
    """Users that were there once, and are to be let in by nothing but an operator who says so."""
    try:
        return msgspec.json.decode(folder.removed.read_bytes(), type=set[str])
    except FileNotFoundError:
        return set()


def write_removed(folder: Folder, names: Iterable[str]) -> None:
    write_private(folder.removed, json.dumps(sorted(names), indent=1).encode())


def new_key(folder: Folder, user: str) -> str:
    """Let a user in with a new key, and with no other, from the next time that NATS reads. Returns the public nkey."""
    seed, public = make_nkey()
    write_private(folder.seed(user), seed.encode() + b"\n")
    write_users(folder, {**users(folder), user: public})
    return public


def write_users(folder: Folder, known: Mapping[str, str]) -> None:
    """known: user name to public nkey."""
    write_private(folder.users, json.dumps(known, indent=1).encode())


@contextlib.contextmanager
def changing(folder: Folder) -> Iterator[None]:
    """Who changes users, or what NATS reads of them, does so alone; waits for whoever does just now."""
    if sys.platform == "win32":
        raise UsageError("local servers need Linux or macOS")
    import fcntl

    handle = os.open(folder.root / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
