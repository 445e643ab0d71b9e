"""Who floods the broker waits for himself: turns, places and refusals by user."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from transfer.broker.fair import Fair


def offered(fair: Fair[str], user: str, count: int) -> list[str]:
    """What was told to come again meanwhile."""
    refused = [fair.offer(user, f"{user}{n}") for n in range(count)]
    return [item for item in refused if item is not None]


def begun(fair: Fair[str]) -> list[str]:
    found = []
    while (turn := fair.next()) is not None:
        found.append(turn[1])
    return found


def test_users_have_turns_however_many_each_has_waiting() -> None:
    fair: Fair[str] = Fair(5, 5, 100)
    offered(fair, "a", 50)
    offered(fair, "b", 2)
    offered(fair, "c", 1)
    assert begun(fair) == ["a0", "b0", "c0", "a1", "b1"]
    for user in "abc":
        fair.done(user)
    assert begun(fair) == ["a2", "a3", "a4"]


def test_no_user_has_all_places_and_those_that_are_left_are_for_others_at_once() -> None:
    fair: Fair[str] = Fair(5, 3, 100)
    offered(fair, "a", 50)
    assert begun(fair) == ["a0", "a1", "a2"]
    offered(fair, "b", 9)
    assert begun(fair) == ["b0", "b1"]
    fair.done("b")
    assert begun(fair) == ["b2"]
    fair.done("a")
    assert begun(fair) == ["a3"]  # whose turn it was


def test_whoever_has_most_waiting_is_told_to_come_again_and_with_his_newest() -> None:
    fair: Fair[str] = Fair(1, 1, 6)
    offered(fair, "a", 1)
    assert begun(fair) == ["a0"]
    assert offered(fair, "a", 8) == ["a6", "a7"]
    assert offered(fair, "b", 2) == ["a5", "a4"]
    assert offered(fair, "c", 3) == ["a3", "a2", "c2"]
    fair.done("a")
    assert begun(fair) == ["a0"]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from("abcdef")), st.tuples(st.just("done"), st.just(""))
    ),
    max_size=200,
)


@given(steps, st.integers(1, 5), st.integers(1, 5), st.integers(1, 12))
def test_each_request_is_begun_or_told_to_come_again_once_and_the_bounds_hold(
    plan: list[tuple[str, str]], at_once: int, of_one: int, waiting: int
) -> None:
    fair: Fair[int] = Fair(at_once, of_one, waiting)
    queued: dict[int, str] = {}
    under_way: list[str] = []

    def begin() -> None:
        while (turn := fair.next()) is not None:
            user, item = turn
            assert queued.pop(item) == user
            under_way.append(user)
        assert len(under_way) <= at_once
        assert max(Counter(under_way).values(), default=0) <= of_one
        able = any(under_way.count(user) < of_one for user in queued.values())
        assert not able or len(under_way) == at_once

    for number, (what, user) in enumerate(plan):
        if what == "offer":
            queued[number] = user
            refused = fair.offer(user, number)
            if refused is not None:
                counts = Counter(queued.values())
                share = len(queued) / len(counts)
                assert len(queued) == waiting + 1
                assert counts[queued.pop(refused)] >= share
        elif under_way:
            fair.done(under_way.pop(0))
        begin()
        assert len(queued) <= waiting
    for _ in range(len(plan)):
        if under_way:
            fair.done(under_way.pop())
        begin()
    assert not queued
    assert not under_way
