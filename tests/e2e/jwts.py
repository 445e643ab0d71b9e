"""A NATS server in operator mode, without nsc: its JWTs made from the commands that are printed for nsc."""

from __future__ import annotations

import base64
import itertools
import json
import secrets
import shlex
import time
from pathlib import Path

import nkeys

from transfer.local.credentials import _encode

_SEED, _KINDS = 18 << 3, {"operator": 14 << 3, "account": 0, "user": 20 << 3}
"""Source: github.com/nats-io/nkeys, prefix bytes."""
_CONNECTIONS = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
_JETSTREAM = ("mem_storage", "disk_storage", "streams", "consumer")
_UNLIMITED = dict.fromkeys((*_CONNECTIONS, *_JETSTREAM), -1)


class Key:
    """seed: `S…`. public: by which the others know it."""

    def __init__(self, kind: str) -> None:
        prefix = _KINDS[kind]
        raw = bytes([_SEED | prefix >> 5, (prefix & 31) << 3]) + secrets.token_bytes(32)
        self.seed = _encode(raw)
        self._pair = nkeys.from_seed(self.seed.encode())
        self.public = self._pair.public_key.decode()

    def signs(self, subject: str, name: str, claims: dict[str, object]) -> str:
        """A JWT. Source: NATS ADR-14 and github.com/nats-io/jwt, version 2."""
        body = {
            "jti": secrets.token_hex(16),
            "iat": int(time.time()),
            "iss": self.public,
            "name": name,
            "sub": subject,
            "nats": {**claims, "version": 2},
        }
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        said = ".".join(_b64(json.dumps(part).encode()) for part in (head, body))
        return f"{said}.{_b64(self._pair.sign(said.encode()))}"


def operator_mode(folder: Path, printed: str) -> str:
    """Obey the `nsc` commands; NAME.creds lie in the folder then. Returns what goes into nats-server's configuration."""
    operator, system, account = Key("operator"), Key("account"), Key("account")
    for line in printed.splitlines():
        words = shlex.split(line, comments=True)
        if words[:3] != ["nsc", "add", "user"]:
            continue
        given = dict(itertools.pairwise(words))
        claims: dict[str, object] = {
            "pub": {"allow": given["--allow-pub"].split(",")},
            "sub": {"allow": given["--allow-sub"].split(",")},
            "subs": -1,
            "data": -1,
            "payload": -1,
            "type": "user",
        }
        if "--allow-pub-response=1" in words:
            assert given["--response-ttl"] == "2m"
            claims["resp"] = {"max": 1, "ttl": 120 * 10**9}
        key = Key("user")
        _write_creds(
            folder / f"{given['--name']}.creds", account.signs(key.public, given["--name"], claims), key
        )
    accounts = {
        key.public: operator.signs(
            key.public,
            name,
            {"limits": {**_UNLIMITED, "wildcards": True} if name != "SYS" else {}, "type": "account"},
        )
        for name, key in (("XFER", account), ("SYS", system))
    }
    top = operator.signs(operator.public, "test", {"type": "operator", "system_account": system.public})
    preload = "\n".join(f"  {public}: {jwt}" for public, jwt in accounts.items())
    return f"operator: {top}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}"


def _write_creds(path: Path, jwt: str, key: Key) -> None:
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n"
    )


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
