"""Contexts: where the servers are and who we are there.

A TOML file for people, kept 0600: it may hold TURN passwords.
"""

from __future__ import annotations

import base64
import getpass
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import platformdirs

from transfer.errors import NotConfigured, UntrustedServer, UsageError
from transfer.ice_urls import IceServers, parse_stun, parse_turn
from transfer.tomlfile import TomlFile

USER = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A user is one token of a NATS subject and part of an inbox prefix."""
CONTEXT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NAMELESS = "environment"
"""What a context is called that only variables make."""
NATS_SCHEMES = ("nats", "tls", "ws", "wss")
TLS_SCHEMES = ("tls", "wss")


class Turn(msgspec.Struct, frozen=True):
    """A TURN relay. url: `turn:host:port?transport=udp` or `turns:…` (RFC 7065)."""

    url: str
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Turn({self.url}, password withheld)"


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One set of servers.

    nats_url: `nats://host:port`, also tls, ws, wss; several servers of one cluster are separated by commas.
    nats_creds: a NATS .creds file or a bare nkey seed
    file; None: the URL is enough. user: the token that the server pins in our subjects. stun:
    `stun:host:port` (RFC 7064). ca: PEM file of the authorities that may vouch for NATS and for the store, and
    no others; None: those of the system.
    """

    name: str
    nats_url: str
    nats_creds: Path | None = None
    ca: Path | None = None
    user: str
    stun: list[str] = []
    turn: list[Turn] = []

    def ice(self, interfaces: Sequence[str]) -> IceServers:
        """What helps two ends to meet. interfaces: as of `IceServers`."""
        turn = [(relay.url, relay.username, relay.password) for relay in self.turn]
        return IceServers(list(self.stun), turn, list(interfaces))

    @property
    def public_url(self) -> str:
        """nats_url without the password or token that may stand in it."""
        return re.sub(r"//[^/]*@", "//", self.nats_url)


class _File(msgspec.Struct):
    current: str | None = None
    contexts: dict[str, dict[str, Any]] = {}


def config_dir() -> Path:
    """`$XFER_HOME/config`, else what the platform calls a user's config folder. It may not exist yet."""
    home = os.environ.get("XFER_HOME")
    return Path(home, "config") if home else platformdirs.user_config_path("xfer", appauthor=False)


def to_trust(ca: Path | None) -> str:
    """What to do about a server that nobody who is trusted vouches for. ca: who was; None: the system's authorities."""
    if ca is None:
        return (
            "if an authority of your own vouches for it, name its certificate with --ca (XFER_CA);"
            " if a public one should, somebody may stand between"
        )
    if config_dir() / "credentials" in ca.parents:  # where `xfer join` puts what an invite names
        return UntrustedServer.hint
    return (
        f"see whether {ca} holds the authority that vouches for it now (--ca, XFER_CA);"
        " if nothing was changed there, somebody stands between"
    )


def state_dir() -> Path:
    """`$XFER_HOME/state`, else the platform's folder for state that outlives a run. It may not exist yet."""
    home = os.environ.get("XFER_HOME")
    return Path(home, "state") if home else platformdirs.user_state_path("xfer", appauthor=False)


_FILE = TomlFile(_File, "contexts", config_dir)


def load(name: str | None = None, *, environ: Mapping[str, str] | None = None) -> Context:
    """The context to use: `name`, else XFER_CONTEXT, else NATS_URL with NATS_CREDS, else the current one.

    NATS_URL, NATS_CREDS, XFER_CA and XFER_USER also override the fields of a context that was chosen.
    environ: read instead of the process's environment.

    Raises:
        NotConfigured: nothing says where the servers are.
        UsageError: there is no context of that name, one of its fields makes no sense, or nothing says who we are.
    """
    env = os.environ if environ is None else environ
    url, creds_name = env.get("NATS_URL"), env.get("NATS_CREDS")
    creds = Path(creds_name).expanduser() if creds_name else None
    ca = Path(env["XFER_CA"]).expanduser() if env.get("XFER_CA") else None
    file = _FILE.read()
    chosen = name or env.get("XFER_CONTEXT") or (None if url else file.current)
    if chosen:
        base = _context(file, chosen)
        user = env.get("XFER_USER") or (creds and _jwt_name(creds)) or base.user
        found = Context(
            name=base.name,
            nats_url=url or base.nats_url,
            nats_creds=creds or base.nats_creds,
            ca=ca or base.ca,
            user=user,
            stun=base.stun,
            turn=base.turn,
        )
    elif url:
        user = env.get("XFER_USER") or user_of(creds, url)
        found = Context(name=NAMELESS, nats_url=url, nats_creds=creds, ca=ca, user=user)
    else:
        raise NotConfigured("nothing says where the servers are")
    check(found)
    return found


def contexts() -> dict[str, Context]:
    """All saved contexts by name, in the order of the file."""
    file = _FILE.read()
    return {name: _context(file, name) for name in file.contexts}


def current() -> str | None:
    """The name of the context that is used when nothing else says which."""
    return _FILE.read().current


def add(context: Context, *, make_current: bool = False) -> Context | None:
    """Save a context; the first one becomes current in any case. Returns the one it replaced.

    Raises UsageError for a name, URL or user that cannot work.
    """
    check(context)
    with _FILE.changing() as file:
        old = _context(file, context.name) if context.name in file.contexts else None
        fields = msgspec.to_builtins(context, enc_hook=str)
        del fields["name"]
        file.contexts[context.name] = {key: value for key, value in fields.items() if value is not None}
        if make_current or file.current not in file.contexts:
            file.current = context.name
    return old


def use(name: str) -> None:
    """Make a saved context the current one. Raises UsageError if there is none of that name."""
    with _FILE.changing() as file:
        _context(file, name)
        file.current = name


def remove(name: str) -> None:
    """Forget a context; if it was current, none is afterwards. Raises UsageError if there is none such."""
    with _FILE.changing() as file:
        _context(file, name)
        del file.contexts[name]
        if file.current == name:
            file.current = None


def user_of(creds: Path | None, nats_url: str) -> str:
    """Who we are on the bus unless told: the name in a .creds file, or that in the address; without any, the system's.

    Raises UsageError for a bare seed: the server knows whose it is, and does not say.
    """
    if creds is not None:
        name = _jwt_name(creds)
        if name is None:
            raise UsageError(
                f"the seed in {creds} does not say who you are on the bus",
                hint="name the user in XFER_USER, or with --user of `xfer context add`",
            )
        return name
    named = urlsplit(nats_url.split(",")[0]).username
    return _sanitise(named or _account())


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no account for this uid: common in containers
        return "user"


def _jwt_name(creds: Path) -> str | None:
    """The `name` claim of the JWT in a .creds file; None for a bare seed. Source: NATS ADR-14."""
    try:
        text = creds.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the credentials file {creds} cannot be read: {error}", hint="check NATS_CREDS or the context"
        ) from None
    found = re.search(r"BEGIN NATS USER JWT-+\s+([\w-]+)\.([\w-]+)\.", text)
    if found is None:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4)))
    except ValueError:
        return None
    name = claims.get("name") if isinstance(claims, dict) else None
    return _sanitise(name) if isinstance(name, str) and name else None


def _sanitise(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "user"


def check_name(name: str) -> None:
    """Of a context; files beside it are called so. Raises UsageError."""
    if not CONTEXT_NAME.fullmatch(name) or not name.strip("."):
        raise UsageError(
            f"{name!r} cannot name a context",
            hint="use up to 64 letters, digits, `-`, `_` and `.`, and not dots alone",
        )


def check(context: Context) -> None:
    """Raises UsageError for a name, URL or user that cannot work."""
    check_name(context.name)
    if not _is_nats_url(context.nats_url):
        raise UsageError(
            f"{context.public_url!r} is not the address of a NATS server", hint="write it as nats://HOST:4222"
        )
    if context.ca is not None and any(
        urlsplit(each).scheme not in TLS_SCHEMES for each in context.nats_url.split(",")
    ):
        raise UsageError(
            f"{context.public_url} is not spoken to over TLS, so that no authority can vouch for it",
            hint="write the address as tls://HOST:4222, or leave out the authority (--ca, XFER_CA)",
        )
    if not USER.fullmatch(context.user):
        raise UsageError(
            f"{context.user!r} cannot be a user on the bus", hint="use letters, digits, `-` and `_`"
        )
    for url in context.stun:
        parse_stun(url)
    for turn in context.turn:
        parse_turn(turn.url, turn.username, turn.password)


def _is_nats_url(url: str) -> bool:
    try:
        servers = [urlsplit(each) for each in url.split(",")]
        fine = all(s.scheme in NATS_SCHEMES and s.hostname and s.port != 0 for s in servers)
    except ValueError:  # brackets that do not match, a port that is no number
        return False
    return fine and len({s.scheme in ("ws", "wss") for s in servers}) == 1  # the client speaks one of the two


def _context(file: _File, name: str) -> Context:
    fields = file.contexts.get(name)
    if fields is None:
        raise UsageError(f"there is no context {name!r}", hint="see `xfer context ls`")
    try:
        return msgspec.convert({**fields, "name": name}, Context, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the context {name!r} in {_FILE.path} is wrong: {error}", hint="mend it there"
        ) from None
