"""The gate: first come, first served, never more than fits, and nothing is lost when somebody gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transfer.transports.s3.gate import Gate

ROOM = 10
"""The weight that may be inside together."""


class Step(NamedTuple):
    """enter: with that weight. leave, cancel: of those it can befall, one (modulo their number).

    at_once: before anybody who was woken has had a chance to run.
    """

    what: Literal["enter", "leave", "cancel"]
    which: int
    at_once: bool


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["enter", "enter", "leave", "cancel"]),
        st.integers(1, ROOM + 3),
        st.booleans(),
    ),
    max_size=40,
)


class Guest:
    """Somebody who enters, and leaves when told to."""

    def __init__(self, number: int, weight: int, gate: Gate, came: list[int]) -> None:
        self.number, self.weight = number, weight
        self.inside = False
        self._gate, self._came, self._goes = gate, came, asyncio.Event()
        self.task = asyncio.create_task(self._visit())

    async def _visit(self) -> None:
        async with self._gate.entered(self.weight):
            self.inside = True
            self._came.append(self.number)
            try:
                await self._goes.wait()
            finally:
                self.inside = False

    def leave(self) -> None:
        self._goes.set()


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def played(plan: Sequence[Step]) -> None:
    """Every step on a gate and, where each has its effect before the next, on a list and a queue."""
    gate = Gate(lambda inside: inside <= ROOM)
    guests: list[Guest] = []
    came: list[int] = []
    inside: list[int] = []
    queue: list[int] = []
    exact = True

    def admit() -> None:
        while queue and (not inside or sum(guests[g].weight for g in [*inside, queue[0]]) <= ROOM):
            inside.append(queue.pop(0))

    for step in plan:
        if step.what == "enter":
            guests.append(Guest(len(guests), step.which, gate, came))
            queue.append(guests[-1].number)
        elif chosen := [g for g in guests if not g.task.done() and g.inside is (step.what == "leave")]:
            guest = chosen[step.which % len(chosen)]
            if step.what == "leave":
                guest.leave()
            else:
                guest.task.cancel()
            for held in (inside, queue):
                if guest.number in held:
                    held.remove(guest.number)
        admit()
        exact = exact and not step.at_once
        if not step.at_once:
            await settle()
            there = [g for g in guests if g.inside]
            assert gate._inside == sum(g.weight for g in there)
            assert gate._inside <= ROOM or len(there) == 1
            waiting = [g for g in guests if not g.inside and not g.task.done()]
            assert gate.waiting is bool(waiting)
            assert not waiting or (there and gate._inside + waiting[0].weight > ROOM)  # nobody waits in vain
            if exact:
                assert came == sorted(came)
                assert ([g.number for g in there], [g.number for g in waiting]) == (sorted(inside), queue)
    for guest in guests:
        guest.leave()
    for _ in guests:
        await settle()
    assert all(g.task.done() for g in guests)
    ends = [g.task.cancelled() or g.task.exception() for g in guests]
    assert all(end in (True, None) for end in ends), ends
    assert gate._inside == 0
    assert not gate.waiting


@given(steps)
@settings(deadline=None, max_examples=150)
@example(
    [
        Step("enter", 10, False),
        Step("enter", 1, False),
        Step("cancel", 0, True),
        Step("leave", 0, False),
    ]
)
def test_it_behaves_as_a_list_and_a_queue_do(plan: list[Step]) -> None:
    asyncio.run(played(plan))


async def test_who_gives_up_as_somebody_leaves_is_cancelled_and_nothing_else() -> None:
    gate = Gate(lambda inside: inside <= 1)
    await gate.enter()
    first, second = (asyncio.create_task(gate.enter()) for _ in range(2))
    await settle()
    first.cancel()
    gate.leave()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.exception() is None
    gate.leave()
    assert gate._inside == 0


async def test_who_is_let_in_and_gives_up_at_once_lets_the_next_one_in() -> None:
    gate = Gate(lambda inside: inside <= 1)
    await gate.enter()
    first, second = (asyncio.create_task(gate.enter()) for _ in range(2))
    await settle()
    gate.leave()
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.exception() is None
    assert gate._inside == 1


async def test_a_heavy_one_that_gives_up_makes_way_for_the_light_ones_behind_it() -> None:
    gate = Gate(lambda inside: inside <= ROOM)
    await gate.enter(5)
    heavy, light = asyncio.create_task(gate.enter(8)), asyncio.create_task(gate.enter(1))
    await settle()
    assert not light.done()  # it came later
    heavy.cancel()
    await settle()
    assert light.done()
    assert gate._inside == 6


async def test_what_is_heavier_than_everything_allowed_goes_alone() -> None:
    gate = Gate(lambda inside: inside <= ROOM)
    await gate.enter(3 * ROOM)
    other = asyncio.create_task(gate.enter(1))
    await settle()
    assert not other.done()
    gate.leave(3 * ROOM)
    await settle()
    assert other.done()
    heavy = asyncio.create_task(gate.enter(3 * ROOM))
    await settle()
    assert not heavy.done()
    gate.leave(1)
    await asyncio.wait_for(heavy, 1)


async def test_what_fits_is_asked_anew_whenever_somebody_leaves() -> None:
    room = 1
    gate = Gate(lambda inside: inside <= room)
    await gate.enter()
    waiting = [asyncio.create_task(gate.enter()) for _ in range(4)]
    await settle()
    room = 3
    gate.leave()
    await settle()
    assert [task.done() for task in waiting] == [True, True, True, False]
    room = 1
    for _ in range(2):
        gate.leave()
        await settle()
    assert not waiting[3].done()
    gate.leave()
    await asyncio.wait_for(waiting[3], 1)


async def test_an_error_inside_leaves_as_a_good_end_does() -> None:
    gate = Gate(lambda inside: inside <= ROOM)
    with pytest.raises(OSError, match="cut"):
        async with gate.entered(7):
            raise OSError("cut")
    assert gate._inside == 0
