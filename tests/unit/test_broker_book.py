"""The book's writes by themselves: answers that are lost, what neighbours tell, and names that change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from transfer.broker.account import Draft
from transfer.broker.book import Book
from transfer.broker.job import JobRecord
from transfer.broker.tally import Tally
from transfer.errors import BusUnreachable

Told = Callable[[str, bytes, int], None]


class Shelf:
    """One page. lost: answers to writes that are. told: by whoever hears, how to tell it."""

    def __init__(self, *, lost: int = 0) -> None:
        self.page: bytes | None = None
        self.revision, self.lost, self.reads = 0, lost, 0
        self.told: dict[str, Told] = {}
        self.writing = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def read(self, _key: str) -> tuple[bytes | None, int]:
        self.reads += 1
        return self.page, self.revision

    async def write(self, _key: str, value: bytes, revision: int) -> int | None:
        self.writing.set()
        await self.go_on.wait()
        if revision != self.revision:
            return None
        self.page, self.revision = value, self.revision + 1
        if self.lost:
            self.lost -= 1
            raise BusUnreachable("the answer is lost")
        return self.revision

    async def tell(self, _brokers: Iterable[str], _user: str, _page: bytes, _revision: int) -> None:
        return None

    async def hear(self, broker: str, told: Told) -> Callable[[], Awaitable[None]]:
        await asyncio.sleep(0)
        self.told[broker] = told

        async def end() -> None:
            del self.told[broker]

        return end


class Lender:
    gone: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.name, self.jobs = "a", 0

    async def valid(self) -> None:
        return None

    def counted(self, out: Tally, into: Tally) -> None:
        self.jobs += into.jobs - out.jobs


class Add:
    """A job more. name: what it gives."""

    looks_at = None

    def __init__(self, name: str) -> None:
        self.name = name

    def apply(self, draft: Draft, _record: JobRecord | None) -> str:
        draft.into = draft.into.plus(Tally(jobs=1))
        draft.changed = True
        return self.name


class Refuse:
    looks_at = None

    def apply(self, _draft: Draft, _record: JobRecord | None) -> Any:
        raise ValueError("over quota")


def book_on(shelf: Shelf, lender: Lender) -> Book:
    return Book(shelf, None, lender)  # type: ignore[arg-type]


@pytest.mark.parametrize("more", [1, 3])
async def test_what_comes_while_an_answer_is_lost_is_counted_once_as_all_else(more: int) -> None:
    shelf, lender = Shelf(lost=1), Lender()
    book = book_on(shelf, lender)
    shelf.go_on.clear()
    asked = [asyncio.create_task(book.do("u", Add("first")))]
    await shelf.writing.wait()
    asked += [asyncio.create_task(book.do("u", Add(f"later {n}"))) for n in range(more)]
    await asyncio.sleep(0)
    shelf.go_on.set()
    async with asyncio.timeout(60):
        assert await asyncio.gather(*asked) == ["first", *(f"later {n}" for n in range(more))]
        await book.close()
    assert lender.jobs == 1 + more


async def test_a_refusal_looks_at_the_page_itself_however_often_others_tell_of_it() -> None:
    """Each time it would look, a neighbour has just told of the page anew."""
    shelf, lender = Shelf(), Lender()
    book = book_on(shelf, lender)
    assert await book.do("u", Add("first")) == "first"
    assert shelf.page is not None
    telling = True

    async def neighbour() -> None:
        while telling:
            shelf.revision += 1
            shelf.told["a"]("u", shelf.page or b"", shelf.revision)
            await asyncio.sleep(0)

    told = asyncio.create_task(neighbour())
    before = shelf.reads
    async with asyncio.timeout(60):
        with pytest.raises(ValueError, match="over quota"):
            await book.do("u", Refuse())
    assert shelf.reads == before + 1
    telling = False
    await told
    await book.close()


async def test_a_broker_of_another_name_hears_by_that_one_alone_and_none_once_it_left() -> None:
    shelf, lender = Shelf(), Lender()
    book = book_on(shelf, lender)
    asked = [asyncio.create_task(book.do(user, Add(user))) for user in "xy"]
    await asyncio.sleep(0)
    lender.name = "b"  # the others took it for dead
    assert await asyncio.gather(*asked, return_exceptions=True)
    assert await book.do("z", Add("z")) == "z"
    assert set(shelf.told) == {"b"}
    await book.close()
    assert shelf.told == {}
