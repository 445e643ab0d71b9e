"""Ports for one set of local servers: a block of eight, kept from run to run, never shared by two."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from transfer.errors import XferError
from transfer.local.folder import write_private

WIDTH = 8
FIRST, LAST = 10_000, 19_992
"""SeaweedFS also opens port + 10000 for gRPC; both ranges end below 32768, where Linux's own choices begin"""
GRPC = 10_000
LOOPBACK = "127.0.0.1"
TRIES = 200


class Ports(msgspec.Struct, frozen=True):
    """base: the block's first port."""

    base: int

    @property
    def nats(self) -> int:
        return self.base

    @property
    def master(self) -> int:
        return self.base + 1

    @property
    def volume(self) -> int:
        return self.base + 2

    @property
    def filer(self) -> int:
        return self.base + 3

    @property
    def s3(self) -> int:
        return self.base + 4

    @property
    def admin(self) -> int:
        return self.base + 5

    @property
    def guard(self) -> int:
        """Nobody serves here: whoever has it bound owns the block."""
        return self.base + WIDTH - 1

    def all(self) -> list[int]:
        """Every port that the servers will open."""
        weed = [self.master, self.volume, self.filer, self.s3, self.admin]
        return [self.nats, *weed, *(port + GRPC for port in weed)]


@contextlib.contextmanager
def claimed(file: Path, host: str = LOOPBACK) -> Iterator[Ports]:
    """The block that `file` remembers if it is free, else a new one, remembered. Ours until the context ends.

    host: an address on which the ports must be free as well as on loopback.

    Two runs never get the same block at once, whatever they do in between: each keeps its guard bound.
    Raises XferError if no block is free.
    """
    for ports in _candidates(file):
        guard = _bound(ports.guard, exact=True)
        if guard is None:
            continue
        with guard:
            if all(_all_free(ports, each) for each in {LOOPBACK, host}):
                write_private(file, msgspec.json.encode(ports))
                yield ports
                return
    raise XferError(f"no free ports on {host} between {FIRST} and {LAST + WIDTH}", hint="stop what uses them")


def remembered(file: Path) -> Ports | None:
    """The block of the run that is on, or else of the last one; None if there was none."""
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        return msgspec.json.decode(file.read_bytes(), type=Ports)
    return None


def _candidates(file: Path) -> Iterator[Ports]:
    if (last := remembered(file)) is not None:
        yield last
    for _ in range(TRIES):
        yield Ports(FIRST + WIDTH * secrets.randbelow((LAST - FIRST) // WIDTH + 1))


def _all_free(ports: Ports, host: str) -> bool:
    for port in ports.all():
        bound = _bound(port, exact=False, host=host)
        if bound is None:
            return False
        bound.close()
    return True


def _bound(port: int, *, exact: bool, host: str = LOOPBACK) -> socket.socket | None:
    """exact: also refuse a port that another process has bound without listening."""
    attempt = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if not exact and os.name == "posix":  # a server's own sockets in TIME_WAIT do not make its port taken
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        attempt.bind((host, port))
    except OSError:
        attempt.close()
        return None
    return attempt
