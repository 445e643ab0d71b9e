"""Live: a watcher on the bus sees what a transfer does while it does it; nobody else does, and it never costs a transfer."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import nats
import pytest
from brokers import free_port, nats_server
from helpers import MIB, Background, Two
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import APIError

from transfer import bus
from transfer.announce import EVERY, Announcement
from transfer.broker import streams
from transfer.broker.records import Records
from transfer.events import Progress
from transfer.permissions import permissions

if TYPE_CHECKING:
    from tests.conftest import Servers

SOON = 20.0


@dataclass
class Watcher:
    """Everything announced to a user from now on, with the time it came (seconds since 1970)."""

    heard: list[tuple[float, str, Announcement]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    async def take(self, message: Msg) -> None:
        self.raw.append(message.data)
        said = msgspec.json.decode(message.data, type=Announcement)
        self.heard.append((time.time(), message.subject, said))

    def of(self, job: str) -> list[Announcement]:
        return [said for _, subject, said in self.heard if subject == f"xfer.events.local.{job}"]

    async def end_of(self, job: str) -> list[Announcement]:
        """All of a job's announcements; waits for the last one."""
        async with asyncio.timeout(SOON):
            while not any(said.event == "end" for said in self.of(job)):  # noqa: ASYNC110 (filled by a callback)
                await asyncio.sleep(0.02)
        return self.of(job)


@asynccontextmanager
async def watching(servers: Servers) -> AsyncIterator[Watcher]:
    """As the owner, with nothing but a subscription."""
    client = await bus.connect(servers.nats_url, servers.creds, "local", "watcher")
    watcher = Watcher()
    await client.subscribe("xfer.events.local.>", cb=watcher.take)
    await client.flush()
    try:
        yield watcher
    finally:
        await client.close()


@asynccontextmanager
async def as_broker(servers: Servers) -> AsyncIterator[Client]:
    client = await bus.connect(servers.nats_url, servers.dir / "credentials/broker.nk", "broker", "test")
    try:
        yield client
    finally:
        await client.close()


def in_order(told: list[Announcement]) -> None:
    assert [said.seq for said in told] == list(range(len(told)))
    assert len({said.run for said in told}) == 1
    assert all(
        a.done <= b.done and a.wire <= b.wire and a.kept <= b.kept for a, b in itertools.pairwise(told)
    )
    assert all(a.time <= b.time for a, b in itertools.pairwise(told))
    assert [said.event for said in told] == ["progress"] * (len(told) - 1) + ["end"]


async def ended(process: Background) -> Background:
    return await asyncio.to_thread(process.end)


async def test_a_watcher_sees_a_stored_send_from_its_beginning_to_its_end(two: Two, servers: Servers) -> None:
    async with watching(servers) as watcher:
        sent = await ended(two.send("--wait", "0", two.file("secret name", 5 * MIB)))
        told = await watcher.end_of(sent.summary.job)
    in_order(told)
    last = told[-1]
    assert (last.state, last.route, last.done, last.total, last.files) == (
        "stored",
        "s3",
        5 * MIB,
        5 * MIB,
        1,
    )
    assert (last.segments, last.receipts, last.code, last.wire) == (1, 0, None, sent.summary.wire)
    assert last.expires == pytest.approx(time.time() + 86_400, abs=60)
    for body in watcher.raw:
        assert b"secret name" not in body
        assert sent.ticket.encode() not in body
        assert sent.summary.digest.encode() not in body


async def test_a_watcher_sees_a_direct_transfer_as_it_moves(two: Two, servers: Servers) -> None:
    async with watching(servers) as watcher:
        sending = two.send("--via", "webrtc", two.file("f", 300 * MIB))
        await ended(two.fetch(await asyncio.to_thread(lambda: sending.ticket)))
        told = await watcher.end_of((await ended(sending)).summary.job)
    in_order(told)
    assert told[0].state in ("starting", "waiting")
    assert len({said.done for said in told if said.state == "moving"}) >= 3
    assert (told[-1].state, told[-1].route, told[-1].receipts) == ("receipt", "webrtc", 1)
    assert told[-1].done == 300 * MIB
    seconds = told[-1].time - told[0].time
    assert len(told) <= seconds / EVERY + 2


async def test_a_failure_is_announced_by_its_code_and_class(two: Two, servers: Servers) -> None:
    async with watching(servers) as watcher:
        failed = two.send("--via", "webrtc", "--wait", "1s", two.file("f", 1000))
        job = await asyncio.to_thread(lambda: failed.ticket[6:22])
        told = await watcher.end_of(job)
        assert (await ended(failed)).code == 5
    assert [said.state for said in told][-2:] == ["waiting", "failed"]
    assert told[-2].waiting == "receiver"
    assert (told[-1].code, told[-1].kind) == (5, "PeerAbsent")


async def test_every_run_of_a_job_is_told_apart_and_says_how_it_ended(two: Two, servers: Servers) -> None:
    import signal

    source = two.file("f", 1000)
    async with watching(servers) as watcher:
        first = two.send(source)
        job = await asyncio.to_thread(lambda: first.ticket[6:22])
        first.signal(signal.SIGINT)
        assert (await watcher.end_of(job))[-1].state == "interrupted"
        await ended(first)
        again = await ended(two.send("--wait", "0", source))
        assert again.summary.job == job
        async with asyncio.timeout(SOON):
            while watcher.of(job)[-1].state != "stored":  # noqa: ASYNC110 (filled by a callback)
                await asyncio.sleep(0.02)
    runs = [list(told) for _, told in itertools.groupby(watcher.of(job), key=lambda said: said.run)]
    assert len(runs) == 2
    for told in runs:
        in_order(told)


async def test_the_brokers_keep_the_story_and_not_every_step_of_it(two: Two, servers: Servers) -> None:
    sent = await ended(two.send("--wait", "0", two.file("f", 5 * MIB)))
    async with as_broker(servers) as client:
        jetstream = client.jetstream()
        config = (await jetstream.stream_info(streams.EVENTS)).config
        assert (config.subjects, config.max_age) == (["xfer.events.>"], 7 * 86_400)
        found = await jetstream.subscribe(
            f"xfer.events.local.{sent.summary.job}",
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL),
        )
        kept: list[Announcement] = []
        while not kept or kept[-1].event != "end":
            message = await found.next_msg(5)
            said = msgspec.json.decode(message.data, type=Announcement)
            ttl = (message.headers or {}).get("Nats-TTL")
            assert ttl in (None, "120s")
            if ttl is None:
                kept.append(said)
        await found.unsubscribe()
    assert [said.kept for said in kept] == list(range(1, len(kept) + 1))
    assert kept[-1].state == "stored"


# --- who may


def two_users(folder: Path) -> str:
    """Permissions as `xfer up` gives them, for alice, bob and the broker."""
    users = [
        {"user": name, "password": name, "permissions": permissions(name)}
        for name in ("alice", "bob", "broker")
    ]
    return f"authorization: {json.dumps({'users': users})}"


async def test_what_one_user_announces_another_neither_hears_nor_fakes(tmp_path: Path) -> None:
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error).lower())

    heard: list[bytes] = []

    async def take(message: Msg) -> None:
        heard.append(message.data)

    with nats_server(tmp_path, free_port(), two_users(tmp_path)) as url:
        people = {}
        for name in ("alice", "bob"):
            async with asyncio.timeout(SOON):
                people[name] = await nats.connect(url, user=name, password=name, error_cb=on_error)
        alice, bob = people.values()
        await alice.subscribe("xfer.events.alice.>", cb=take)
        await bob.subscribe("xfer.events.alice.>", cb=take)
        await bob.subscribe("xfer.events.>", cb=take)
        await bob.publish(bus.events_subject("alice", "j"), b"faked")
        await bob.flush()
        await alice.publish(bus.events_subject("alice", "j"), b"true")
        await alice.flush()
        await bob.flush()
        for user in (alice, bob):
            await user.close()
    assert heard == [b"true"]
    assert len([said for said in refused if "permissions violation for subscription" in said]) == 2
    assert len([said for said in refused if "permissions violation for publish" in said]) == 1


# --- the stream, whoever makes it


async def test_any_number_of_brokers_make_the_streams_at_once_and_a_newer_one_moves_the_limits(
    tmp_path: Path,
) -> None:
    with nats_server(tmp_path, free_port()) as url:
        async with asyncio.timeout(SOON):
            clients = [await bus.connect(url, None, "broker", "test") for _ in range(6)]
        older = StreamConfig(
            name=streams.EVENTS,
            subjects=["xfer.events.>"],
            max_age=60.0,
            allow_msg_ttl=True,
            metadata={"by": "operator"},
        )
        jetstream = clients[0].jetstream()
        made = await asyncio.gather(
            *(streams.keep_events(client) for client in clients[:3]),
            *(Records.attach(client) for client in clients),
            jetstream.add_stream(older),
            *(streams.keep_events(client) for client in clients[3:]),
            return_exceptions=True,
        )
        assert [
            problem
            for problem in made
            if isinstance(problem, Exception) and not isinstance(problem, APIError)
        ] == []
        assert len({found.realm for found in made if isinstance(found, Records)}) == 1
        await jetstream.update_stream(older)
        await asyncio.gather(*(streams.keep_events(client) for client in clients))
        config = (await jetstream.stream_info(streams.EVENTS)).config
        assert (config.max_age, config.max_msgs_per_subject, config.allow_msg_ttl) == (7 * 86_400, 4000, True)
        assert config.metadata is not None
        assert config.metadata["by"] == "operator"
        for client in clients:
            await client.close()


# --- how soon


@pytest.mark.long
@pytest.mark.parametrize("via", ["webrtc", "s3"])
async def test_progress_reaches_a_watcher_within_half_a_second(two: Two, servers: Servers, via: str) -> None:
    """The lag of each progress event: from its line on the sender's stdout to an announcement of as much."""
    came: list[tuple[float, int]] = []
    async with watching(servers) as watcher:
        sending = two.send("--via", via, two.file("f", 600 * MIB))
        fetching = two.fetch(await asyncio.to_thread(lambda: sending.ticket))
        seen = 0
        while sending.running:
            for line in sending._lines[seen:]:
                seen += 1
                event = msgspec.json.decode(line)
                if event["event"] == Progress.__struct_config__.tag:
                    came.append((time.time(), event["done"]))
            await asyncio.sleep(0.002)
        told = await watcher.end_of(sending.summary.job)
        await ended(fetching)
    arrived = [(when, said.done) for when, subject, said in watcher.heard if subject.endswith(told[0].job)]
    lags = sorted(next(when for when, done in arrived if done >= least) - since for since, least in came[:-1])
    print(
        f"{via}: {len(lags)} events, p50 {statistics.median(lags) * 1000:.0f} ms, "
        f"p99 {lags[int(len(lags) * 0.99)] * 1000:.0f} ms, {len(told) / (told[-1].time - told[0].time):.2f} a second"
    )
    assert len(lags) >= 8
    assert lags[int(len(lags) * 0.99)] < 0.5
    assert len(told) <= (told[-1].time - told[0].time) / EVERY + 2
