"""How an invite becomes a context: tried first, saved then."""

from __future__ import annotations

import contextlib
import re
import ssl
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from transfer import bus, config
from transfer.broker_client import FIRST_CONTACT, BrokerClient, Patience
from transfer.errors import DestinationExists, NotAllowed, Temporary, UntrustedServer, XferError
from transfer.invite import Invite
from transfer.local.folder import write_private
from transfer.local.listening import is_loopback


class Joined(msgspec.Struct, frozen=True):
    """context: its name. trouble: why no broker answers there just now, None if one does."""

    context: str
    user: str
    nats_url: str
    current: bool
    trouble: str | None


async def join(invite: Invite, name: str | None = None) -> Joined:
    """Log in as the invite says, and if that works, save it as a context; its secrets go to 0600 files beside it.

    name: of the context; default: the server's.
    Raises:
        NotAllowed: the user was removed, or has another key by now.
        UntrustedServer: the server is not the one that the invite is for.
        BusUnreachable: it does not answer. UsageError: a name that cannot be one.
        DestinationExists: there is a context of that name for other servers, or for another user.
    """
    name = name or re.sub(r"[^A-Za-z0-9_.-]", "-", invite.host)[:64]
    old = config.contexts().get(name)
    if old is not None and (old.nats_url, old.user) != (invite.url, invite.user):
        raise DestinationExists(
            f"there is a context {name} already, for user {old.user} at {old.public_url}",
            hint="choose another name with --name",
        )
    hosts = [urlsplit(url).hostname or "" for url in invite.url.split(",")]
    if invite.ca is None and not all(map(is_loopback, hosts)):
        raise UntrustedServer(f"that invite names no authority that vouches for {invite.host}")
    config.check_name(name)
    folder = config.config_dir() / "credentials"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as trial:
            tried = _context(invite, name, old, Path(trial))
            config.check(tried)
            trouble = await _try(tried)
        config.add(_context(invite, name, old, folder))
    except OSError as error:
        raise XferError(
            f"{folder} cannot be written: {error.strerror}", hint="mend its permissions"
        ) from None
    return Joined(name, invite.user, invite.url, config.current() == name, trouble)


def _context(invite: Invite, name: str, old: config.Context | None, folder: Path) -> config.Context:
    """Writes what it names."""
    seed, ca = folder / f"{name}.nk", folder / f"{name}.pem"
    write_private(seed, invite.seed.encode() + b"\n")
    if invite.ca is not None:
        write_private(ca, ssl.DER_cert_to_PEM_cert(invite.ca).encode())
    return config.Context(
        name=name,
        nats_url=invite.url,
        nats_creds=seed,
        ca=ca if invite.ca is not None else None,
        user=invite.user,
        stun=old.stun if old else [],
        turn=old.turn if old else [],
    )


async def _try(context: config.Context) -> str | None:
    """Log in, and ask the broker how it is; returns what is wrong there for now."""
    try:
        client = await bus.connect(
            context.nats_url, context.nats_creds, context.user, "xfer join", ca=context.ca
        )
    except NotAllowed:
        raise NotAllowed(
            f"the server does not let user {context.user} in with this invite: the user was removed, or has a new key",
            hint="ask for a new invite",
        ) from None
    try:
        await BrokerClient(client, context.user, Patience(FIRST_CONTACT), ca=context.ca).info()
    except Temporary as error:
        return error.what
    finally:
        with contextlib.suppress(Exception):  # whatever a dying connection says, we are done with it
            await client.close()
    return None
