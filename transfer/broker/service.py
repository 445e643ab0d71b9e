"""The broker on the bus: a NATS micro service. Requests in, answers or typed errors out."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import Awaitable
from typing import TypeVar

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.micro import add_service
from nats.micro.request import Request as Inquiry
from nats.micro.service import Service as MicroService

from transfer.api import ApiError, ErrorCode
from transfer.broker import logs
from transfer.broker.doubts import LAST, Doubts
from transfer.broker.fair import Fair
from transfer.broker.job import Refusal
from transfer.broker.observer import SILENT, Observer
from transfer.broker.refused import Refused
from transfer.broker.table import Answered, Later, Table
from transfer.bus import api_subject, inbox_prefix
from transfer.errors import (
    BusUnreachable,
    ClockSkew,
    ProtocolError,
    StoreUnreachable,
    UnsupportedVersion,
    XferError,
)
from transfer.sturdy import drain, reply_of

log = logging.getLogger(__name__)
Result = TypeVar("Result")

QUEUE_GROUP = "xfer"
MAX_REQUEST = 1 << 20
"""Bytes. Source: NATS' default max_payload."""
AT_ONCE = 64
"""Requests answered at the same time; more wait for their turn."""
OF_ONE = 48
"""Of these, so many of one user at most: what takes long, as a store that is slow does, holds up nobody else."""
WAITING = 256
"""Requests that may wait, for a tenth of a second or so. What comes on top is told at once to come again: whoever waits
longer than a client does would be worked for in vain. Who that is, and whose turn comes next, see `fair`."""
COME_AGAIN = (0.5, 2.0)
"""Seconds after which, at random, so that they do not come again all at once."""
ANSWER_WITHIN = 8.0
"""Seconds; less than a client waits (`broker_client.ANSWER_WITHIN`), so that it hears what is slow."""
DRAIN_WITHIN = 10.0
SHOW_A_TOKEN = frozenset(
    {"open", "segments", "sign_gets", "receipt"}
    | {"room_about", "room_put", "room_list", "room_mark", "room_lock", "room_leave", "room_remove"}
)
"""Verbs of whoever holds a ticket."""

_CODES: tuple[tuple[type[XferError], ErrorCode], ...] = (
    (StoreUnreachable, ErrorCode.STORE),
    (ClockSkew, ErrorCode.CLOCK),
    (BusUnreachable, ErrorCode.BUSY),
    (ProtocolError, ErrorCode.CONFLICT),
    (UnsupportedVersion, ErrorCode.VERSION),
)


class Service:
    """Answers `xfer.api.<user>.<verb>` in a queue group, many requests at once."""

    def __init__(self, client: Client, verbs: Table, *, version: str, observer: Observer = SILENT) -> None:
        self._client, self._verbs, self._version = client, verbs, version
        self._observer = observer
        self._micro: MicroService | None = None
        self._requests: Fair[tuple[Inquiry, float]] = Fair(AT_ONCE, OF_ONE, WAITING)
        self._woken = asyncio.Semaphore(AT_ONCE)
        self._context = contextvars.copy_context()
        self._doubts = Doubts()
        self._refused = Refused()
        self._answering: set[asyncio.Task[None]] = set()
        self._leaving = asyncio.Event()

    async def start(self) -> None:
        """Returns once the server has all subscriptions. Raises BusUnreachable; may be tried again then."""
        try:
            await self._start()
        except (NatsError, OSError) as error:
            raise BusUnreachable(f"NATS does not answer ({type(error).__name__})") from None

    async def _start(self) -> None:
        if self._micro is not None:  # of a try that failed; its subscriptions come back with the connection
            await self._client.flush()
            return
        self._micro = await add_service(
            self._client,
            name="xfer",
            version=self._version,
            description="xfer broker",
            queue_group=QUEUE_GROUP,
        )
        # One endpoint for all verbs. With one each, an unknown verb would meet silence, which reads as «no
        # broker there»; with a catch-all beside them every request comes twice, and then NATS'
        # `allow_responses` takes the answer for one too many (seen with nats-server 2.15).
        await self._micro.add_endpoint(name="api", subject=api_subject("*", "*"), handler=self._take)
        await self._client.flush()

    async def drain(self) -> None:
        """Take no new requests, answer those that are here, at most DRAIN_WITHIN seconds; what waits does so no longer."""
        self._leaving.set()
        if self._micro is None:
            return
        micro, self._micro = self._micro, None
        with contextlib.suppress(NatsError, TimeoutError):  # no bus, no requests
            async with asyncio.timeout(DRAIN_WITHIN):
                await drain(micro)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_WITHIN):
                while self._answering:  # one that ends begins another that waits
                    await asyncio.wait(self._answering)

    async def _take(self, inquiry: Inquiry) -> None:
        """Answer in a task of its own: nats-py holds back the next request until this returns."""
        refused = self._requests.offer(inquiry.subject.split(".")[-2], (inquiry, time.monotonic()))
        self._begin()
        if refused is not None:
            await self._turn_away(refused[0])

    def _begin(self) -> None:
        while (turn := self._requests.next()) is not None:
            # Whoever ends begins the next one, which is not about the same.
            task = asyncio.create_task(self._answer(*turn[1]), context=self._context.copy())
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def _done(self, user: str) -> None:
        self._requests.done(user)
        self._begin()

    async def _turn_away(self, inquiry: Inquiry) -> None:
        user, verb = inquiry.subject.split(".")[-2:]
        if _is_inbox_of(user, reply_of(inquiry)):
            error = ApiError(ErrorCode.BUSY, "the broker has too much to do", random.uniform(*COME_AGAIN))
            self._count(user, verb, error, 0.0)
            with contextlib.suppress(NatsError):
                await inquiry.respond_error(error.code.value, error.message, msgspec.json.encode(error))

    async def _answer(self, inquiry: Inquiry, arrived: float) -> None:
        user, verb = inquiry.subject.split(".")[-2:]
        logs.about(user=user, verb=verb)
        if not _is_inbox_of(user, reply_of(inquiry)):
            self._done(user)
            log.warning("dropped a request of user %s: its reply subject is not that user's inbox", user)
            return
        waited, turn = 0.0, True
        try:
            answer = await self._timely(self._asked(user, verb, inquiry.data))
            if isinstance(answer, Later):
                self._done(user)  # what only waits keeps no other request waiting
                turn, began = False, time.monotonic()
                await answer.wait(self._leaving)
                waited = time.monotonic() - began
                async with self._woken:
                    answer = await self._timely(answer.answer())
            body, error = self._encoded(answer), None
        except XferError as failure:
            error = _api_error(failure)
        except Exception as failure:
            # The message may quote what must not be logged; where it happened may not.
            log.error("a bug in verb %s: %s", verb, _place(failure))
            error = ApiError(ErrorCode.INTERNAL, "the broker failed; its log says where")
        finally:
            if turn:
                self._done(user)  # an answer that is held back holds up nobody else
        if error is not None and error.code is ErrorCode.NOT_FOUND:
            error = await self._held_back(user, arrived + waited, error)
        try:
            if error is None:
                await inquiry.respond(body)
            else:
                await inquiry.respond_error(error.code.value, error.message, msgspec.json.encode(error))
        except NatsError as failure:
            log.warning("an answer to %s is lost: %s", verb, type(failure).__name__)
        self._count(user, verb, error, time.monotonic() - arrived - waited)

    def _count(self, user: str, verb: str, error: ApiError | None, seconds: float) -> None:
        outcome = "ok" if error is None else error.code.value
        known = verb if verb in self._verbs else "unknown"
        self._observer.answered(known, outcome, seconds)
        if error is not None:
            self._refused.note(user, known, error)
        if verb in SHOW_A_TOKEN and error is not None and error.code is ErrorCode.NOT_FOUND:
            self._observer.wrong_token()

    async def _held_back(self, user: str, arrived: float, error: ApiError) -> ApiError:
        """Until the moment at which it may be said that something was not found."""
        due = self._doubts.wrong(user, arrived)
        if not self._doubts.hold(user):
            return ApiError(ErrorCode.BUSY, "too many wrong requests at once", LAST)
        try:
            await asyncio.sleep(due - time.monotonic())
        finally:
            self._doubts.release(user)
        return error

    async def _asked(self, user: str, verb: str, body: bytes) -> Answered:
        handler = self._verbs.get(verb)
        if handler is None:
            raise Refusal(
                ErrorCode.VERSION, "this broker does not know that verb; it may be older than the client"
            )
        if len(body) > MAX_REQUEST:
            raise Refusal(ErrorCode.BAD_REQUEST, "the request is too long")
        return await handler(user, body)

    async def _timely(self, answering: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await answering
        except TimeoutError:
            raise BusUnreachable("the store or the job records take too long to answer") from None

    def _encoded(self, answer: msgspec.Struct) -> bytes:
        body = msgspec.json.encode(answer)
        if len(body) > self._client.max_payload:
            raise Refusal(ErrorCode.OVER_QUOTA, "the answer is longer than NATS carries")
        return body


def _is_inbox_of(user: str, reply: str) -> bool:
    """The broker may publish where users may not, so a reply subject must not choose where.

    `_R_.` is what the server makes of a reply that crosses accounts; it lets no client write it.
    """
    return reply.startswith((f"{inbox_prefix(user)}.", "_R_."))


def _api_error(failure: XferError) -> ApiError:
    if isinstance(failure, Refusal):
        return failure.error
    for kind, code in _CODES:
        if isinstance(failure, kind):
            retry_after = 2.0 if code is ErrorCode.BUSY else None
            return ApiError(code, failure.what, retry_after)
    log.error("an unexpected failure: %s", failure.what)
    return ApiError(ErrorCode.INTERNAL, "the broker failed; its log says where")


def _place(failure: BaseException) -> str:
    """The exception's type and the line that raised it."""
    trace = failure.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(failure).__name__
    code = trace.tb_frame.f_code
    return f"{type(failure).__name__} in {code.co_qualname}, line {trace.tb_lineno}"
