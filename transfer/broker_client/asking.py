"""One request to the broker and its answer: copies of what stays unanswered, and outages ridden out."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, TypeVar

import msgspec

from transfer import api, bus
from transfer.broker_client.patience import OUTAGES, Patience
from transfer.broker_client.refusals import BrokerBusy, refusal
from transfer.errors import BrokerAbsent, NotAllowed, UnsupportedVersion
from transfer.hedge import Hedge

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

Answer = TypeVar("Answer")
ANSWER_WITHIN = 10.0
"""Seconds for one try and its copies (`hedge`); a broker that signs and asks the store answers in milliseconds."""
FIRST_CONTACT = 3.0
"""Seconds before a call that begins a transfer gives up, unless patience holds from the start: nothing is under way yet,
so say at once what is wrong."""
ELECTED_WITHIN = 30.0
"""The same while a broker answers that it has no records at hand, or gave up waiting for them (8 s). In a cluster whose
leading server died that lasts as long as the others take to notice and elect: 4 to 9 s, once more if they disagree.
Source: nats-server, raft.go."""


class Asking:
    """How one client asks. Called many times at once. Raises as `BrokerClient`."""

    def __init__(self, client: Client, user: str, patience: Patience, refusals: Collection[str]) -> None:
        """refusals: as of `BrokerClient`."""
        self._client, self._user, self._patience, self._refusals = client, user, patience, refusals
        self._hedge = Hedge(ANSWER_WITHIN)

    async def __call__(
        self, verb: str, request: api.Request, answer: type[Answer], *, first: bool = False, wait: float = 0.0
    ) -> Answer:
        """first: of a run, see FIRST_CONTACT. wait: seconds that the broker is asked to wait before it answers."""
        if not first or self._patience.from_start:
            return await self._retried(self._patience, verb, request, answer, wait)
        contact = Patience(min(FIRST_CONTACT, self._patience.seconds), self._patience.on_wait)
        election = Patience(min(ELECTED_WITHIN, self._patience.seconds), self._patience.on_wait)
        async for attempt in election.retrying(BrokerBusy):
            with attempt:
                return await self._retried(contact, verb, request, answer)
        raise AssertionError("retrying ends with an answer or an error")

    async def _retried(
        self, patience: Patience, verb: str, request: api.Request, answer: type[Answer], wait: float = 0.0
    ) -> Answer:
        async for attempt in patience.retrying(*OUTAGES):
            with attempt:
                return await self._once(verb, request, answer, wait)
        raise AssertionError("retrying ends with an answer or an error")

    async def _once(self, verb: str, request: api.Request, answer: type[Answer], wait: float) -> Answer:
        self._check_welcome()
        subject = bus.api_subject(self._user, verb)
        body = msgspec.json.encode(request)

        async def send(within: float) -> Msg:
            return await bus.request(self._client, subject, body, within)

        asking = asyncio.ensure_future(send(wait + ANSWER_WITHIN) if wait else self._hedge.ask(send))
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=0.1)
                if not asking.done():
                    self._check_permissions()
            message = asking.result()
        except TimeoutError:
            raise BrokerAbsent("the broker does not answer") from None
        finally:
            asking.cancel()
        if message.headers and "Nats-Service-Error-Code" in message.headers:
            raise refusal(message.data, message.headers)
        try:
            return msgspec.json.decode(message.data, type=answer)
        except msgspec.MsgspecError:
            raise UnsupportedVersion("the broker answers in a way this xfer does not understand") from None

    def _check_permissions(self) -> None:
        """Raises NotAllowed if the server forbade the request, or the inbox of its answer; it only answers with silence.

        nats-py tells of it in small letters.
        """
        if any(subject in said.lower() for said in self._refusals for subject in ("xfer.api.", "_inbox_")):
            raise NotAllowed(
                f"NATS does not let user {self._user} talk to the broker",
                hint="have the operator check this user's permissions (`xfer broker permissions`)",
            )

    def _check_welcome(self) -> None:
        """Raises NotAllowed if the server refused our credentials, and we are not back in since."""
        thrown_out = any(said.startswith(bus.THROWN_OUT) for said in self._refusals)
        if thrown_out and not self._client.is_connected:
            raise NotAllowed(
                f"NATS lets user {self._user} in no more: it was removed, or has a new key",
                hint="ask whoever runs the broker for a new invite",
            )
