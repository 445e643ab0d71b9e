"""NATS, and by way of it the broker, its streams, the store and the clocks."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

from transfer import api, bus
from transfer.broker_client import BrokerBusy, BrokerClient, Patience, connected
from transfer.config import Context
from transfer.doctor.brokers import ASKED, Seen, ask_all, named, worst_finding, worst_of
from transfer.doctor.finding import Finding, away, failed
from transfer.doctor.host import installed
from transfer.errors import BrokerAbsent, BusUnreachable, NotAllowed, StoreUnreachable, XferError
from transfer.rights import missing

NATS, TLS, RIGHTS, BROKER, JETSTREAM, S3, CLOCKS = CHECKS = (
    *("NATS", "TLS", "rights"),
    *("broker", "JetStream", "S3", "clocks"),
)
PING_WITHIN = 2.0
PROBE = 64
"""Bytes."""
NOTABLE, TOO_FAR = 5.0, 300.0
"""Seconds between two clocks: worth a word; so far that the broker refuses to sign (`bucket.MAX_SKEW`)."""
ALL_AGREE = "this machine, the broker and the store agree"
_BESIDE = {"xfer_events": "cannot be watched", "KV_xfer_rooms": "reach no room"}
"""Streams without which there are transfers, and what is lost."""
Answer = TypeVar("Answer")
Tell = Callable[[Finding], None]


async def look(context: Context, tell: Tell) -> str:
    """Check what can be; returns the check that keeps those behind it from being made, "" for none."""
    try:
        async with connected(context, "xfer doctor", Patience(0)) as (client, broker):
            took = await bus.round_trip(client, PING_WITHIN)
            facts = bus.facts(client)
            where = f"{context.public_url} as {context.user}"
            tell(Finding(NATS, "ok", f"{where}: {_ms(took)}, nats-server {facts.version}"))
            tell(_tls(facts))
            tell(_rights(context.user, await missing(client, context.user, broker.refusals)))
            return await _behind(broker, tell)
    except XferError as error:
        tell(failed(NATS, error, hint=_nats_hint(context, error)))
        return NATS


def _nats_hint(context: Context, error: XferError) -> str:
    """Empty where the error itself says it best."""
    if isinstance(error, NotAllowed):
        return (
            f"user {context.user} was removed there, or has a new key: have whoever runs the servers look (`xfer user ls`)"
            f" and give you a new invite (`xfer invite {context.user}`), then `xfer join` it"
        )
    if isinstance(error, BusUnreachable):
        return (
            f"check the context with `xfer context show {context.name}`; "
            "local servers start with `xfer up --detach`"
        )
    return ""


def _tls(facts: bus.ServerFacts) -> Finding:
    if facts.tls:
        until = f", its certificate ends {facts.until}" if facts.until else ""
        return Finding(TLS, "ok", f"{facts.tls}{until}")
    if _is_here(facts.host):
        return Finding(TLS, "ok", "none, and none needed: NATS is on this machine")
    return Finding(
        TLS,
        "note",
        "none: signed URLs cross the network in the clear",
        "give NATS a certificate, and use tls://",
    )


def _rights(user: str, lacking: list[str]) -> Finding:
    if not lacking:
        return Finding(RIGHTS, "ok", "NATS lets this user say and hear all that it needs")
    return Finding(
        RIGHTS,
        "fail",
        f"NATS does not let user {user} {', '.join(lacking)}",
        "have the operator install the permissions anew that `xfer broker permissions` prints for this user",
        NotAllowed.code,
    )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _behind(broker: BrokerClient, tell: Tell) -> str:
    try:
        seen = await ask_all(broker)
    except XferError as error:
        tell(failed(BROKER, error, hint=_broker_hint(error)))
        return BROKER
    tell(worst_of(seen, lambda one: _broker(one.report, one.took)))
    tell(worst_of(seen, lambda one: _jetstream(one.report)))
    tell(await _s3(broker, seen))
    tell(worst_of(seen, lambda one: _clocks(one.ahead, one.report.skew)))
    return ""


def _broker(report: api.CheckupReport, took: float) -> Finding:
    said = f"xfer {report.version} answers in {_ms(took)}, bucket {report.bucket}"
    ours = installed("xfer")
    if report.rights:
        lacking = f"NATS does not let the broker {', '.join(report.rights)}"
        mend = "have the operator install the permissions anew that `xfer broker permissions` prints for it"
        return Finding(BROKER, "fail", lacking, mend, NotAllowed.code)
    if report.version != ours:
        return Finding(BROKER, "note", said, f"this xfer is {ours}: upgrade the older one")
    return Finding(BROKER, "ok", said)


def _broker_hint(error: XferError) -> str:
    """Empty where the error itself says it best."""
    if isinstance(error, BrokerAbsent) and not isinstance(error, BrokerBusy):
        return "start one (`xfer broker`, or `xfer up` for local servers), or look into its log"
    return ""


def _jetstream(report: api.CheckupReport) -> Finding:
    wrong = {name: what for name, what in report.streams.items() if what}
    if not wrong:
        return Finding(JETSTREAM, "ok", "job records, rooms and events answer")
    said = "; ".join(f"{name}: {what}" for name, what in wrong.items())
    if set(wrong) <= set(_BESIDE):
        without = " and ".join(what for name, what in _BESIDE.items() if name in wrong)
        return Finding(JETSTREAM, "note", said, f"transfers work, but {without}; look into the broker's log")
    return away(
        JETSTREAM, said, "have the operator look at JetStream on the NATS servers, and at the broker's log"
    )


async def _s3(broker: BrokerClient, seen: list[Seen]) -> Finding:
    """What the brokers see of the store, else a round trip by what each of them signs, as likely as can be."""
    found = worst_of(seen, lambda one: _store(one.report))
    if found.state == "fail":
        return found
    import transfer.transports.s3.connections  # noqa: F401  # urllib3, whose import is not the store's time

    slots = secrets.SystemRandom().sample(range(api.PROBE_SLOTS), ASKED if len(seen) > 1 else 1)
    return worst_finding(await asyncio.gather(*(_probe(broker, slot) for slot in slots)))


def _store(report: api.CheckupReport) -> Finding:
    if report.store:
        return away(S3, report.store, "have the operator check the store, and the broker's AWS_* and clock")
    return Finding(S3, "ok", "")


async def _probe(broker: BrokerClient, slot: int) -> Finding:
    from transfer.transports.s3.http import crc32c

    data = os.urandom(PROBE)
    begun = time.perf_counter()
    try:
        urls = await broker.probe(slot, len(data), crc32c([data]))
    except XferError as error:
        return failed(S3, error)
    try:
        host = await _round_trip(broker, urls, data, slot)
    except XferError as error:
        return named(failed(S3, error, hint=_store_hint(error)), urls.broker)
    took = _ms(time.perf_counter() - begun)
    return Finding(S3, "ok", f"{host}: {PROBE} bytes put, read and deleted in {took}")


def _store_hint(error: XferError) -> str:
    """Empty where the error itself says it best."""
    from transfer.transports.s3.http import SignatureRefused

    if isinstance(error, SignatureRefused):
        return "have the operator check the broker's AWS_* keys, what they are allowed in the bucket, and its clock"
    if isinstance(error, StoreUnreachable):
        return "the broker reaches the store, this machine does not: check name, firewall, proxy"
    return ""


async def _round_trip(broker: BrokerClient, urls: api.ProbeUrls, data: bytes, slot: int) -> str:
    """Put, read, compare, delete; the store's scheme and host, and the proxy on the way there."""
    from transfer.transports.s3.http import StoreHttp
    from transfer.transports.s3.proxies import proxy_for, shown

    http = StoreHttp(1, ca=broker.ca)
    try:
        await _in_thread(lambda: http.put(urls.put, [data]))
        back = await _in_thread(lambda: http.get(urls.get, 0, len(data)))
    finally:
        http.close()
        await broker.probe_end(slot)
    if back != data:
        raise StoreUnreachable("the store gives back other bytes than were put", hint="do not use this store")
    parts = urlsplit(urls.put.url)
    proxy = proxy_for(urls.put.url)
    way = f" by way of the proxy {shown(proxy)}" if proxy else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{way}"


async def _in_thread(work: Callable[[], Answer]) -> Answer:
    """In a thread that nobody waits for at the end: a store that is silent may hold it for long."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Answer] = loop.create_future()

    def settle(answer: Answer | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)  # type: ignore[arg-type]  # None only where that is the answer

    def run() -> None:
        answer, failure = None, None
        try:
            answer = work()
        except Exception as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, answer, failure)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await future


def _clocks(ahead: float, skew: float | None) -> Finding:
    """ahead: seconds that we are ahead of the broker; skew: that the broker is ahead of the store."""
    ours, theirs = _apart("this machine", ahead, "the broker"), _apart("the broker", skew or 0.0, "the store")
    said = ALL_AGREE if ours.endswith("agree") and theirs.endswith("agree") else f"{ours}; {theirs}"
    if abs(skew or 0.0) > TOO_FAR:
        return away(
            CLOCKS, theirs, "have the operator set the broker's clock (NTP): signed URLs do not work so"
        )
    if abs(ahead) > TOO_FAR:
        return away(CLOCKS, ours, "set this machine's clock (NTP)")
    if max(abs(ahead), abs(skew or 0.0)) > NOTABLE:
        return Finding(CLOCKS, "note", said, "let all of them ask a time server (NTP)")
    return Finding(CLOCKS, "ok", said)


def _apart(one: str, ahead: float, other: str) -> str:
    if abs(ahead) < 1.5:  # a store tells its time in whole seconds
        return f"{one} and {other} agree"
    return f"{one} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {other}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
