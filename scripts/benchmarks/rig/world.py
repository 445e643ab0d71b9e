"""One link with servers behind it and everything that is measured over it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import stream
from .link import CLIENT, SERVER, Link, Namespace, Shape, build, namespace, why_not
from .servers import LOCALHOST, Servers


@dataclass(frozen=True)
class World:
    """client: where the tools run. folder: for what they keep, gone with the world. congestion: as the kernel tells.

    counters: of the link, known once the world has ended.
    """

    shape: Shape
    client: Namespace
    servers: Servers
    folder: Path
    congestion: str
    counters: dict[str, Any]

    def stream(self, size: int, way: str) -> float:
        """Seconds that one plain TCP connection takes for that. way: `up` or `down`."""
        here = (self.client, CLIENT if self.shape.rate else LOCALHOST)
        there = (self.servers.where, self.servers.host)
        (sender, _), (receiver, address) = (here, there) if way == "up" else (there, here)
        return stream.seconds(sender, receiver, address, size)


@contextlib.contextmanager
def world(shape: Shape, congestion: str, folder: Path) -> Iterator[World]:
    """Namespaces, the link between them and servers at its far end; all of it ends with the context.

    Loopback has a namespace too, for the sake of its congestion control, where there can be one.
    """
    folder.mkdir()
    counters: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        name = f"xfer-{os.getpid()}-{shape.name}"
        if shape.rate:
            client = stack.enter_context(namespace(f"{name}-a", congestion))
            server = stack.enter_context(namespace(f"{name}-b", congestion))
            link = Link(shape, client, server, build(folder))
            stack.callback(lambda: counters.update(link.counters))
            stack.callback(link.close)
            host = SERVER
        else:
            client = Namespace() if why_not() else stack.enter_context(namespace(name, congestion))
            server, host = client, LOCALHOST
        servers = stack.enter_context(contextlib.closing(Servers(folder / "servers", server, host)))
        used = stream.congestion(client, server, host)
        yield World(shape, client, servers, folder, used, counters)
