"""Where the servers listen for others, and by which name they are reached: then both NATS and S3 speak TLS."""

from __future__ import annotations

import ipaddress
import re
import socket

import msgspec

from transfer.errors import UsageError
from transfer.local.folder import Folder, write_private

ANY = "0.0.0.0"
LOOPBACK_ONLY = "loopback"
"""What `--listen` is told to let nobody in any more."""
_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_IPV4_ONLY = "name an IPv4 address of this machine, or a host name that has one"


class Listening(msgspec.Struct, frozen=True):
    """host: an IPv4 address of this machine, or 0.0.0.0. name: a host name or IPv4 address that clients dial."""

    host: str
    name: str

    @property
    def near(self) -> str:
        """An address at which this machine itself finds them."""
        return "127.0.0.1" if self.host == ANY else self.host


def chosen(listen: str | None, advertise: str | None, before: Listening | None = None) -> Listening | None:
    """What the options of `xfer up` mean; None: on loopback only, without TLS. Raises UsageError.

    before: of the run before this one; it goes on for whoever says nothing else, for others rely on it.
    """
    if listen is None and before is not None:
        if not _is_ours(before.host):
            raise UsageError(
                f"the servers listened at {before.host}, which is no address of this machine any more",
                hint=f"name another with --listen, or let nobody in with --listen {LOOPBACK_ONLY}",
            )
        listen, advertise = before.host, advertise or before.name
    if listen in (None, LOOPBACK_ONLY):
        if advertise is not None:
            raise UsageError(
                "--advertise says how others reach what --listen opens",
                hint="give --listen, too, with an address of this machine",
            )
        return None
    if "://" in listen:
        raise UsageError(
            "--listen takes an address or a host name: what others can reach always speaks TLS",
            hint=f"leave out {listen.partition('://')[0]}://, and the port, which is chosen",
        )
    host = _address(listen)
    if host == ANY and advertise is None:
        raise UsageError(
            f"clients cannot dial {listen}",
            hint="add --advertise with the name or address that they shall use",
        )
    name = advertise or listen
    if not _NAME.fullmatch(name) or name == ANY:
        raise UsageError(f"{name!r} is neither a host name nor an IPv4 address", hint=_IPV4_ONLY)
    return Listening(host, name)


def remember(folder: Folder, listening: Listening | None) -> None:
    """For commands that need it while the servers run, and after."""
    if listening is None:
        folder.listening.unlink(missing_ok=True)
    else:
        write_private(folder.listening, msgspec.json.encode(listening))


def remembered(folder: Folder) -> Listening | None:
    """That of the run that is on, or else of the last one."""
    try:
        return msgspec.json.decode(folder.listening.read_bytes(), type=Listening)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; a name other than localhost counts as one that others may reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(listen: str) -> str:
    """The first of its IPv4 addresses that is ours."""
    try:
        found = socket.getaddrinfo(listen, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"--listen: {listen!r} has no IPv4 address", hint=_IPV4_ONLY) from None
    for _family, _kind, _protocol, _name, place in found:
        host = str(place[0])
        if _is_ours(host):
            return host
    raise UsageError(
        f"--listen: {listen} is no address of this machine",
        hint="name one of its own, and with --advertise the one that others use",
    )


def _is_ours(host: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as attempt:
        try:
            attempt.bind((host, 0))
        except OSError:
            return False
    return True
