"""One plain TCP connection at full speed: what a link can carry, before any tool."""

from __future__ import annotations

import socket
import threading
import time

from .link import Namespace

BLOCK = bytes(1 << 20)


def seconds(sender: Namespace, receiver: Namespace, address: str, size: int) -> float:
    """How long `size` bytes take from connecting to their last one's arrival. address: the receiver's."""
    with receiver.inside(), socket.create_server((address, 0)) as server:
        arrived: list[float] = []
        reading = threading.Thread(target=_read, args=(server, arrived))
        reading.start()
        started = time.perf_counter()
        with sender.inside():
            connection = socket.create_connection(server.getsockname())
        with connection:
            for at in range(0, size, len(BLOCK)):
                connection.sendall(memoryview(BLOCK)[: size - at])
            connection.shutdown(socket.SHUT_WR)
            reading.join()
    return arrived[0] - started


def congestion(sender: Namespace, receiver: Namespace, address: str) -> str:
    """What control a connection between them really is under, as the kernel tells. address: the receiver's."""
    with (
        receiver.inside(),
        socket.create_server((address, 0)) as server,
        sender.inside(),
        socket.create_connection(server.getsockname()) as connection,
    ):
        used = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return used.rstrip(b"\0").decode()


def _read(server: socket.socket, arrived: list[float]) -> None:
    connection, _ = server.accept()
    buffer = bytearray(1 << 18)
    with connection:
        while connection.recv_into(buffer):
            pass
    arrived.append(time.perf_counter())
