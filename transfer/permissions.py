"""What each user of the bus may say and hear: one function, for our own NATS server and for those of others.

The permissions make a subject's user token an identity: nobody else can write it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping

from transfer.config import USER
from transfer.errors import UsageError

BROKER = "broker"
"""The user that brokers log in as."""
BUCKETS = ("xfer_jobs", "xfer_quota", "xfer_lease", "xfer_rooms")
"""What only brokers write: job records, what users have used, who does what only one may do at a time, rooms."""
ANSWERS = {"max": 1, "expires": "2m"}
"""A broker may publish on the reply subject of a request so often, and for so long after it."""
ACCOUNT = "XFER"
_NKEY = re.compile(r"U[A-Z2-7]{55}")


def permissions(user: str) -> dict[str, object]:
    """As NATS reads them, in its configuration and in a JWT's terms alike."""
    publish, subscribe = subjects(user)
    allowed: dict[str, object] = {"publish": {"allow": publish}, "subscribe": {"allow": subscribe}}
    # Answers to requests; also a KV listing's answers to flow control.
    return allowed | {"allow_responses": dict(ANSWERS)} if user == BROKER else allowed


def subjects(user: str) -> tuple[list[str], list[str]]:
    """Where a user may publish, and what it may subscribe to."""
    if user == BROKER:
        records = [f"$KV.{bucket}.>" for bucket in BUCKETS]
        owed = ["xfer.control.>", "xfer.work.>", "xfer.dead.>", "xfer.pages.>"]
        heard = ["xfer.api.>", "$SRV.>", f"_INBOX_{user}.>", "$KV.xfer_rooms.>", "xfer.pages.>"]
        return ["$JS.API.>", "$JS.ACK.>", *records, *owed], heard
    return (
        [f"xfer.api.{user}.>", "xfer.peer.>", f"xfer.events.{user}.>"],
        [f"_INBOX_{user}.>", *(f"xfer.{what}.{user}.>" for what in ("peer", "events", "control"))],
    )


def parse_users(words: list[str]) -> dict[str, str | None]:
    """`NAME` or `NAME=PUBLIC_NKEY` each; the broker is added where it is missing. Raises UsageError."""
    users: dict[str, str | None] = {}
    for word in words:
        name, given, key = word.partition("=")
        if not USER.fullmatch(name):
            raise UsageError(f"{name!r} cannot be a user on the bus", hint="use letters, digits, `-` and `_`")
        if given and not _NKEY.fullmatch(key):
            raise UsageError(
                f"{key!r} is no public nkey of a user", hint="it starts with U; the seed is never given"
            )
        if name in users:
            raise UsageError(f"user {name} is named twice")
        users[name] = key or None
    return {BROKER: users.pop(BROKER, None), **users}


def config_form(users: Mapping[str, str | None]) -> str:
    """The block for nats-server's configuration. users: name to public nkey; None leaves a variable in its place.

    nats-server takes `$XFER_NKEY_ANN` from its environment, and does not start without it.
    """
    rows = [_row(user, key) for user, key in users.items()]
    return "\n".join(
        [
            "# For nats-server's configuration; it needs `jetstream` on, and TLS beyond loopback.",
            "accounts {",
            f"  {ACCOUNT} {{",
            "    jetstream: enabled",
            "    users: [",
            *rows,
            "    ]",
            "  }",
            "}",
            "",
        ]
    )


def _row(user: str, key: str | None) -> str:
    who = f'"{key}"' if key else "$XFER_NKEY_" + re.sub(r"\W", "_", user).upper()
    return f"      {{ nkey: {who}, permissions: {json.dumps(permissions(user))} }} # {user}"


def nsc_form(users: Mapping[str, str | None]) -> str:
    """The same as commands of `nsc`, for servers that read JWTs; a user's name in the JWT is its name on the bus."""
    lines = [
        "# For servers in operator mode: `nsc` must know their operator. JetStream's limits are yours to set.",
        f"nsc add account --name {ACCOUNT}",
        f"nsc edit account --name {ACCOUNT} --js-mem-storage -1 --js-disk-storage -1",
    ]
    for user, key in users.items():
        lines.append(shlex.join(["nsc", "add", "user", "--account", ACCOUNT, *_nsc_user(user, key)]))
        if key is None:
            made = ["nsc", "generate", "creds", "--account", ACCOUNT, "--name", user]
            lines.append(shlex.join([*made, "--output-file", f"{user}.creds"]))
    return "\n".join([*lines, "nsc push --all", ""])


def _nsc_user(user: str, key: str | None) -> Iterator[str]:
    publish, subscribe = subjects(user)
    yield from ("--name", user)
    if key is not None:
        yield from ("--public-key", key)
    yield from ("--allow-pub", ",".join(publish), "--allow-sub", ",".join(subscribe))
    if user == BROKER:
        yield from (f"--allow-pub-response={ANSWERS['max']}", "--response-ttl", str(ANSWERS["expires"]))
