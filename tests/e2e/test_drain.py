"""SIGTERM while many requests are under way: each of them gets its answer, and then the broker is gone."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import msgspec
import nats.errors
from brokers import Job, Place, answers, ask, broker_process, connected, free_port, nats_server
from nats.aio.client import Client

from transfer import api, bus
from transfer.api import ErrorCode

IN_FLIGHT = 50


async def test_sigterm_with_fifty_requests_in_flight_answers_each(place: Place, tmp_path: Path) -> None:
    """The store takes half a second to fail, so that none of them is answered when the signal comes."""
    asked = asyncio.Event()

    async def slowly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(0.5)
        writer.close()

    network = await asyncio.start_server(slowly, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{network.sockets[0].getsockname()[1]}"
    with nats_server(tmp_path, free_port()) as url:
        alone = Place(url, "", {**place.env, "NATS_URL": url}, tmp_path)
        with broker_process(alone, tmp_path / "log", XFER_S3_ENDPOINT=endpoint) as process:
            client = await connected(alone)
            await answers(client, each=15)
            job = Job(client)
            assert isinstance(await job.create(), api.Created)
            asked.clear()
            asking = [asyncio.ensure_future(_one(client, job, number)) for number in range(IN_FLIGHT)]
            await asyncio.sleep(0)
            await client.flush()  # NATS has passed on all of them
            await asyncio.wait_for(asked.wait(), 20)
            process.send_signal(signal.SIGTERM)
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
            assert await asyncio.to_thread(process.wait, 30) == 0
            try:
                await client.request(bus.api_subject("alice", "info"), b"{}", timeout=5)
                raise AssertionError("somebody still answers")
            except nats.errors.NoRespondersError:
                pass
            await client.close()
    network.close()
    assert {type(outcome) for outcome in outcomes} == {api.ApiError, api.JobStatus}, outcomes
    refused = {outcome.code for outcome in outcomes if isinstance(outcome, api.ApiError)}
    assert refused <= {ErrorCode.STORE, ErrorCode.CLOCK}


async def _one(client: Client, job: Job, number: int) -> msgspec.Struct:
    """Every fifth asks for what needs no store."""
    if number % 5 == 0:
        return await ask(client, "status", api.Status(job=job.id), api.JobStatus)
    return await ask(client, "info", api.Info(), api.BrokerInfo)
