"""Requests to the store: signed before their turn, signed again when that was too long ago, paced by what it answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from transfer.api import SignedUrl
from transfer.broker_client import Patience
from transfer.errors import StoreUnreachable
from transfer.transports.s3.http import SignatureRefused, SlowDown
from transfer.transports.s3.pace import START, TELLING, Pace
from transfer.transports.s3.store import Store

SOON = 20.0
BODY = bytes(TELLING)


class Http:
    """In place of the connections. answer: called in a thread with the URL; raises or returns."""

    moved = 0

    def __init__(self) -> None:
        self.answer: Callable[[str], None] = lambda _url: None
        self.urls: list[str] = []
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def put(self, url: SignedUrl, _body: object, _moved: object = None) -> str:
        with self._lock:
            self.urls.append(url.url)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            self.answer(url.url)
        finally:
            with self._lock:
                self.at_once -= 1
        return "etag"

    def get(self, url: SignedUrl, *, start: int, length: int, moved: object) -> bytes:
        self.put(url, [BODY])
        return BODY[start : start + length]

    def close(self) -> None: ...


class Signer:
    """Signs a, b, c … in turn; says which were asked for because the last one was refused."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    async def __call__(self, refused: SignedUrl | None) -> SignedUrl:
        self.asked.append(refused is not None)
        return SignedUrl("abcdefghij"[len(self.asked) - 1], {})


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = Store(Patience(2), Pace())
    made._http.close()
    made._http = cast("Any", Http())
    yield made
    made.close()
    made.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def http_of(store: Store) -> Http:
    return cast("Http", store._http)


def refusing(
    *urls: str, error: type[StoreUnreachable | SignatureRefused] = SignatureRefused
) -> Callable[[str], None]:
    def answer(url: str) -> None:
        if url in urls:
            raise error("no")

    return answer


async def until(true: Callable[[], bool]) -> None:
    """What a thread does is announced by nobody."""
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


async def test_a_url_that_is_refused_is_signed_again_and_tried_once_more(store: Store) -> None:
    http, sign = http_of(store), Signer()
    http.answer = refusing("a")
    assert await store.put(sign, [BODY]) == "etag"
    assert (sign.asked, http.urls) == ([False, True], ["a", "b"])


async def test_a_url_that_is_refused_twice_is_an_error_and_the_next_one_has_its_turn(store: Store) -> None:
    http, sign = http_of(store), Signer()
    store.pace.limit = 1
    http.answer = refusing("a", "b")
    with pytest.raises(SignatureRefused):
        await store.put(sign, [BODY])
    assert (sign.asked, http.urls) == ([False, True], ["a", "b"])
    async with asyncio.timeout(SOON):
        http.answer = refusing()
        assert await store.put(sign, [BODY]) == "etag"


async def test_an_outage_is_ridden_out_with_a_url_of_its_own_each_time(store: Store) -> None:
    http, sign = http_of(store), Signer()
    http.answer = refusing("a", "b", error=StoreUnreachable)
    assert await store.put(sign, [BODY]) == "etag"
    assert (sign.asked, http.urls) == ([False] * 3, ["a", "b", "c"])
    assert store.pace.limit == START


@pytest.mark.parametrize("first", [None, "a"], ids=["at once", "after a renewal"])
async def test_a_store_that_asks_for_less_gets_less(store: Store, first: str | None) -> None:
    http, sign = http_of(store), Signer()
    slow = "b" if first else "a"

    def answer(url: str) -> None:
        if url == first:
            raise SignatureRefused("no")
        if url == slow:
            raise SlowDown("slower")

    http.answer = answer
    assert await store.put(sign, [BODY]) == "etag"
    assert store.pace.limit == START // 2


async def test_no_more_requests_run_at_once_than_the_pace_says_and_the_next_is_signed_already(
    store: Store,
) -> None:
    http, sign = http_of(store), Signer()
    go = threading.Event()
    http.answer = lambda _url: cast("Any", go.wait(SOON))
    store.pace.limit = 2
    puts = [asyncio.create_task(store.put(sign, [BODY])) for _ in range(6)]
    try:
        await until(lambda: http.at_once == 2)
        assert len(sign.asked) == 6  # nobody waits for the broker with a free connection
        assert store._gate.waiting
    finally:
        go.set()
    async with asyncio.timeout(SOON):
        await asyncio.gather(*puts)
    assert http.urls == list("abcdef")
    assert http.most <= 2
    assert store.pace.alone is not None


async def test_who_gives_up_while_it_waits_leaves_its_turn_to_the_next(store: Store) -> None:
    http, sign = http_of(store), Signer()
    go = threading.Event()
    http.answer = lambda _url: cast("Any", go.wait(SOON))
    store.pace.limit = 1
    first, second, third = (asyncio.create_task(store.put(sign, [BODY])) for _ in range(3))
    try:
        await until(lambda: http.at_once == 1 and len(sign.asked) == 3)
        second.cancel()
        await asyncio.sleep(0)
    finally:
        go.set()
    async with asyncio.timeout(SOON):
        assert await asyncio.gather(first, third) == ["etag", "etag"]
    assert http.urls == ["a", "c"]
    assert store._gate._inside == 0


async def test_reads_that_waited_take_the_url_that_another_had_renewed_meanwhile(store: Store) -> None:
    http, asked = http_of(store), 0
    kept: SignedUrl | None = None

    async def sign(refused: SignedUrl | None) -> SignedUrl:
        nonlocal kept, asked
        if kept in (None, refused):
            asked += 1
            kept = SignedUrl("abc"[asked - 1], {})
        assert kept is not None
        return kept

    def answer(url: str) -> None:
        if url == "a":
            raise SignatureRefused("expired")

    http.answer = answer
    store.pace.limit = 1
    async with asyncio.timeout(SOON):
        read = await asyncio.gather(*(store.get(sign, start, 2) for start in range(4)))
    assert read == [BODY[start : start + 2] for start in range(4)]
    assert http.urls == ["a", "b", "b", "b", "b"]


async def test_as_many_threads_as_the_user_asked_for_requests() -> None:
    store = Store(Patience(0), Pace(64))
    http = Http()
    store._http.close()
    store._http = cast("Any", http)
    go = threading.Event()
    http.answer = lambda _url: cast("Any", go.wait(SOON))

    async def sign(_refused: SignedUrl | None) -> SignedUrl:
        return SignedUrl("a", {})

    puts = [asyncio.create_task(store.put(sign, [])) for _ in range(80)]
    try:
        await until(lambda: http.at_once == 64)
    finally:
        go.set()
    async with asyncio.timeout(SOON):
        await asyncio.gather(*puts)
    assert http.most == 64
    store.close()
