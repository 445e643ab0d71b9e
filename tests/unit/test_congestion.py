"""When a connection changes over to BBR: for loss without a queue, and for nothing else."""

from __future__ import annotations

import socket
import sys
from typing import cast

import pytest

from transfer.transports.s3.congestion import _LENGTH, LOOKS, NetworkPath, Watch

TRIP, QUEUED = 40_000, 78_000
"""Microseconds: the shortest round trip, and one with a full queue in it."""


def looks(*rows: tuple[int, int]) -> bool:
    """What the last look says. rows: round trip, and segments sent again so far."""
    path = NetworkPath()
    one = Watch(socket.socket(), path)
    return [one.lost_on_the_way(again, queue=path.saw(trip, TRIP)) for trip, again in rows][-1]


def test_a_few_lost_again_and_again_at_the_shortest_round_trip_are_lost_on_the_way() -> None:
    assert looks(*((TRIP, 2 * at) for at in range(LOOKS + 1)))
    assert looks(*((TRIP + 1500, at // 2) for at in range(2 * LOOKS)))


def test_nothing_is_decided_after_few_looks() -> None:
    assert not looks(*((TRIP, 2 * at) for at in range(LOOKS - 1)))


def test_what_a_full_queue_drops_is_none_however_much_it_is() -> None:
    assert not looks(*((QUEUED, 3 * at) for at in range(100)))


def test_what_overflowed_and_is_sent_again_later_is_none() -> None:
    assert not looks(*((TRIP, 200 * (at // 5)) for at in range(100)))


def test_losses_that_are_rare_are_left_to_the_system() -> None:
    assert not looks(*((TRIP, at // 5) for at in range(100)))


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's here")
def test_a_real_connection_without_loss_keeps_its_congestion_control() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
    ):
        other, _ = server.accept()
        with other:
            before = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            watched = Watch(one, NetworkPath())
            for _ in range(300):
                one.sendall(b"x" * 2000)
                other.recv(1 << 16)
                watched.look()
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) == before
            assert len(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)) == _LENGTH


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's here")
def test_where_loss_shows_bbr_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
    ):
        watched, looked = Watch(one, NetworkPath()), []
        monkeypatch.setattr(watched, "lost_on_the_way", lambda *facts, **_: looked.append(facts) or True)
        watched.look()
        watched.look()
        assert len(looked) == 1
        try:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pytest.skip("this kernel has no BBR for us")
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"bbr"


def test_a_socket_that_tells_nothing_is_left_alone() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        Watch(datagrams, NetworkPath()).look()
        Watch(datagrams, NetworkPath()).look()


def test_a_link_is_full_while_most_round_trips_have_a_queue_in_them() -> None:
    path = NetworkPath()
    assert not path.full()
    for trip in (TRIP, QUEUED, QUEUED):
        path.saw(trip, TRIP)
    assert path.full()
    assert path.full(), "nobody has looked since"
    for trip in (TRIP, TRIP, QUEUED):
        path.saw(trip, TRIP)
    assert not path.full()


def test_what_connected_while_a_queue_stood_takes_it_for_no_shortest_way() -> None:
    path = NetworkPath()
    path.saw(TRIP, TRIP)
    assert path.saw(QUEUED, QUEUED)
    assert path.shortest == TRIP


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]


def control(one: socket.socket) -> bytes:
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_CONGESTION is Linux's")
@pytest.mark.parametrize(("shortest", "hurries"), [(TRIP, True), (100, False)], ids=["far", "near"])
def test_the_last_at_work_get_bbr_where_the_way_is_long(shortest: int, hurries: bool) -> None:
    path = NetworkPath()
    one, other = pair()
    with one, other:
        try:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pytest.skip("this kernel has no BBR for us")
        watch = Watch(one, path)
        path.saw(shortest, shortest)
        path.hurry()
        assert control(one) == (b"bbr" if hurries else b"reno")
        del watch
        path.hurry()  # what is closed and gone is none of its business


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_CONGESTION is Linux's")
@pytest.mark.parametrize(("shortest", "hurries"), [(TRIP, True), (100, False)], ids=["far", "near"])
def test_connections_that_are_made_while_the_way_is_hurried_get_bbr_at_their_first_look(
    monkeypatch: pytest.MonkeyPatch, *, shortest: int, hurries: bool
) -> None:
    path = NetworkPath()
    monkeypatch.setattr(path, "saw", lambda _trip, _own: False)  # what loopback tells is no news
    one, other = pair()
    with one, other:
        try:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pytest.skip("this kernel has no BBR for us")
        path.hurry()
        path.shortest = shortest
        Watch(one, path).look()
        assert control(one) == (b"bbr" if hurries else b"reno")


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_CONGESTION is Linux's")
def test_when_one_of_the_last_has_ended_the_others_look_for_their_rate_from_the_start() -> None:
    asked: list[bytes] = []

    class Told:
        def setsockopt(self, _level: int, _option: int, value: bytes) -> None:
            asked.append(value)

    path = NetworkPath()
    watch = Watch(cast("socket.socket", Told()), path)
    path.saw(TRIP, TRIP)
    path.hurry()
    path.hurry()
    assert asked == [b"bbr"]
    path.hurry(anew=True)
    assert asked == [b"bbr", b"reno", b"bbr"], "the same once more would leave it as it is"
    path.saw(100, 100)
    path.hurry(anew=True)
    assert len(asked) == 3, "the way is short"
    del watch


def test_a_way_that_nobody_has_seen_is_not_hurried() -> None:
    NetworkPath().hurry()
