"""What a client asks of the broker: one method a verb, errors in our words, outages ridden out."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential
from tenacity.stop import stop_base

from transfer import api, bus, rooms_api
from transfer.config import Context
from transfer.errors import (
    BrokerAbsent,
    BusUnreachable,
    ClockSkew,
    JobGone,
    Misuse,
    NotAllowed,
    OverQuota,
    RoomGone,
    StoreUnreachable,
    UnsupportedVersion,
    UsageError,
    XferError,
)
from transfer.events import WaitedFor
from transfer.hedge import Hedge
from transfer.model import SegmentRef
from transfer.seal import Sealer

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

Answer = TypeVar("Answer")
ANSWER_WITHIN = 10.0
"""Seconds for one try and its copies (`hedge`); a broker that signs and asks the store answers in milliseconds."""
FIRST_CONTACT = 3.0
"""Seconds before a call that begins a transfer gives up: nothing is under way yet, so say at once what is wrong."""
ELECTED_WITHIN = 30.0
"""The same while a broker answers that it has no records at hand, or gave up waiting for them (8 s). In a cluster whose
leading server died that lasts as long as the others take to notice and elect: 4 to 9 s, once more if they disagree.
Source: nats-server, raft.go."""
_OUTAGES: dict[type[Exception], WaitedFor] = {
    BusUnreachable: "bus",
    BrokerAbsent: "broker",
    StoreUnreachable: "store",
}
"""What is ridden out, and who is away then."""

_ERRORS: dict[api.ErrorCode, type[XferError]] = {
    api.ErrorCode.BAD_REQUEST: UsageError,
    api.ErrorCode.NOT_FOUND: JobGone,
    api.ErrorCode.NOT_ALLOWED: NotAllowed,
    api.ErrorCode.OVER_QUOTA: OverQuota,
    api.ErrorCode.CLOCK: ClockSkew,
    api.ErrorCode.STORE: StoreUnreachable,
    api.ErrorCode.VERSION: UnsupportedVersion,
}


class Link(NamedTuple):
    """A connection to the bus, and the broker behind it."""

    client: Client
    broker: BrokerClient


@contextlib.asynccontextmanager
async def connected(
    context: Context, name: str, patience: Patience, *, over: Link | None = None
) -> AsyncIterator[Link]:
    """The bus and the broker of a context, for as long as the block lasts.

    name: shown in the NATS server's connection list. over: use that connection, and leave it open. Raises as `bus.connect`.
    """
    if over is not None:
        yield Link(over.client, over.broker.with_patience(patience))
        return
    said: list[str] = []

    def refused(text: str) -> None:
        if "xfer.events." not in text:  # announcements are a courtesy; a transfer goes on without
            said.append(text)

    client = await bus.connect(
        context.nats_url, context.nats_creds, context.user, name, on_refusal=refused, ca=context.ca
    )
    broker = BrokerClient(client, context.user, patience, said, context.ca)
    try:
        yield Link(client, broker)
    finally:
        with contextlib.suppress(Exception):  # whatever a dying connection says, we are done with it
            async with asyncio.timeout(2):
                await client.close()


class Conflict(Misuse):
    """The broker's record says otherwise: another run of this job was quicker."""

    code = 11
    hint = "wait for the other run to end"


class JobPaused(Conflict):
    """The broker's record says: its owner has it wait."""

    hint = "`xfer resume JOB` goes on with it"


class BrokerBusy(BrokerAbsent):
    """A broker answers, but not for now."""

    hint = "run the same command again in a moment"


class Patience:
    """How long outages are ridden out, counted anew from every success.

    seconds: 0 gives up at the first failure. on_wait: told what is waited for, the seconds left, and who is away.
    """

    def __init__(
        self,
        seconds: float,
        on_wait: Callable[[str, float, WaitedFor | None], None] = lambda _what, _left, _on: None,
    ) -> None:
        self.seconds, self.on_wait = seconds, on_wait

    def retrying(self, *kinds: type[Exception]) -> AsyncRetrying:
        """Exponential with full jitter, 0.1 to 10 s; a Retry-After in the error's `retry_after` is honoured."""
        exponential = wait_random_exponential(multiplier=0.2, max=10)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(0.05 + exponential(state), getattr(error, "retry_after", None) or 0.0)

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            left = self.seconds - (state.seconds_since_start or 0)
            if (state.seconds_since_start or 0) > 1 or state.attempt_number > 2 or state.upcoming_sleep >= 1:
                what = error.what if isinstance(error, XferError) else str(error)
                on = next((on for kind, on in _OUTAGES.items() if isinstance(error, kind)), None)
                self.on_wait(what, max(0.0, left), on)

        return AsyncRetrying(
            retry=retry_if_exception_type(kinds),
            wait=wait,
            stop=_Elapsed(self.seconds),
            before_sleep=tell,
            reraise=True,
        )


class _Elapsed(stop_base):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, state: RetryCallState) -> bool:
        upcoming = state.upcoming_sleep if self._seconds else 0.0
        return (state.seconds_since_start or 0.0) + upcoming >= self._seconds


class BrokerClient:
    """Every call may be made many times at once; each rides out an absent broker for `patience`.

    Raises (any call): BrokerAbsent, BusUnreachable, StoreUnreachable, ClockSkew, JobGone, NotAllowed, OverQuota.
    """

    def __init__(
        self,
        client: Client,
        user: str,
        patience: Patience,
        refusals: Sequence[str] = (),
        ca: Path | None = None,
    ) -> None:
        """refusals: grows with what the server's permissions forbade; a call that waits will get no answer then.

        ca: PEM file of the authorities that may vouch for the store that the broker's URLs name.
        """
        self._client, self.user, self.patience, self._refusals = client, user, patience, refusals
        self._hedge = Hedge(ANSWER_WITHIN)
        self.ca = ca
        self._run = secrets.token_urlsafe(12)

    def with_patience(self, patience: Patience) -> BrokerClient:
        """Another on the same connection."""
        return BrokerClient(self._client, self.user, patience, self._refusals, self.ca)

    async def create(self, request: api.Create) -> api.Created:
        """Ours to go on with, until `status` of another client says otherwise."""
        return await self._call("create", replace(request, run=self._run), api.Created, first=True)

    async def open(self, sealer: Sealer) -> api.Opened:
        return await self._call(
            "open", api.Open(job=sealer.job, token=sealer.token()), api.Opened, first=True
        )

    async def segments(self, sealer: Sealer, start: int) -> api.SegmentPage:
        return await self._call(
            "segments", api.Segments(job=sealer.job, token=sealer.token(), start=start), api.SegmentPage
        )

    async def begin(self, job: str, segment: int) -> str:
        """The upload id."""
        request = api.Begin(job=job, segment=segment, key=secrets.token_urlsafe(12), run=self._run)
        return (await self._call("begin", request, api.Begun)).upload

    async def sign_part(self, job: str, segment: int, upload: str, part: api.PartToSign) -> api.SignedUrl:
        request = api.SignParts(job=job, segment=segment, upload=upload, parts=[part])
        return (await self._signed("sign_parts", request, 1))[0]

    async def list_parts(self, job: str, segment: int, upload: str) -> api.PartList:
        return await self._call(
            "list_parts", api.ListParts(job=job, segment=segment, upload=upload), api.PartList
        )

    async def complete(
        self, job: str, segment: int, upload: str, parts: list[api.StoredPart], index: int
    ) -> SegmentRef:
        request = api.Complete(
            job=job, segment=segment, upload=upload, parts=parts, index=index, run=self._run
        )
        return (await self._call("complete", request, api.Completed)).ref

    async def finish(self, job: str, outcome: api.JobState, segments: int = 0) -> api.Finished:
        return await self._call(
            "finish", api.Finish(job=job, outcome=outcome, segments=segments, run=self._run), api.Finished
        )

    async def sign_gets(self, sealer: Sealer, segments: list[int]) -> list[api.SignedUrl]:
        request = api.SignGets(job=sealer.job, token=sealer.token(), segments=segments)
        return await self._signed("sign_gets", request, len(segments))

    async def give_receipt(self, sealer: Sealer, receiver: str, sealed: str) -> api.JobState:
        request = api.GiveReceipt(job=sealer.job, token=sealer.token(), receiver=receiver, sealed=sealed)
        return (await self._call("receipt", request, api.Done)).state

    async def status(self, job: str, *, full: bool = False, take_over: bool = False) -> api.JobStatus:
        """full: count what is stored, too. take_over: we go on with it, and what earlier runs say comes too late."""
        request = api.Status(job=job, full=full, run=self._run if take_over else "")
        return await self._call("status", request, api.JobStatus)

    async def list_jobs(self, request: api.ListJobs) -> api.JobPage:
        return await self._call("list", request, api.JobPage)

    async def change(self, verb: str, request: api.Request) -> api.Changed:
        """verb: `pause`, `resume`, `cancel`, `remove` or `extend`, with its request."""
        if isinstance(request, api.Pause | api.Resume | api.Extend):
            request = replace(request, key=secrets.token_urlsafe(12))
        return await self._call(verb, request, api.Changed)

    async def history(self, job: str, start: int) -> api.HistoryPage:
        return await self._call("history", api.History(job=job, start=start), api.HistoryPage)

    async def usage(self, user: str | None = None) -> api.UserUsage:
        """user: None for oneself; others are for admins."""
        return (await self._call("usage", api.Usage(user=user), api.UsageReport, first=True)).users[0]

    async def all_usage(self) -> api.UsageReport:
        """Everybody's, for admins."""
        users: list[api.UserUsage] = []
        total, more = None, True
        while more:
            request = api.Usage(all=True, after=users[-1].user if users else "")
            page = await self._call("usage", request, api.UsageReport, first=True)
            users += page.users
            total, more = total or page.total, page.more
        return api.UsageReport(users, False, total)

    async def info(self) -> api.BrokerInfo:
        return await self._call("info", api.Info(), api.BrokerInfo, first=True)

    async def dead_list(self, begins: str = "") -> api.DeadLetters:
        """begins: how the job's id does."""
        return await self._call("dead_list", api.DeadList(begins=begins), api.DeadLetters, first=True)

    async def dead_retry(self, job: str | None) -> list[str]:
        """The jobs concerned. job: None for a page of all."""
        return (await self._call("dead_retry", api.DeadRetry(job=job), api.DeadSettled, first=True)).jobs

    async def dead_drop(self, job: str | None) -> list[str]:
        """The same."""
        return (await self._call("dead_drop", api.DeadDrop(job=job), api.DeadSettled, first=True)).jobs

    async def checkup(self) -> api.CheckupReport:
        return await self._call("checkup", api.Checkup(), api.CheckupReport, first=True)

    async def probe(self, slot: int, length: int, crc32c: str) -> api.ProbeUrls:
        request = api.Probe(slot=slot, length=length, crc32c=crc32c)
        return await self._call("probe", request, api.ProbeUrls, first=True)

    async def probe_end(self, slot: int) -> None:
        await self._call("probe_end", api.ProbeEnd(slot=slot), api.ProbeEnded, first=True)

    async def room_new(self, sealer: Sealer, name: str, tries: int = 5) -> rooms_api.RoomInfo:
        """sealer: of the room's ticket, here and below. name: sealed, base64."""
        request = rooms_api.RoomNew(room=sealer.job, token_hash=sealer.token_hash(), name=name, tries=tries)
        return await self._call("room_new", request, rooms_api.RoomInfo, first=True)

    async def room_about(self, sealer: Sealer) -> rooms_api.RoomInfo:
        """Raises RoomGone, as all below."""
        request = rooms_api.RoomAbout(room=sealer.job, token=sealer.token())
        with _of_a_room():
            return await self._call("room_about", request, rooms_api.RoomInfo, first=True)

    async def room_put(self, sealer: Sealer, job: str, sealed: str) -> int:
        """The item's number. Raises JobGone: the room or the job is not there. Conflict: the job is not stored."""
        request = rooms_api.RoomPut(room=sealer.job, token=sealer.token(), job=job, sealed=sealed)
        return (await self._call("room_put", request, rooms_api.RoomPosted)).number

    async def room_list(
        self, sealer: Sealer, consumer: str = "", *, work: bool = False, after: int = 0, wait: float = 0.0
    ) -> rooms_api.RoomPage:
        """wait: seconds. No copy of the request is sent meanwhile: that a broker died is noticed at its end."""
        request = rooms_api.RoomList(
            room=sealer.job, token=sealer.token(), consumer=consumer, work=work, after=after, wait=wait
        )
        with _of_a_room():
            return await self._call("room_list", request, rooms_api.RoomPage, wait=wait)

    async def room_mark(self, sealer: Sealer, request: rooms_api.RoomMark) -> rooms_api.RoomMarked:
        """request: its room and token are filled in."""
        request = replace(request, room=sealer.job, token=sealer.token())
        with _of_a_room():
            return await self._call("room_mark", request, rooms_api.RoomMarked)

    async def room_lock(self, sealer: Sealer, name: str, holder: str, life: float) -> bool:
        """As `RoomLock`."""
        request = rooms_api.RoomLock(
            room=sealer.job, token=sealer.token(), name=name, holder=holder, life=life
        )
        with _of_a_room():
            return (await self._call("room_lock", request, rooms_api.RoomLocked)).held

    async def room_leave(self, sealer: Sealer, consumer: str) -> None:
        request = rooms_api.RoomLeave(room=sealer.job, token=sealer.token(), consumer=consumer)
        with _of_a_room():
            await self._call("room_leave", request, rooms_api.RoomDone, first=True)

    async def room_remove(self, sealer: Sealer) -> None:
        """Raises NotAllowed: somebody else made it."""
        request = rooms_api.RoomRemove(room=sealer.job, token=sealer.token())
        with _of_a_room():
            await self._call("room_remove", request, rooms_api.RoomDone, first=True)

    async def listen(self, mailbox: bus.Mailbox) -> None:
        """Open it; a bus that is away is ridden out here, too. Raises BusUnreachable."""
        async for attempt in self.patience.retrying(BusUnreachable):
            with attempt:
                await mailbox.open()

    async def _signed(self, verb: str, request: api.Request, count: int) -> list[api.SignedUrl]:
        urls = (await self._call(verb, request, api.SignedUrls)).urls
        if len(urls) != count:
            raise UnsupportedVersion(f"the broker signed {len(urls)} requests where {count} were asked for")
        return urls

    async def _call(
        self, verb: str, request: api.Request, answer: type[Answer], *, first: bool = False, wait: float = 0.0
    ) -> Answer:
        """first: of a run, see FIRST_CONTACT. wait: seconds that the broker is asked to wait before it answers."""
        if not first:
            return await self._retried(self.patience, verb, request, answer, wait)
        contact = Patience(min(FIRST_CONTACT, self.patience.seconds))
        election = Patience(min(ELECTED_WITHIN, self.patience.seconds), self.patience.on_wait)
        async for attempt in election.retrying(BrokerBusy):
            with attempt:
                return await self._retried(contact, verb, request, answer)
        raise AssertionError("retrying ends with an answer or an error")

    async def _retried(
        self, patience: Patience, verb: str, request: api.Request, answer: type[Answer], wait: float = 0.0
    ) -> Answer:
        async for attempt in patience.retrying(*_OUTAGES):
            with attempt:
                return await self._ask(verb, request, answer, wait)
        raise AssertionError("retrying ends with an answer or an error")

    async def _ask(self, verb: str, request: api.Request, answer: type[Answer], wait: float) -> Answer:
        self._check_welcome()
        subject = bus.api_subject(self.user, verb)
        body = msgspec.json.encode(request)

        async def send(within: float) -> Msg:
            return await bus.request(self._client, subject, body, within)

        asking = asyncio.ensure_future(send(wait + ANSWER_WITHIN) if wait else self._hedge.ask(send))
        try:
            while not asking.done():
                await asyncio.wait({asking}, timeout=0.1)
                if not asking.done() and any("xfer.api." in r or "_INBOX_" in r for r in self._refusals):
                    raise NotAllowed(
                        f"NATS does not let user {self.user} talk to the broker",
                        hint="have the operator check this user's permissions (`xfer broker permissions`)",
                    )
            message = asking.result()
        except TimeoutError:
            raise BrokerAbsent("the broker does not answer") from None
        finally:
            asking.cancel()
        if message.headers and "Nats-Service-Error-Code" in message.headers:
            raise _error(message.data, message.headers)
        try:
            return msgspec.json.decode(message.data, type=answer)
        except msgspec.MsgspecError:
            raise UnsupportedVersion("the broker answers in a way this xfer does not understand") from None

    def _check_welcome(self) -> None:
        """Raises NotAllowed if the server refused our credentials, and we are not back in since."""
        thrown_out = any(said.startswith(bus.THROWN_OUT) for said in self._refusals)
        if thrown_out and not self._client.is_connected:
            raise NotAllowed(
                f"NATS lets user {self.user} in no more: it was removed, or has a new key",
                hint="ask whoever runs the broker for a new invite",
            )


@contextlib.contextmanager
def _of_a_room() -> Iterator[None]:
    """What is not found within is the room."""
    try:
        yield
    except JobGone as error:
        raise RoomGone(error.what) from None


def _more_often(retry_after: float | None) -> str:
    """What to do for who asked more often than it may. retry_after: seconds; None: it may never ask."""
    more = "have the operator allow this user more requests_per_minute in the broker's rules"
    return f"run the same command again in {max(1, round(retry_after))} s, or {more}" if retry_after else more


def _error(body: bytes, headers: dict[str, str]) -> XferError:
    try:
        stated = msgspec.json.decode(body, type=api.ApiError)
    except msgspec.MsgspecError:
        return XferError(f"the broker failed: {headers.get('Nats-Service-Error', 'no reason given')}")
    if stated.code is api.ErrorCode.CONFLICT:
        return Conflict(stated.message)
    if stated.code is api.ErrorCode.PAUSED:
        return JobPaused(stated.message)
    kind = BrokerBusy if stated.code is api.ErrorCode.BUSY else _ERRORS.get(stated.code, XferError)
    error = kind(stated.message, hint=_more_often(stated.retry_after) if stated.paced else None)
    if stated.retry_after is not None:
        error.retry_after = stated.retry_after  # type: ignore[attr-defined]
    return error
