"""Who may log in to the local NATS: added, removed, given a new key, while the servers run and while they do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import time
from pathlib import Path

import msgspec

from transfer import bus
from transfer.config import USER
from transfer.errors import (
    BusUnreachable,
    DestinationExists,
    NotAllowed,
    NotConfigured,
    UsageError,
    XferError,
)
from transfer.invite import Invite
from transfer.local import credentials, listening, nats, ports
from transfer.local.children import living
from transfer.local.folder import Folder
from transfer.permissions import BROKER

IN_FORCE_WITHIN = 20.0
"""Seconds in which a running NATS has read a change, or one that is just being started again is back."""
_TRY_EVERY = 0.2
_RESERVED = {
    BROKER: "the broker logs in as that user",
    credentials.LOCAL: "`xfer up` itself uses that user",
}


class User(msgspec.Struct, frozen=True):
    """since: when its key was made, seconds since 1970; None if its seed file is gone. seed: that file."""

    name: str
    nkey: str
    since: float | None
    seed: str


def listed(folder: Folder) -> list[User]:
    """All of them by name, those of the servers' own included. Raises NotConfigured."""
    folder.check_made()
    found = []
    for name, public in sorted(credentials.users(folder).items()):
        seed, since = folder.seed(name), None
        with contextlib.suppress(OSError):
            since = seed.stat().st_mtime
        found.append(User(name, public, since, str(seed)))
    return found


async def add(folder: Folder, name: str) -> bool:
    """Let a user in. Returns whether the servers run, and have let it in; else they will once they start.

    Raises:
        NotConfigured: no servers ever were in that folder.
        UsageError: that name cannot be given to anybody.
        DestinationExists: there is such a user.
        BusUnreachable: the servers run, but have not read the change in IN_FORCE_WITHIN seconds.
    """
    _check(name)
    if name.startswith("-"):
        raise UsageError(
            f"{name!r} would be taken for an option wherever it is typed",
            hint="begin it with a letter, a digit or `_`",
        )
    folder.check_made()
    with credentials.changing(folder):
        known = credentials.users(folder)
        if name in known:
            raise DestinationExists(
                f"there is a user {name} already",
                hint=f"`xfer invite {name}` invites it again, `xfer user rotate {name}` gives it a new key",
            )
        for other in known:
            if other.lower() == name.lower():  # their seed files would be one on some file systems
                raise UsageError(f"{name} differs from the user {other} in letter case only")
        credentials.new_key(folder, name)
        credentials.write_removed(folder, credentials.removed(folder) - {name})
    return await _in_force(folder, name, folder.seed(name), welcome=True)


async def rotate(folder: Folder, name: str) -> bool:
    """Give a user a new key; whoever is logged in with the old one is thrown out. Returns and raises as `add`."""
    if name == BROKER:
        raise UsageError(f"{name} is reserved: {_RESERVED[name]}", hint="its key never leaves this folder")
    folder.check_made()
    _known(folder, name)
    with credentials.changing(folder):
        _known(folder, name)
        credentials.new_key(folder, name)
    return await _in_force(folder, name, folder.seed(name), welcome=True)


async def remove(folder: Folder, name: str) -> bool:
    """Let a user in no more; whoever is logged in as it is thrown out. Its jobs stay until they expire.

    Returns and raises as `add`.
    """
    _check(name)
    folder.check_made()
    _known(folder, name)
    gone = folder.seed(f".{name}-removed")  # kept until it is seen to open nothing
    with credentials.changing(folder):
        known = _known(folder, name)
        del known[name]
        credentials.write_users(folder, known)
        credentials.write_removed(folder, credentials.removed(folder) | {name})
        try:
            folder.seed(name).replace(gone)
            proof: Path | None = gone
        except FileNotFoundError:
            proof = None
    try:
        return await _in_force(folder, name, proof, welcome=False)
    finally:
        gone.unlink(missing_ok=True)


async def invite(folder: Folder, name: str) -> Invite:
    """What lets a user in, with the key that it has; one that never was there is added.

    Raises as `add`; NotConfigured if the servers have never run: nothing says where they are; UsageError for a user that
    was removed: that is taken back by `add` only.
    """
    _check(name)
    block = ports.remembered(folder.ports)
    if block is None:
        raise NotConfigured(
            f"nothing says where the servers in {folder.root} are",
            hint="start them with `xfer up --listen HOST`",
        )
    if name not in credentials.users(folder):
        if name in credentials.removed(folder):
            raise UsageError(
                f"user {name} was removed, and an invite does not take that back",
                hint=f"`xfer user add {name}` lets it in again, with a new key",
            )
        await add(folder, name)
    where = listening.remembered(folder)
    try:
        seed = folder.seed(name).read_text().strip()
        ca = ssl.PEM_cert_to_DER_cert(folder.authority.read_text()) if where else None
    except OSError as error:
        raise XferError(
            f"{error.filename} cannot be read: {error.strerror}",
            hint=f"make it anew: `xfer user rotate {name}`",
        ) from None
    return Invite(nats.url(block, where), name, seed, ca)


def _check(name: str) -> None:
    if not USER.fullmatch(name):
        raise UsageError(f"{name!r} cannot be a user on the bus", hint="use letters, digits, `-` and `_`")
    if name in _RESERVED:
        raise UsageError(f"{name} is reserved: {_RESERVED[name]}", hint="choose another name")


def _known(folder: Folder, name: str) -> dict[str, str]:
    known = credentials.users(folder)
    if name not in known:
        raise UsageError(f"there is no user {name!r}", hint="see `xfer user ls`")
    return known


async def _in_force(folder: Folder, name: str, seed: Path | None, *, welcome: bool) -> bool:
    """Have a running NATS read who may log in, until it does what it should with that seed. False: none runs.

    seed: None where nobody has it, so that there is nothing to try.
    """
    url = _write_config(folder)
    if url is None:
        return False
    deadline = time.monotonic() + IN_FORCE_WITHIN
    told: int | None = None
    while True:
        pid = living(folder, "nats")
        if pid is not None and pid != told:  # one that has just been started may have read the file before
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
            told = pid
        if seed is None:
            return True
        with contextlib.suppress(BusUnreachable):
            if await _let_in(folder, url, name, seed) == welcome:
                return True
        if folder.holder() is None:
            return False
        if time.monotonic() > deadline:
            raise BusUnreachable(
                f"the local NATS has not read the change of user {name} in {IN_FORCE_WITHIN:g} s",
                hint=f"look into {folder.log('nats')}; the change holds at the latest when it starts again",
            )
        await asyncio.sleep(_TRY_EVERY)


def _write_config(folder: Folder) -> str | None:
    """Returns where NATS is; None if the servers do not run. They write the file themselves when they start."""
    with credentials.changing(folder):
        block = ports.remembered(folder.ports)
        if folder.holder() is None or block is None:
            return None
        where = listening.remembered(folder)
        nats.write_config(folder, block, credentials.users(folder), where)
    return nats.url(block, where)


async def _let_in(folder: Folder, url: str, name: str, seed: Path) -> bool:
    ca = folder.authority if url.startswith("tls:") else None
    try:
        client = await bus.connect(url, seed, name, "xfer user", ca=ca)
    except NotAllowed:
        return False
    await client.close()
    return True
