"""When a connection changes over to BBR: for loss without a queue, and for nothing else."""

from __future__ import annotations

import socket
import sys

import pytest

from transfer.transports.s3.congestion import _LENGTH, Watch

TRIP, QUEUED = 40_000, 78_000
"""Microseconds: the shortest round trip, and one with a full queue in it."""


def watch() -> Watch:
    return Watch(socket.socket())


def looks(trip: int, *rows: tuple[int, int]) -> bool:
    """What the last look says. rows: segments sent again, and data segments, so far."""
    one = watch()
    said = [one.lost_on_the_way(trip, again, TRIP, segments) for again, segments in rows]
    return said[-1]


def test_one_in_a_hundred_lost_at_the_shortest_round_trip_is_loss_on_the_way() -> None:
    assert looks(TRIP, (0, 100), (2, 200), (4, 400))
    assert looks(TRIP + 1500, (0, 100), (2, 200), (4, 400))


def test_what_a_full_queue_drops_is_none_however_much_it_is() -> None:
    assert not looks(QUEUED, (0, 100), (40, 400), (400, 4000))


def test_what_a_full_queue_dropped_is_not_counted_later_when_the_queue_is_short() -> None:
    one = watch()
    assert not one.lost_on_the_way(QUEUED, 400, TRIP, 2000)
    assert not one.lost_on_the_way(TRIP, 400, TRIP, 4000)
    assert not one.lost_on_the_way(TRIP, 402, TRIP, 6000)


@pytest.mark.parametrize(("again", "segments"), [(2, 150), (2, 250), (5, 5000)])
def test_few_segments_few_losses_and_a_small_share_decide_nothing(again: int, segments: int) -> None:
    assert not looks(TRIP, (0, 0), (again, segments))


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's here")
def test_a_real_connection_without_loss_keeps_its_congestion_control() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as one,
    ):
        other, _ = server.accept()
        with other:
            before = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            watched = Watch(one)
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
        watched, looked = Watch(one), []
        monkeypatch.setattr(watched, "lost_on_the_way", lambda *facts: looked.append(facts) or True)
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
        Watch(datagrams).look()
        Watch(datagrams).look()
