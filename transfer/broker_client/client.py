"""What a client asks of the broker: one method a verb."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from transfer import api, rooms_api
from transfer.broker_client.asking import Asking
from transfer.broker_client.patience import Patience
from transfer.errors import JobGone, RoomGone, UnsupportedVersion
from transfer.model import SegmentRef
from transfer.seal import Sealer

if TYPE_CHECKING:
    from nats.aio.client import Client


class BrokerClient:
    """Every call may be made many times at once; each rides out an absent broker for `patience`.

    Raises (any call): BrokerAbsent, BusUnreachable, StoreUnreachable, ClockSkew, JobGone, NotAllowed, OverQuota.
    """

    def __init__(
        self,
        client: Client,
        user: str,
        patience: Patience,
        refusals: Collection[str] = (),
        ca: Path | None = None,
    ) -> None:
        """refusals: grows with what the server's permissions forbade; a call that waits will get no answer then.

        ca: PEM file of the authorities that may vouch for the store that the broker's URLs name.
        """
        self._client, self.user, self.patience, self.refusals = client, user, patience, refusals
        self._call = Asking(client, user, patience, refusals)
        self.ca = ca
        self.store = ""
        """Where the store is, as the broker said with the job that was created or opened last; empty: it did not."""
        self._run = secrets.token_urlsafe(12)

    def with_patience(self, patience: Patience) -> BrokerClient:
        """Another on the same connection."""
        return BrokerClient(self._client, self.user, patience, self.refusals, self.ca)

    async def create(self, request: api.Create) -> api.Created:
        """Ours to go on with, until `status` of another client says otherwise."""
        created = await self._call("create", replace(request, run=self._run), api.Created, first=True)
        self.store = created.store
        return created

    async def open(self, sealer: Sealer) -> api.Opened:
        request = api.Open(job=sealer.job, token=sealer.token())
        opened = await self._call("open", request, api.Opened, first=True)
        self.store = opened.store
        return opened

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

    async def _signed(self, verb: str, request: api.Request, count: int) -> list[api.SignedUrl]:
        urls = (await self._call(verb, request, api.SignedUrls)).urls
        if len(urls) != count:
            raise UnsupportedVersion(f"the broker signed {len(urls)} requests where {count} were asked for")
        return urls


@contextlib.contextmanager
def _of_a_room() -> Iterator[None]:
    """What is not found within is the room."""
    try:
        yield
    except JobGone as error:
        raise RoomGone(error.what) from None
