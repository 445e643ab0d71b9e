"""The broker's process: connect, serve, sweep, and leave in order.

`python -P -m transfer.broker` reads its settings from the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib import metadata
from typing import TypeVar

from nats.aio.client import Client
from nats.errors import Error as NatsError

from transfer import bus
from transfer.broker import dead, lifecycle, logs, streams
from transfer.broker.checkup import Checkup
from transfer.broker.debts import Debts
from transfer.broker.history import HistoryVerb
from transfer.broker.joined import joined
from transfer.broker.lease import Lease
from transfer.broker.owner import OwnerVerbs
from transfer.broker.pace import Pace
from transfer.broker.quotas import Quotas
from transfer.broker.records import Records
from transfer.broker.rights import Rights
from transfer.broker.room_records import RoomRecords
from transfer.broker.rooms import RoomVerbs
from transfer.broker.rules import RuleBook
from transfer.broker.service import Service
from transfer.broker.settings import Settings
from transfer.broker.store import Store
from transfer.broker.sweeper import Sweeper, keep_sweeping
from transfer.broker.usage import Usage
from transfer.broker.verbs import Verbs
from transfer.broker.watching import keep_looking, observed
from transfer.broker.work import Queue
from transfer.broker.workers import Workers
from transfer.errors import Temporary, XferError
from transfer.permissions import BROKER
from transfer.tasks import AGAIN_SOON, ended, together

log = logging.getLogger(__name__)

FIRST_RETRY, LAST_RETRY = 0.25, 5.0
CONNECT_WITHIN = 2.0
"""Seconds until it is said that NATS is waited for."""
CLOSE_WITHIN = 5.0
Result = TypeVar("Result")


async def serve(settings: Settings, ready: Callable[[], None] | None = None) -> None:
    """Run a broker until SIGTERM, SIGINT or cancellation; then answer what has arrived and return.

    NATS being down is ridden out, at start and later; without the store it starts and answers STORE.

    Args:
        ready: called once requests are answered, and the store has been reached.
    Raises:
        NotAllowed: NATS does not accept the credentials. UntrustedServer: it is not the one that XFER_CA vouches for.
        NotConfigured: the credentials file is missing or is none, or the rules cannot be read.
        UsageError: the rules make no sense.
    """
    running = asyncio.create_task(_run(settings, ready))
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        running.cancel()

    with _on_signals(stop):
        try:
            await running
        except asyncio.CancelledError:
            if not stopped:
                raise


async def _run(settings: Settings, ready: Callable[[], None] | None) -> None:
    version = _version()
    rulebook = RuleBook(settings.rules)
    async with contextlib.AsyncExitStack() as undo:
        store = Store(
            endpoint_url=settings.endpoint_url,
            bucket=settings.bucket,
            region=settings.region,
            prefix=settings.prefix,
            url_life=settings.url_life,
            ca=settings.ca,
        )
        undo.callback(store.close)
        observer = await undo.enter_async_context(observed(settings.metrics, version))
        store.observer = observer
        rights = Rights()
        observer.lacks(lambda: rights.missing)
        client = await _patiently("NATS", lambda: _connect(settings, rights))
        undo.push_async_callback(_leave, client)
        trying = asyncio.create_task(
            rights.keep(client)
        )  # what follows may wait in vain for what is forbidden
        undo.push_async_callback(ended, trying)
        records = await _patiently("JetStream", lambda: Records.attach(client, settings.replicas))
        quotas = await _patiently(
            "JetStream",
            lambda: Quotas.attach(client, records, lambda: rulebook.rules.quota, settings.replicas),
        )
        undo.push_async_callback(quotas.close)
        rooms = await _patiently("JetStream", lambda: RoomRecords.attach(client, settings.replicas))
        queue = Queue(client, replicas=settings.replicas)
        debts = Debts(records, store, queue, quotas)
        kinds = debts.kinds()
        usage = Usage(quotas, lambda: rulebook.rules)
        groups = (
            Verbs(
                records,
                store,
                debts.owe,
                version=version,
                unfinished_life=settings.unfinished_life,
                quotas=quotas,
                observer=observer,
            ),
            OwnerVerbs(client, records, debts.owe, unfinished_life=settings.unfinished_life),
            HistoryVerb(client, records),
            RoomVerbs(rooms, records),
            dead.DeadLetters(queue, kinds, rulebook),
            usage,
            Checkup(client, store, rights, version=version),
        )
        table = {name: verb for group in groups for name, verb in group.table().items()}
        pace = Pace(lambda user: rulebook.rules.quota.of(user).requests_per_minute)
        service = Service(client, pace.over(joined(table)), version=version, observer=observer)
        workers = Workers(client, queue, kinds, tries=settings.work_tries)
        undo.push_async_callback(lambda: asyncio.gather(service.drain(), workers.stop()))
        await _patiently("NATS", service.start)
        workers.start()
        sweeper = Sweeper(
            records,
            store,
            debts.owe_again,
            orphan_age=settings.orphan_age,
            quotas=quotas,
            observer=observer,
        )
        lease = Lease(client, "sweeper", replicas=settings.replicas)
        await together(
            rulebook.keep_current(),
            keep_looking(client, observer, usage.shares),
            quotas.keep(),
            _meet_store(store, settings, ready),
            _patiently("the stream of events", lambda: streams.keep_events(client, settings.replicas)),
            lease.keep(
                lambda: keep_sweeping(sweeper, every=settings.sweep_every, orphans_every=settings.orphan_age)
            ),
        )


async def _meet_store(store: Store, settings: Settings, met: Callable[[], None] | None) -> None:
    await _patiently("the store", store.check)
    if met is not None:
        met()
    if settings.lifecycle:
        await _patiently("the store", lambda: lifecycle.install(store, settings.unfinished_life))


async def _connect(settings: Settings, rights: Rights) -> Client:
    return await bus.connect(
        settings.nats_url,
        settings.nats_creds,
        BROKER,
        "xfer broker",
        within=CONNECT_WITHIN,
        on_refusal=rights.heard,
        ca=settings.ca,
    )


async def _patiently(what: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat what fails for now until it does not; each new reason is said once."""
    said, pause = "", FIRST_RETRY
    while True:
        trying = asyncio.ensure_future(attempt())
        try:
            await asyncio.wait({trying})
            return trying.result()
        except Temporary as error:
            if type(error).__name__ != said:
                log.warning("waiting for %s: %s", what, _without_passwords(error.what))
            said = type(error).__name__
        finally:
            await ended(trying, again=AGAIN_SOON)
        await asyncio.sleep(pause)
        pause = min(LAST_RETRY, 2 * pause)


async def _leave(client: Client) -> None:
    """Say what is still to be said and hang up; a connection that is down has nothing to say."""
    with contextlib.suppress(NatsError, TimeoutError):
        async with asyncio.timeout(CLOSE_WITHIN):
            await client.drain()
    if not client.is_closed:
        with contextlib.suppress(OSError):
            await client.close()


@contextlib.contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM or SIGINT stops; a second one ends the process at once.

    Where the loop takes no handlers (Windows, or not the main thread) asyncio.run's own SIGINT cancels us.
    """
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def restore() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def first() -> None:
        restore()
        stop()

    try:
        for number in signals:
            loop.add_signal_handler(number, first)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        restore()


def _without_passwords(text: str) -> str:
    """Addresses may carry user:password@, or a token."""
    return re.sub(r"//[^/\s]*@", "//", text)


def _version() -> str:
    try:
        return metadata.version("xfer")
    except metadata.PackageNotFoundError:
        return "0.0.0"


def main() -> int:
    """Returns the exit code."""
    logs.configure("text")
    try:
        settings = Settings.from_environment(os.environ)
        logs.configure(settings.log)
        asyncio.run(serve(settings, lambda: log.info("ready, bucket %s", settings.bucket)))
    except XferError as error:
        log.error("%s; %s", _without_passwords(error.what), error.next_step)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:
        log.exception("a bug ended the broker")  # so that its traceback, too, goes by way of `logs`
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
