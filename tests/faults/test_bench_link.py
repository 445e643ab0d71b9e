"""The link that the bench measures over: its rate, its delay and its loss are what it says (root, a C compiler)."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.benchmarks.rig import stream
from scripts.benchmarks.rig.link import CLIENT, SERVER, Link, Namespace, Shape, build, namespace, why_not

SO_RCVBUFFORCE = 33
"""Source: Linux, asm-generic/socket.h."""
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
"""Source: Linux, include/uapi/linux/in.h."""
OWNER = """
import subprocess, sys
link = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
assert link.stdout.readline() == "ready\\n"
print(link.pid, flush=True)
link.wait()
"""
pytestmark = [pytest.mark.root, pytest.mark.long]


@contextlib.contextmanager
def linked(
    shape: Shape, folder: Path, congestion: str = "cubic"
) -> Iterator[tuple[Namespace, Namespace, Link]]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    name = f"xfer-test-{os.getpid()}"
    with namespace(f"{name}-a", congestion) as a, namespace(f"{name}-b", congestion) as b:
        link = Link(shape, a, b, build(folder))
        try:
            yield a, b, link
        finally:
            link.close()


def test_one_connection_fills_the_link_and_no_more(tmp_path: Path) -> None:
    shape = Shape("test", 100e6, 0.010)
    with linked(shape, tmp_path) as (a, b, link):
        size = int(shape.payload * 2)
        for sender, receiver, address in ((a, b, SERVER), (b, a, CLIENT)):
            took = stream.seconds(sender, receiver, address, size)
            assert 0.8 < size / took / shape.payload <= 1.0
    assert link.counters["a_to_b"]["lost"] == link.counters["b_to_a"]["lost"] == 0


@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
def test_a_connection_takes_one_round_trip_and_its_namespaces_congestion_control(
    tmp_path: Path, congestion: str
) -> None:
    with linked(Shape("test", 50e6, 0.080), tmp_path, congestion) as (a, b, _):
        assert stream.congestion(a, b, SERVER) == congestion
        assert stream.congestion(a, a, "127.0.0.1") == congestion
        with b.inside(), socket.create_server((SERVER, 0)) as server, a.inside():
            took = []
            for _ in range(5):
                started = time.perf_counter()
                socket.create_connection(server.getsockname()).close()
                took.append(time.perf_counter() - started)
        assert 0.080 <= min(took) < 0.090


def test_loss_is_its_share_and_a_full_queue_drops_its_tail(tmp_path: Path) -> None:
    shape = Shape("test", 20e6, 0.010, loss=5.0)
    with (
        linked(shape, tmp_path) as (a, b, link),
        b.inside(),
        socket.socket(type=socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((SERVER, 0))
        receiver.settimeout(0.5)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        address = receiver.getsockname()
        with a.inside(), socket.socket(type=socket.SOCK_DGRAM) as sender:
            for number in range(4000):
                sender.sendto(bytes(100), address)
                if number % 40 == 39:  # 6.5 ms at this rate
                    time.sleep(0.007)
            paced = _arrived(receiver)
            for _ in range(1000):
                sender.sendto(bytes(1000), address)
            burst = _arrived(receiver)
    assert 0.93 < paced / 4000 < 0.97
    assert burst < shape.queue / 1066 + 20, "more than the queue holds"
    assert link.counters["a_to_b"]["dropped"] > 800


def test_packets_arrive_out_of_order_and_twice_as_often_as_the_link_says(tmp_path: Path) -> None:
    shape = Shape("test", 20e6, 0.010, reorder=10.0, duplicate=5.0)
    with (
        linked(shape, tmp_path) as (a, b, link),
        b.inside(),
        socket.socket(type=socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((SERVER, 0))
        receiver.settimeout(0.5)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        _send_numbers(a, receiver.getsockname(), 4000)
        numbers = _numbers(receiver)
    assert set(numbers) == set(range(4000)), "none is lost"
    assert 0.04 < (len(numbers) - 4000) / 4000 < 0.06
    highest = itertools.accumulate(numbers, max)
    late = sum(number < most for number, most in zip(numbers, highest, strict=True))
    assert 0.11 < late / 4000 < 0.17, "those held back, and the duplicates"
    assert 300 < link.counters["a_to_b"]["reordered"] < 500


def test_a_link_carries_no_packet_above_its_mtu(tmp_path: Path) -> None:
    with (
        linked(Shape("test", 20e6, 0.010, mtu=1280), tmp_path) as (a, _, _),
        a.inside(),
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sender.sendto(bytes(1280 - 28), (SERVER, 9))
        with pytest.raises(OSError, match="too long"):
            sender.sendto(bytes(1280 - 27), (SERVER, 9))


def test_a_link_whose_owner_is_killed_ends_too(tmp_path: Path) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    name = f"xfer-test-{os.getpid()}"
    with namespace(f"{name}-a", "cubic") as a, namespace(f"{name}-b", "cubic") as b:
        words = [str(build(tmp_path)), a.path, b.path, "1e6", "1000", "10000", "0", "0", "0", "1"]
        owner = subprocess.Popen([sys.executable, "-c", OWNER, *words], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        link = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{link}/cmdline").exists() and Path(f"/proc/{link}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _send_numbers(where: Namespace, address: tuple[str, int], count: int) -> None:
    with where.inside(), socket.socket(type=socket.SOCK_DGRAM) as sender:
        for number in range(count):
            sender.sendto(number.to_bytes(4, "big"), address)
            if number % 40 == 39:
                time.sleep(0.002)


def _numbers(receiver: socket.socket) -> list[int]:
    numbers = []
    with contextlib.suppress(TimeoutError):
        while got := receiver.recv(2000):
            numbers.append(int.from_bytes(got, "big"))
    return numbers


def _arrived(receiver: socket.socket) -> int:
    count = 0
    with contextlib.suppress(TimeoutError):
        while receiver.recv(2000):
            count += 1
    return count
