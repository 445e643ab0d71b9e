"""The law of a consumer's page: nothing is held twice, nothing that was had comes again, and who fails is heard in the end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from transfer.api import ErrorCode
from transfer.broker.consumer import MAX_FAILED, MAX_HAD, MAX_HELD, Page
from transfer.broker.job import Refusal
from transfer.rooms_api import LEASE, MAX_REASON, RoomMark

NOW, TRIES = 1_000_000.0, 3
SHARED, OWN = Page(name="build"), Page(name="laptop", user="ann")


def mark(holder: str = "me", **lists: object) -> RoomMark:
    return RoomMark(room="r", token="t", consumer="build", holder=holder, **lists)  # type: ignore[arg-type]


def marked(page: Page, holder: str = "me", *, now: float = NOW, **lists: object) -> Page:
    return page.marked(mark(holder, **lists), now=now, tries=TRIES)


def test_what_one_holds_another_does_not_get_until_its_time_is_up() -> None:
    page = marked(SHARED, take=[1, 2])
    assert page.holds("me", NOW) == {1: NOW + LEASE, 2: NOW + LEASE}
    other = marked(page, "you", take=[2, 3])
    assert list(other.holds("you", NOW)) == [3]
    late = NOW + LEASE
    assert page.busy(1, late) == 0.0
    assert list(marked(page, "you", take=[2], now=late).holds("you", late)) == [2]


def test_holding_on_lasts_from_then_on_and_only_while_nobody_else_came() -> None:
    page = marked(marked(SHARED, take=[1, 2]), hold=[1, 2, 3], now=NOW + LEASE)
    assert page.holds("me", NOW + LEASE) == {1: NOW + 2 * LEASE, 2: NOW + 2 * LEASE}
    taken = marked(page, "you", take=[1], now=NOW + 2 * LEASE)
    assert list(marked(taken, hold=[1, 2], now=NOW + 2 * LEASE).holds("me", NOW + 2 * LEASE)) == [2]


def test_whatever_was_had_is_not_offered_whoever_held_it() -> None:
    page = marked(marked(SHARED, take=[5]), "you", had=[5, 7])
    assert [page.offers(n) for n in (4, 5, 6, 7)] == [True, False, True, False]
    assert page.held == {}
    assert marked(page, take=[5, 7]).held == {}


def test_a_shared_consumer_gives_up_after_so_many_failures_and_tries_anew_when_told_to() -> None:
    page = SHARED
    for attempt in range(TRIES):
        assert page.offers(1)
        assert page.failed.get(1, 0) == attempt
        page = marked(marked(page, take=[1]), failed={1: f"reason {attempt}"})
        assert page.held == {}
    assert not page.offers(1)
    assert page.given_up == {1: "reason 2"}
    assert marked(page, take=[1]).held == {}
    anew = marked(page, again=[1], take=[1])
    assert list(anew.holds("me", NOW)) == [1]
    assert anew.failed == {}


def test_ones_own_consumer_never_gives_up() -> None:
    page = OWN
    for _ in range(4 * TRIES):
        page = marked(marked(page, take=[1]), failed={1: "no room"})
    assert page.offers(1)
    assert page.failed == {1: 4 * TRIES}


def test_only_who_holds_an_item_fails_at_it_and_gives_it_back() -> None:
    page = marked(SHARED, take=[1])
    for said in ({"failed": {1: "x"}}, {"drop": [1]}, {"hold": [1]}):
        assert msgspec.structs.replace(marked(page, "you", **said), seen=page.seen) == page
    assert marked(page, drop=[1]).held == {}


@pytest.mark.parametrize(
    "said",
    [{"take": [1, 4]}, {"hold": [2]}, {"drop": [2]}, {"had": [2, 9]}, {"failed": {2: "x"}}, {"again": [3]}],
    ids=lambda said: next(iter(said)),
)
def test_the_same_mark_again_changes_nothing(said: dict[str, Any]) -> None:
    page = marked(SHARED, take=[2, 3])
    for _ in range(TRIES):
        page = marked(marked(page, take=[3]), failed={3: "x"})
    once = marked(page, **said)
    assert marked(once, **said) == once


def test_the_floor_moves_up_to_the_oldest_item_that_was_not_had() -> None:
    page = marked(marked(SHARED, had=[3, 5, 9, 12]), take=[7])
    settled = page.settled([3, 5, 7, 9], 9)
    assert (settled.floor, settled.had) == (6, (9, 12))
    assert [settled.offers(n) for n in (3, 5, 7, 9, 12)] == [False, False, True, False, False]
    assert list(settled.holds("me", NOW)) == [7]
    assert settled.settled([7, 9], 9) == settled
    done = marked(settled, had=[7]).settled([7, 9, 12], 12)
    assert (done.floor, done.had) == (12, ())


def test_what_is_no_more_is_forgotten_as_far_as_was_looked() -> None:
    page = marked(marked(SHARED, had=[2, 30]), take=[3, 31])
    for _ in range(TRIES):
        page = marked(marked(page, take=[4, 32]), failed={4: "x", 32: "x"})
    page = marked(marked(page, take=[5]), failed={5: "x"}).settled([1], 20)
    assert (page.floor, page.had, page.failed) == (0, (30,), {})
    assert (list(page.held), list(page.given_up)) == ([31], [32])
    assert page.settled([], 0) is page


def test_a_page_that_could_grow_too_long_for_a_value_is_refused() -> None:
    full = marked(SHARED, had=range(2, MAX_HAD + 2))
    assert marked(full, had=[5, 6]).had == full.had
    held = marked(SHARED, take=range(1, MAX_HELD + 1))
    given_up = SHARED
    for _ in range(TRIES):
        given_up = marked(
            marked(given_up, take=range(MAX_FAILED)),
            failed=dict.fromkeys(range(1, MAX_FAILED + 1), "\x00" * MAX_REASON),
        )
    given_up = marked(given_up, take=[MAX_FAILED])
    for _ in range(TRIES):
        given_up = marked(given_up, failed={MAX_FAILED: "x"}, take=[])
        given_up = marked(given_up, take=[MAX_FAILED, MAX_FAILED + 1])
    for _ in range(TRIES - 1):
        given_up = marked(given_up, failed={MAX_FAILED + 1: "x"})
        given_up = marked(given_up, take=[MAX_FAILED + 1])
    assert len(given_up.given_up) == MAX_FAILED
    refused: list[tuple[Page, dict[str, Any]]] = [
        (full, {"had": [MAX_HAD + 5]}),
        (held, {"take": [MAX_HELD + 1]}),
        (given_up, {"failed": {MAX_FAILED + 1: "x"}}),
    ]
    for page, said in refused:
        with pytest.raises(Refusal) as raised:
            marked(page, **said)
        assert raised.value.error.code is ErrorCode.OVER_QUOTA
    later = marked(held, "you", take=[MAX_HELD + 1], now=NOW + LEASE)
    assert list(later.held) == [MAX_HELD + 1]
    longest = msgspec.structs.replace(
        full, had=tuple(n + 10**8 for n in full.had), held=held.held, given_up=given_up.given_up
    )
    assert len(msgspec.json.encode(longest)) < 950_000


class Race(RuleBasedStateMachine):
    """Three holders and a shared consumer, beside a book of our own: what came of each of their marks."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.page, self.existing = NOW, SHARED, 0
        self.had: set[int] = set()
        self.gone: set[int] = set()
        self.leases: dict[int, tuple[str, float]] = {}
        self.failures: dict[int, int] = {}

    holders = st.sampled_from(["ann", "bob", "eve"])
    items = st.lists(st.integers(1, 8), max_size=4, unique=True)

    def there(self) -> list[int]:
        return [n for n in range(1, self.existing + 1) if n not in self.gone]

    @rule(holder=holders, wanted=items)
    def take(self, holder: str, wanted: list[int]) -> None:
        wanted = [n for n in wanted if n in self.there()]  # as a list of the room says
        self.page = marked(self.page, holder, take=wanted, now=self.now)
        for n in set(self.page.holds(holder, self.now)) & set(wanted):
            other, until = self.leases.get(n, ("", 0.0))
            assert other in ("", holder) or until <= self.now  # nobody else holds it
            assert n not in self.had  # it was not had
            assert self.failures.get(n, 0) < TRIES  # nor given up
            self.leases[n] = holder, self.now + LEASE

    @rule(holder=holders, number=st.integers(1, 8))
    def hold(self, holder: str, number: int) -> None:
        self.page = marked(self.page, holder, hold=[number], now=self.now)
        if number in self.page.holds(holder, self.now):
            other, until = self.leases[number]
            assert other == holder or until <= self.now
            self.leases[number] = holder, self.now + LEASE

    @rule(holder=holders, number=st.integers(1, 8), copies=st.integers(1, 3))
    def fail(self, holder: str, number: int, copies: int) -> None:
        counts = self.page.held.get(number) is not None and self.page.held[number].holder == holder
        for _ in range(copies):
            self.page = marked(self.page, holder, failed={number: "x"}, now=self.now)
        if counts:
            assert self.leases.pop(number)[0] == holder
            self.failures[number] = self.failures.get(number, 0) + 1

    @rule(holder=holders, number=st.integers(1, 8))
    def finish(self, holder: str, number: int) -> None:
        if number <= self.existing:
            self.page = marked(self.page, holder, had=[number], now=self.now)
            self.had.add(number)
            self.leases.pop(number, None)

    @rule(number=st.integers(1, 8))
    def again(self, number: int) -> None:
        if number in self.page.given_up:
            self.failures[number] = 0
        self.page = marked(self.page, again=[number], now=self.now)

    @rule()
    @precondition(lambda self: self.existing < 8)
    def put(self) -> None:
        self.existing += 1

    @rule(number=st.integers(1, 8))
    def expire(self, number: int) -> None:
        if number <= self.existing:
            self.gone.add(number)

    @rule(upto=st.integers(0, 8))
    def look(self, upto: int) -> None:
        looked = [n for n in self.there() if self.page.floor < n <= upto]
        self.page = self.page.settled(looked, max(looked, default=0))

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def what_was_had_is_never_offered_and_everything_else_is_unless_it_was_given_up(self) -> None:
        for n in self.there():
            given_up = self.failures.get(n, 0) >= TRIES and n not in self.had
            assert (n in self.page.given_up) == given_up
            assert self.page.offers(n) == (n not in self.had and not given_up)

    @invariant()
    def it_survives_being_written_and_read(self) -> None:
        assert msgspec.json.decode(msgspec.json.encode(self.page), type=Page) == self.page


TestRace = Race.TestCase
