"""Turns at making small files: one thread at a time where that is work, several where it is waiting."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from transfer import handles
from transfer.handles import Turns

SOON = 10.0


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_work_is_done_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        handles, "BUSY", 0.0
    )  # on a machine that is busy with other things, work looks like waiting
    turns, inside, most = Turns(), 0, 0
    lock = threading.Lock()

    def work(_number: int) -> None:
        nonlocal inside, most
        with turns.take():
            with lock:
                inside += 1
                most = max(most, inside)
            compute(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(9)))
    assert most == 1


def test_who_waited_once_is_joined_by_others() -> None:
    turns, together = Turns(), threading.Barrier(2, timeout=SOON)

    def meet(_number: int) -> None:
        with turns.take():
            together.wait()

    with turns.take():
        time.sleep(0.05)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(meet, range(2)))
