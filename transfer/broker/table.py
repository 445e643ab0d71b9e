"""A verb: from the bytes of a request to the handler that knows its type. Every group of verbs offers a table of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from transfer import api
from transfer.api import ErrorCode
from transfer.broker import logs
from transfer.broker.job import Refusal

Asked = TypeVar("Asked", bound=api.Request)


class Later(NamedTuple):
    """There is no answer yet. wait: to be awaited in any case; returns once there may be one, or soon after the broker
    leaves, which the event says. answer: as a verb's, and then it is one."""

    wait: Callable[[asyncio.Event], Awaitable[None]]
    answer: Callable[[], Awaitable[msgspec.Struct]]


Answered = msgspec.Struct | Later
Verb = Callable[[str, bytes], Awaitable[Answered]]
"""The user who asks and the request's body in, the answer out. Raises Refusal, and what records and store raise."""
Table = Mapping[str, Verb]
"""Verb to what answers it."""


class _Versioned(msgspec.Struct):
    v: int = api.VERSION


_versioned = msgspec.json.Decoder(_Versioned)


def verb(kind: type[Asked], handler: Callable[[str, Asked], Awaitable[Answered]]) -> Verb:
    """A handler of requests of that kind. Raises Refusal (bad_request; version) for what is none."""
    decoder = msgspec.json.Decoder(kind)

    async def run(user: str, body: bytes) -> Answered:
        try:
            stated = _versioned.decode(body).v
            request = decoder.decode(body) if stated == api.VERSION else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Refusal(ErrorCode.BAD_REQUEST, "the request cannot be read") from None
        if request is None:
            raise Refusal(
                ErrorCode.VERSION,
                f"the request is of version {stated}, this broker knows {api.VERSION}; upgrade the older one",
            )
        logs.about(job=getattr(request, "job", ""))
        return await handler(user, request)

    return run
