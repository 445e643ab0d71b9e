"""Rooms at a real broker: items are put, listed, taken by one at a time, had once, and gone with their room."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from brokers import HTTP, Job, Place, answers, ask, broker_process, code, connected, free_port, nats_server
from nats.aio.client import Client

from transfer import api, room_lock, rooms_api
from transfer.api import ErrorCode, JobState
from transfer.broker import room_records
from transfer.broker import rooms as rooms_module
from transfer.broker.consumer import Page
from transfer.broker.job import Refusal
from transfer.broker.records import Records
from transfer.broker.room_records import BUCKET, RoomRecords
from transfer.broker.rooms import KEPT_BEYOND, RoomVerbs
from transfer.broker.service import AT_ONCE
from transfer.broker_client import BrokerClient, Patience
from transfer.errors import JobGone, Locked, NotAllowed, RoomGone
from transfer.room import Member
from transfer.room_names import Room as Named
from transfer.rooms_api import LEASE, MAX_WAIT, RoomMark, RoomMarked, RoomPage
from transfer.seal import Purpose, Sealer
from transfer.ticket import RoomTicket

NOT_FOUND = api.ApiError(ErrorCode.NOT_FOUND, "there is no such room, or it was removed")


class Room:
    """A room of alice's, and what members ask of it."""

    def __init__(self, client: Client) -> None:
        self.client, self.ticket = client, RoomTicket.new()
        self.sealer = Sealer(self.ticket)
        self.id = self.sealer.job

    def sealed(self, text: str = "item", purpose: Purpose = Purpose.ROOM_ITEM) -> str:
        return base64.b64encode(self.sealer.seal(purpose, 0, text.encode())).decode()

    async def new(self, user: str = "alice", **changes: Any) -> Any:
        fields = {
            "room": self.id,
            "token_hash": self.sealer.token_hash(),
            "name": self.sealed("nightly", Purpose.ROOM_NAME),
            "tries": 2,
        }
        request = rooms_api.RoomNew(**{**fields, **changes})
        return await ask(self.client, "room_new", request, rooms_api.RoomInfo, user)

    async def say(self, verb: str, user: str = "alice", **fields: Any) -> Any:
        kind, answer = SAID[verb]
        request = kind(**{"room": self.id, "token": self.sealer.token(), **fields})
        return await ask(self.client, f"room_{verb}", request, answer, user)

    async def put(self, job: Job, **fields: Any) -> Any:
        return await self.say("put", job.owner, job=job.id, **{"sealed": self.sealed(), **fields})

    async def numbers(self, consumer: str = "", user: str = "alice", **fields: Any) -> list[int]:
        page = await self.say("list", user, consumer=consumer, **fields)
        assert isinstance(page, RoomPage), page
        return [item.number for item in page.items]

    async def mark(self, consumer: str, holder: str, user: str = "alice", **fields: Any) -> RoomMarked:
        marked = await self.say("mark", user, consumer=consumer, holder=holder, **fields)
        assert isinstance(marked, RoomMarked), marked
        return marked


SAID: dict[str, tuple[type[rooms_api.RoomRequest], type[msgspec.Struct]]] = {
    "about": (rooms_api.RoomAbout, rooms_api.RoomInfo),
    "put": (rooms_api.RoomPut, rooms_api.RoomPosted),
    "list": (rooms_api.RoomList, RoomPage),
    "mark": (rooms_api.RoomMark, RoomMarked),
    "lock": (rooms_api.RoomLock, rooms_api.RoomLocked),
    "leave": (rooms_api.RoomLeave, rooms_api.RoomDone),
    "remove": (rooms_api.RoomRemove, rooms_api.RoomDone),
}


async def stored(client: Client) -> Job:
    job = Job(client)
    await job.create()
    await job.store(0)
    assert isinstance(await job.finish(JobState.STORED, 1), api.Finished)
    return job


@pytest.fixture
async def room(client: Client) -> Room:
    room = Room(client)
    info = await room.new()
    assert isinstance(info, rooms_api.RoomInfo), info
    assert await room.new() == info
    return room


async def test_what_is_put_comes_to_each_consumer_once_until_it_is_gone(client: Client, room: Room) -> None:
    jobs = [await stored(client) for _ in range(3)]
    numbers = [(await room.put(job)).number for job in jobs]
    assert numbers == sorted(set(numbers))
    assert (await room.put(jobs[0])).number == numbers[0]  # the same job again is the same item

    # All of it, to whoever looks; a page ends where it is told to begin again.
    page = await room.say("list", "bob")
    assert [(item.job, item.user, item.gone) for item in page.items] == [(j.id, "alice", False) for j in jobs]
    assert room.sealer.open(Purpose.ROOM_ITEM, 0, base64.b64decode(page.items[0].sealed)) == b"item"
    assert (page.last, page.more) == (numbers[-1], False)
    assert await room.numbers(after=numbers[0]) == numbers[1:]

    # Two consumers know nothing of each other, nor do two users of the same name; what was had never comes again.
    for who in (("laptop", "alice"), ("laptop", "bob")):
        assert await room.numbers(*who) == numbers
        await room.mark(who[0], "run", who[1], had=[numbers[1]])
        assert await room.numbers(*who) == [numbers[0], numbers[2]]
    await room.mark("laptop", "run", had=[numbers[0]])
    assert await room.numbers("laptop") == [numbers[2]]
    assert await room.numbers("laptop", "bob") == [numbers[0], numbers[2]]
    assert await room.numbers("build", work=True) == numbers

    # One that all share: what one holds is busy for others, and given up after so many failures.
    first = numbers[0]
    held = await room.mark("build", "one", work=True, take=numbers)
    assert (held.held, held.until > time.time()) == (numbers, True)
    assert await room.mark("build", "two", "bob", work=True, take=numbers) == RoomMarked([], 0.0)
    listed = (await room.say("list", "bob", consumer="build", work=True)).items
    assert [item.busy > 0 for item in listed] == [True] * 3
    for failed in (1, 2):
        await room.mark("build", "one", work=True, take=[first])
        await room.mark("build", "one", work=True, failed={first: "no room\x1b[2J"})
        listed = (await room.say("list", consumer="build", work=True)).items
        assert [item.failed for item in listed if item.number == first] == [1] * (failed == 1)
    about = await room.say("about", "bob")
    assert (about.owner, about.items, about.tries) == ("alice", 3, 2)
    lines = {(line.name, line.user): line for line in about.consumers}
    assert lines.keys() == {("laptop", "alice"), ("laptop", "bob"), ("build", "")}
    assert lines["build", ""].given_up == {first: "no room [2J"}
    assert lines["build", ""].held == numbers[1:]
    assert [lines[who].left for who in (("laptop", "alice"), ("laptop", "bob"), ("build", ""))] == [1, 2, 3]
    again = await room.mark("build", "two", "bob", work=True, again=[first], take=[first])
    assert again.held == [first]

    # What became of the jobs shows; who leaves begins anew.
    await ask(client, "cancel", api.Cancel(job=jobs[2].id), api.Changed)
    await jobs[1].receipt("r")
    assert [item.gone for item in (await room.say("list")).items] == [False, False, True]
    assert (await room.put(jobs[2])).number == numbers[2]
    assert isinstance(await room.say("leave", "bob", consumer="laptop"), rooms_api.RoomDone)
    assert await room.numbers("laptop", "bob") == numbers

    # Only who made it removes it, and may ask again; nothing is left of it but the jobs.
    assert code(await room.say("remove", "bob")) is ErrorCode.NOT_ALLOWED
    for _ in range(2):
        assert isinstance(await room.say("remove"), rooms_api.RoomDone)
    assert await room.say("remove", "bob") == NOT_FOUND
    assert await room.say("list") == await room.put(jobs[0]) == NOT_FOUND
    info = await client.jetstream().stream_info(f"KV_{BUCKET}", subjects_filter=f"$KV.{BUCKET}.*.{room.id}.>")
    assert info.state.subjects is None
    assert (await jobs[0].status()).state is JobState.STORED


async def test_nobody_learns_of_a_room_without_its_token_and_only_ones_own_stored_jobs_go_there(
    client: Client, room: Room
) -> None:
    job = await stored(client)
    await room.put(job)
    never = Room(client)
    others: dict[str, dict[str, Any]] = {
        "put": {"job": job.id, "sealed": room.sealed()},
        "mark": {"consumer": "c", "holder": "h"},
        "leave": {"consumer": "c"},
        "lock": {"name": "0" * 32, "holder": "one", "life": 1.0},
    }
    asking = (
        answer
        for verb in SAID
        for answer in (
            room.say(verb, f"m-{verb}", token="wrong", **others.get(verb, {})),
            never.say(verb, f"n-{verb}", **others.get(verb, {})),
        )
    )
    assert await asyncio.gather(*asking) == [NOT_FOUND] * 2 * len(SAID)
    taken = await room.new(token_hash="0" * 64)
    assert code(taken) is code(await room.new("bob")) is ErrorCode.CONFLICT

    foreign = await room.say("put", "bob", job=job.id, sealed=room.sealed())
    assert foreign == api.ApiError(ErrorCode.NOT_FOUND, "there is no such job, or it has expired")
    unfinished = Job(client)
    await unfinished.create()
    assert code(await room.put(unfinished)) is ErrorCode.CONFLICT
    for wrong in (
        room.put(job, sealed="A" * 5000),
        room.put(job, sealed="*"),
        room.say("list", after=-1),
        room.say("list", wait=MAX_WAIT + 1),
        room.say("list", consumer="a\nb"),
        room.say("mark", consumer="", holder="h"),
        room.say("mark", consumer="c", holder="a b"),
        room.say("mark", consumer="c", holder="h", take=[0]),
        room.say("mark", consumer="c", holder="h", take=[*range(1, rooms_api.MAX_MARKED + 2)]),
        room.say("mark", consumer="c", holder="h", take=[1], had=[1]),
        Room(client).new(name=""),
        Room(client).new(tries=0),
    ):
        assert code(await wrong) is ErrorCode.BAD_REQUEST


async def test_items_go_each_to_one_of_many_who_race_for_them_and_to_another_when_its_time_is_up(
    client: Client, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Races through the bus; later on the same room in a broker whose clock we set."""
    numbers = [(await room.put(await stored(client))).number for _ in range(4)]
    holders = [f"h{n}" for n in range(8)]
    taking = (room.mark("build", h, work=True, take=[n]) for n in numbers for h in holders)
    await asyncio.gather(*taking)
    # What each holds now, as nobody says so twice: an empty mark tells.
    held = await asyncio.gather(*(room.mark("build", h, work=True) for h in holders))
    assert sorted(n for marked in held for n in marked.held) == numbers

    now = time.time()
    rooms = await RoomRecords.attach(client)
    verbs = RoomVerbs(rooms, await Records.attach(client), clock=lambda: now)
    asked = RoomMark(
        room=room.id,
        token=room.sealer.token(),
        consumer="build",
        work=True,
        holder="late",
        take=numbers,
    )
    assert (await verbs.mark("bob", asked)).held == []
    now += LEASE + 1
    assert await verbs.mark("bob", asked) == RoomMarked(numbers, now + LEASE)
    assert all(m.held == [] for m in [await room.mark("build", h, work=True, hold=numbers) for h in holders])

    # A page that is full says so, and the next begins after it.
    monkeypatch.setattr(rooms_api, "ROOM_PAGE", 3)
    listing = rooms_api.RoomList(room=room.id, token=room.sealer.token())
    page = await verbs.look("bob", listing)
    assert isinstance(page, RoomPage)
    assert ([i.number for i in page.items], page.last, page.more) == (numbers[:3], numbers[2], True)
    page = await verbs.look("bob", msgspec.structs.replace(listing, after=page.last))
    assert isinstance(page, RoomPage)
    assert ([i.number for i in page.items], page.more) == (numbers[3:], False)

    # Limits: of items, rooms, consumers, and of those who wait.
    monkeypatch.setattr(rooms_module, "MAX_ITEMS", 4)
    monkeypatch.setattr(rooms_module, "MAX_ROOMS", 1)
    monkeypatch.setattr(rooms_module, "MAX_CONSUMERS", 1)
    monkeypatch.setattr(rooms_module, "WAITING", 0)
    job, other = await stored(client), Room(client)
    put = rooms_api.RoomPut(room=room.id, token=room.sealer.token(), job=job.id, sealed=room.sealed())
    new = rooms_api.RoomNew(room=other.id, token_hash=other.sealer.token_hash(), name=other.sealed())
    refused: dict[ErrorCode, list[Awaitable[object]]] = {
        ErrorCode.OVER_QUOTA: [
            verbs.put("alice", put),
            verbs.new("alice", new),
            verbs.mark("bob", msgspec.structs.replace(asked, consumer="another")),
        ],
        ErrorCode.BUSY: [verbs.look("bob", msgspec.structs.replace(listing, wait=1.0))],
    }
    for why, asking in refused.items():
        for verb in asking:
            with pytest.raises(Refusal) as raised:
                await verb
            assert raised.value.error.code is why

    # An item outlives its job by a month.
    message = await client.jetstream().get_msg(f"KV_{BUCKET}", numbers[0])
    item = (await room.say("list")).items[0]
    assert int((message.headers or {})["Nats-TTL"]) == pytest.approx(
        item.expires - item.posted + KEPT_BEYOND, abs=2
    )


async def test_the_floor_moves_as_the_room_is_looked_at(client: Client, room: Room) -> None:
    numbers = [(await room.put(await stored(client))).number for _ in range(3)]
    await room.mark("laptop", "run", had=[numbers[0], numbers[2]])
    rooms = await RoomRecords.attach(client)
    assert [page.floor for page in await rooms.consumers(room.id)] == [0]
    assert await room.numbers("laptop") == [numbers[1]]
    [page] = await rooms.consumers(room.id)
    assert (page.floor, page.had) == (numbers[1] - 1, (numbers[2],))
    await room.mark("laptop", "run", had=[numbers[1]])
    assert await room.numbers("laptop") == []
    [page] = await rooms.consumers(room.id)
    assert (page.floor, page.had) == (numbers[2], ())


async def test_a_consumer_that_says_nothing_for_long_is_forgotten(
    client: Client, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_records, "CONSUMER_LIFE", 1.0)
    records = await RoomRecords.attach(client)
    page = Page(name="pod", user="alice")
    assert await records.write(room.id, "pod", page, 0)
    assert await records.consumers(room.id) == [page]
    async with asyncio.timeout(30):
        while await records.consumers(room.id):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_lock_is_one_holders_until_it_gives_it_back_or_says_nothing(
    client: Client, room: Room
) -> None:
    name = "0" * 32

    async def lock(holder: str, life: float, name: str = name) -> bool:
        locked = await room.say("lock", holder, name=name, holder=holder, life=life)
        assert isinstance(locked, rooms_api.RoomLocked), locked
        return locked.held

    held = await asyncio.gather(*(lock(who, 60.0) for who in ("one", "two", "three", "four")))
    assert held.count(True) == 1
    first = ("one", "two", "three", "four")[held.index(True)]
    assert await lock(first, 60.0)
    assert not await lock("five", 60.0)
    assert await lock("five", 60.0, "1" * 32)
    assert not await lock("five", 0.0)
    assert not await lock(first, 0.0)
    assert await lock("five", 1.0)
    async with asyncio.timeout(30):
        while not await lock("six", 60.0):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    wrongs: list[dict[str, Any]] = [{"name": "night"}, {"holder": "a b"}, {"life": 1e9}, {"life": -1.0}]
    for wrong in wrongs:
        refused = await room.say("lock", **{"name": name, "holder": "one", "life": 1.0, **wrong})
        assert refused.code is ErrorCode.BAD_REQUEST
    assert await room.say("lock", token="wrong", name=name, holder="one", life=1.0) == NOT_FOUND


async def test_who_is_alone_keeps_others_out_and_ends_where_its_lock_is_lost(
    client: Client, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_lock, "LIFE", 2.0)
    named = Named(name="r", ticket=room.ticket, context="")
    one, other = (Member(BrokerClient(client, "alice", Patience(5)), named) for _ in range(2))
    async with one.alone("night", wait=False):
        with pytest.raises(Locked):
            await other.alone("night", wait=False).__aenter__()
        await asyncio.sleep(3)  # longer than its life: it is kept
        with pytest.raises(Locked):
            await other.alone("night", wait=False).__aenter__()

    told: list[str] = []

    async def work_in_vain() -> None:
        async with other.alone("night", wait=True, on_wait=told.append):
            await room.say("remove")
            await asyncio.sleep(60)

    async with one.alone("night", wait=False):
        waiting = asyncio.ensure_future(work_in_vain())
        async with asyncio.timeout(30):
            while not told:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    with pytest.raises(Locked, match="was lost"):
        await waiting
    assert told == ["another host does night in this room; waiting for its end"]


async def test_more_than_a_broker_answers_at_once_wait_for_a_room_and_hear_of_the_next_item(
    client: Client, room: Room
) -> None:
    job, began = await stored(client), time.monotonic()
    waiting = [
        asyncio.ensure_future(room.numbers(f"c{n % 3}", f"w{n}", wait=MAX_WAIT)) for n in range(AT_ONCE + 8)
    ]
    await asyncio.sleep(0)
    await client.flush()
    number = (await room.put(job)).number  # answered, though so many wait
    assert await asyncio.gather(*waiting) == [[number]] * len(waiting)
    assert time.monotonic() - began < MAX_WAIT - 5  # not at the end of their wait
    empty = BrokerClient(client, "alice", Patience(5))
    await empty.room_mark(
        room.sealer, RoomMark(room="", token="", consumer="laptop", holder="h", had=[number])
    )
    assert (await empty.room_list(room.sealer, "laptop", wait=0.5)).items == []


async def test_a_client_that_waits_is_told_of_a_broker_that_leaves_and_rides_out_one_that_died(
    place: Place, tmp_path: Path
) -> None:
    port = free_port()
    with (
        nats_server(tmp_path, free_port(), f'http: "127.0.0.1:{port}"') as url,
        contextlib.ExitStack() as undo,
    ):
        own = Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)

        def broker() -> Any:
            return undo.enter_context(broker_process(own, tmp_path / "broker.log"))

        async def somebody_waits() -> None:
            async with asyncio.timeout(30):
                while True:
                    answer = await asyncio.to_thread(
                        HTTP.request, "GET", f"http://127.0.0.1:{port}/subsz?subs=1"
                    )
                    if b"$KV.xfer_rooms.i." in answer.data:
                        return
                    await asyncio.sleep(0.02)

        running = broker()
        client = await connected(own)
        try:
            await answers(client)
            room = Room(client)
            mine = BrokerClient(client, "alice", Patience(60))
            await mine.room_new(room.sealer, room.sealed("nightly", Purpose.ROOM_NAME))
            job = await stored(client)

            asking = asyncio.ensure_future(mine.room_list(room.sealer, "laptop", wait=MAX_WAIT))
            await somebody_waits()
            running.send_signal(signal.SIGTERM)
            assert (await asking).items == []
            assert await asyncio.to_thread(running.wait, 30) == 0

            running = broker()
            await answers(client)
            asking = asyncio.ensure_future(mine.room_list(room.sealer, "laptop", wait=1.0))
            await somebody_waits()
            running.kill()
            await asyncio.to_thread(running.wait, 30)
            broker()
            await answers(client)
            number = await mine.room_put(room.sealer, job.id, room.sealed())
            assert [item.number for item in (await asking).items] == [number]

            with pytest.raises(JobGone, match="job"):
                await mine.room_put(room.sealer, Job(client).id, room.sealed())
            with pytest.raises(NotAllowed, match="only who made the room"):
                await mine.room_remove(await _of_bob(client))
            await mine.room_leave(room.sealer, "laptop")
            await mine.room_remove(room.sealer)
            with pytest.raises(RoomGone):
                await mine.room_about(room.sealer)
        finally:
            await client.close()


async def _of_bob(client: Client) -> Sealer:
    """A room of bob's, whose ticket we have."""
    room = Room(client)
    assert isinstance(await room.new("bob"), rooms_api.RoomInfo)
    return room.sealer
