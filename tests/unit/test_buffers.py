"""Memory that is used again once nobody has a view of it, and never before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from transfer.buffers import FITS, KEPT, SMALL, Buffers

LENGTH = 1 << 20


def address(view: memoryview) -> int:
    return id(view.obj)


def test_what_is_still_viewed_is_nobody_elses() -> None:
    buffers = Buffers()
    taken = [buffers.take(LENGTH) for _ in range(10)]
    assert len({address(view) for view in taken}) == 10
    for number, view in enumerate(taken):
        view[:] = bytes([number]) * LENGTH
    assert all(view == bytes([number]) * LENGTH for number, view in enumerate(taken))


def test_what_nobody_views_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.take(LENGTH)
    part, was = first[5:7], address(first)
    del first
    other = buffers.take(LENGTH)
    assert address(other) != was, "a part of it is still viewed"
    del part
    assert address(buffers.take(LENGTH)) == was


def test_a_view_is_as_long_as_was_asked_for() -> None:
    buffers = Buffers()
    for length in (LENGTH, LENGTH - 1, int(LENGTH / FITS) + 1, 2 * LENGTH, 1, SMALL, 0):
        assert len(buffers.take(length)) == length


def test_no_more_is_kept_than_its_bound_whatever_is_asked_for() -> None:
    buffers = Buffers()
    for length in (KEPT // 4, KEPT // 10, KEPT // 3, KEPT + 1, KEPT // 2):
        views = [buffers.take(length) for _ in range(12)]
        assert len({address(view) for view in views}) == 12
        del views
        assert sum(map(len, buffers._kept)) == buffers._bytes <= KEPT


def test_many_threads_never_share_one() -> None:
    buffers = Buffers()

    def work(number: int) -> bool:
        for _ in range(200):
            view = buffers.take(SMALL)
            view[:8] = number.to_bytes(8)
            if bytes(view[:8]) != number.to_bytes(8):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
