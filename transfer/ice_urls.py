"""Servers that help two ends to meet, by their URLs. Source: RFC 7064, RFC 7065."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from transfer.errors import UsageError

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s\[\]@/?:]+)(?::(?P<port>[0-9]{1,5}))?"
_STUN = re.compile(rf"stun:{_HOST}")
_TURN = re.compile(rf"turn(?P<tls>s?):{_HOST}(?:\?transport=(?P<transport>udp|tcp))?")
PORT, TLS_PORT = 3478, 5349

Server = tuple[str, int]
"""A host (a name, or an address without brackets) and a port."""


@dataclass(frozen=True)
class Relay:
    """A TURN server, how to speak to it, and as whom."""

    host: str
    port: int
    transport: Literal["udp", "tcp"]
    tls: bool
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class IceServers:
    """stun: `stun:host:port` URLs. turn: (`turn:host:port?transport=udp`, username, password).

    Empty by default: no server is asked that the user did not name. interfaces: names and addresses of our own
    interfaces to meet the peer on; empty: all that may lead to it.
    """

    stun: list[str] = field(default_factory=list)
    turn: list[tuple[str, str, str]] = field(default_factory=list, repr=False)
    interfaces: list[str] = field(default_factory=list)


def parse_stun(url: str) -> Server:
    """Raises UsageError for what is no `stun:host[:port]`."""
    found = _STUN.fullmatch(url)
    port = int(found["port"] or PORT) if found else 0
    if found is None or not 0 < port < 65536:
        raise _wrong(url, "a STUN server", "write it as stun:HOST:3478")
    return found["host"].strip("[]"), port


def parse_turn(url: str, username: str, password: str) -> Relay:
    """Raises UsageError for what is no `turn:host[:port][?transport=udp|tcp]` or `turns:host[:port]`."""
    found = _TURN.fullmatch(url)
    port = int(found["port"] or (TLS_PORT if found["tls"] else PORT)) if found else 0
    if found is None or not 0 < port < 65536 or (found["tls"] and found["transport"] == "udp"):
        raise _wrong(
            url, "a TURN server", "write it as turn:HOST:3478, turn:HOST:3478?transport=tcp or turns:HOST"
        )
    tls = bool(found["tls"])
    transport: Literal["udp", "tcp"] = "tcp" if tls or found["transport"] == "tcp" else "udp"
    return Relay(found["host"].strip("[]"), port, transport, tls, username, password)


def _wrong(url: str, what: str, hint: str) -> UsageError:
    """What stands before an @ may be a password."""
    if "@" in url:
        shown = re.sub(r":.*@", ":…@", url)
        return UsageError(
            f"{shown!r} is not {what}: its URL holds no user and no password",
            hint="give them with --turn-user and --turn-password-file",
        )
    return UsageError(f"{url!r} is not {what}", hint=hint)
