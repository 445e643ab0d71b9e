"""Wrong tokens: slower and slower for who tries them, for nobody else, and nothing tells what there is."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable

import pytest
from brokers import Job, code
from nats.aio.client import Client

from transfer import api
from transfer.api import ErrorCode
from transfer.broker.doubts import FIRST, FORGIVE, LAST
from transfer.broker.service import AT_ONCE

ROUNDS = 60
NOT_FOUND = api.ApiError(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")


def a_user() -> str:
    return f"u{secrets.token_hex(4)}"


async def timed(question: Awaitable[object]) -> tuple[float, object]:
    began = time.monotonic()
    answer = await question
    return time.monotonic() - began, answer


async def test_a_wrong_secret_a_foreign_job_and_none_at_all_get_the_same_answer_in_the_same_time(
    client: Client, job: Job
) -> None:
    """Each asked by a user who never asked before, in turns, so that load falls on all alike."""
    kinds: dict[str, Callable[[], Awaitable[object]]] = {
        "wrong secret": lambda: job.open(token="wrong", user=a_user()),
        "no such job": lambda: Job(client).open(user=a_user()),
        "foreign job": lambda: job.status(user=a_user()),
        "no such job of mine": lambda: Job(client).status(user=a_user()),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, question in kinds.items():
            took, answer = await timed(question())
            assert answer == NOT_FOUND, kind
            seconds[kind].append(took)
    assert min(min(each) for each in seconds.values()) >= FIRST - 0.002
    medians = [statistics.median(each) for each in seconds.values()]
    spread = statistics.median(abs(s - statistics.median(each)) for each in seconds.values() for s in each)
    assert max(medians) - min(medians) <= max(0.005, 2 * spread), medians


async def test_every_wrong_one_takes_twice_as_long_as_the_one_before_it(client: Client) -> None:
    user, began = a_user(), time.monotonic()
    for number in range(7):
        took, _ = await timed(Job(client).open(user=user))
        forgiven = (time.monotonic() - began) / FORGIVE
        assert took >= FIRST * 2 ** (number - forgiven) - 0.005


@pytest.mark.long
async def test_the_wait_for_a_wrong_one_has_an_end(client: Client) -> None:
    user = a_user()
    took = [(await timed(Job(client).open(user=user)))[0] for _ in range(10)]
    assert max(took) >= 0.8 * LAST
    assert all(seconds < LAST + 5 for seconds in took)


async def test_wrong_tokens_for_a_job_slow_nobody_who_has_the_right_one(client: Client, job: Job) -> None:
    guesser, holder = a_user(), a_user()
    for _ in range(6):
        await job.open(token="wrong", user=guesser)
    guessing = asyncio.ensure_future(timed(job.open(token="wrong", user=guesser)))
    took = [await timed(job.open(user=holder)) for _ in range(20)]
    assert all(isinstance(answer, api.Opened) for _, answer in took)
    slow, answer = await guessing
    assert code(answer) is ErrorCode.NOT_FOUND
    assert statistics.median(seconds for seconds, _ in took) < slow / 4


async def test_answers_that_are_held_back_hold_up_no_other_request(client: Client, job: Job) -> None:
    """As many guesses as a broker answers at once, and more, are waiting; a right request is not."""
    guessers = [a_user() for _ in range(4)]
    for _ in range(6):
        await asyncio.gather(*(job.open(token="wrong", user=guesser) for guesser in guessers))
    held = [
        asyncio.ensure_future(job.open(token="wrong", user=guessers[n % len(guessers)]))
        for n in range(2 * AT_ONCE)
    ]
    await asyncio.sleep(0.2)
    waiting = sum(not each.done() for each in held)
    assert isinstance(await job.open(), api.Opened)
    still = sum(not each.done() for each in held)
    answers = await asyncio.gather(*held)
    assert waiting > AT_ONCE
    assert still > 0
    assert {code(answer) for answer in answers} <= {ErrorCode.NOT_FOUND, ErrorCode.BUSY}
