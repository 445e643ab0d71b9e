"""`xfer up`: NATS, the store and the broker: started, seen to answer, kept alive, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from transfer.errors import XferError
from transfer.local import authority, credentials, listening, nats, ports, probe, store
from transfer.local.children import Child, Service, reap_leftovers
from transfer.local.folder import Folder, write_private
from transfer.local.listening import Listening
from transfer.local.ports import LOOPBACK, Ports
from transfer.permissions import BROKER

READY_WITHIN = 20.0
"""Seconds for each of the three to answer."""
STOPPED_WITHIN = 30.0
"""Seconds after which `stop` no longer waits; more than all graces together."""
_STRANGERS = ("AWS_", "NATS_", "WEED_", "S3_", "XFER_S3_", "XFER_BUCKET", "XFER_NATS_", "XFER_CA")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class Running(msgspec.Struct, frozen=True):
    """What runs where. dir: all data. credentials_file: the NATS seed of the user `local`.

    ca: the certificate of the authority that vouches for NATS and S3; None on loopback, without TLS.
    """

    nats_url: str
    s3_endpoint: str
    bucket: str
    dir: str
    credentials_file: str
    ca: str | None = None

    @classmethod
    def of(cls, folder: Folder, block: Ports, where: Listening | None) -> Running:
        """What runs, or will, for a folder on that block of ports. where: None for loopback."""
        return cls(
            nats_url=nats.url(block, where),
            s3_endpoint=store.endpoint(block, where),
            ca=str(folder.authority) if where else None,
            bucket=store.BUCKET,
            dir=str(folder.root),
            credentials_file=str(folder.seed(credentials.LOCAL)),
        )


async def serve(
    folder: Folder,
    *,
    on_ready: Callable[[Running], None],
    tell: Callable[[str], None],
    where: Listening | None = None,
) -> None:
    """Run the servers of a folder until a SIGTERM, SIGINT or SIGHUP; a second signal kills at once.

    where: what they listen on, with TLS; None: on loopback only.
    on_ready: called once, when all three answer. tell: gets a line when a child died and is started again.
    Raises Locked if they run already, XferError with the end of a log if one does not come up.
    """
    folder.make()
    with folder.hold():
        for name in reap_leftovers(folder):
            tell(f"stopped a {name} that an earlier run had left behind")
        host = where.host if where else LOOPBACK
        with ports.claimed(folder.ports, host) as block, signals_cancel() as signalled:
            supervisor = Supervisor(folder, block, tell, where)
            try:
                await supervisor.run(on_ready)
            except asyncio.CancelledError:
                if not signalled:
                    raise


def stop(folder: Folder, *, within: float = STOPPED_WITHIN) -> bool:
    """Stop whoever runs the servers of a folder and wait until all is gone. False if nobody does.

    Raises XferError if it is still there after `within` seconds, or belongs to another user.
    """
    pid = folder.holder()
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise XferError(
            f"the servers in {folder.root} belong to another user", hint="stop them as that user"
        ) from None
    deadline = time.monotonic() + within
    while folder.holder() == pid:
        if time.monotonic() > deadline:
            raise XferError(
                f"the servers in {folder.root} (process {pid}) do not stop", hint="look into their logs there"
            )
        time.sleep(0.05)
    return True


class Supervisor:
    """The children of one folder. The folder's lock and the ports are the caller's."""

    def __init__(
        self, folder: Folder, block: Ports, tell: Callable[[str], None], where: Listening | None = None
    ) -> None:
        self._folder, self._ports, self._tell, self._where = folder, block, tell, where
        if where is not None:
            authority.ensure(folder, where)
            store.write_security(folder)
        with credentials.changing(folder):
            listening.remember(folder, where)
            nats.write_config(folder, block, credentials.ensure(folder), where)
        if not folder.rules.exists():
            write_private(folder.rules, f'admins = ["{credentials.LOCAL}"]\n'.encode())
        store.forget_gateway(folder)
        env = _environment()
        self.nats = Child(Service("nats", nats.argv(folder), folder.root, env, grace=5), folder)
        self.store = Child(
            Service("store", store.argv(folder, block, where), folder.root, env, grace=12), folder
        )
        self.gateway: Child | None = None
        if where is not None:
            argv = store.gateway_argv(folder, block, where)
            self.gateway = Child(Service("s3", argv, folder.tls, env, grace=12), folder)
        # Where we are: a relative PYTHONPATH still holds there.
        self.broker = Child(
            Service("broker", _broker_argv(), None, env | self._broker_env(), grace=14), folder
        )
        self.running = Running.of(folder, block, where)

    async def run(self, on_ready: Callable[[Running], None]) -> None:
        """Until cancelled. Nothing of it is left running, however it ends."""
        try:
            await self._start()
            on_ready(self.running)
            await asyncio.gather(*(child.keep(self._tell) for child in self._children))
        finally:
            await self._stop()

    @property
    def _children(self) -> tuple[Child, ...]:
        gateway = [self.gateway] if self.gateway else []
        return self.nats, self.store, *gateway, self.broker

    async def _start(self) -> None:
        await self.nats.start()
        await self.store.start()
        near = self._where.near if self._where else LOOPBACK
        await self._answers(self.nats, probe.nats_answers(near, self._ports.nats))
        await self._s3_answers(near)
        await self.broker.start()
        seed, ca = self._folder.seed(credentials.LOCAL), self._folder.authority if self._where else None
        asking = probe.broker_answers(self.running.nats_url, seed, credentials.LOCAL, ca)
        await self._answers(self.broker, asking)

    async def _s3_answers(self, near: str) -> None:
        if self.gateway is None or self._where is None:
            await self._answers(self.store, probe.store_answers(near, self._ports.s3))
            return
        # The gateway ends if the filer is not there yet; the filer's gRPC greets nobody, but it is open then.
        await self._answers(self.store, probe.opens(LOOPBACK, self._ports.filer + ports.GRPC))
        await self.gateway.start()
        asking = probe.store_answers(near, self._ports.s3, self._folder.authority, self._where.name)
        await self._answers(self.gateway, asking)

    async def _answers(self, child: Child, answer: Awaitable[None]) -> None:
        """Wait for an answer, but no longer than the child lives."""
        asking, ending = asyncio.ensure_future(answer), asyncio.ensure_future(child.ended())
        try:
            await asyncio.wait({asking, ending}, timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                asking.result()
                return
            how = ending.result() if ending.done() else f"does not answer after {READY_WITHIN:g} s"
        finally:
            asking.cancel()
            ending.cancel()
            await asyncio.gather(asking, ending, return_exceptions=True)
        name = child.service.name
        tail = self._folder.log_tail(name)
        raise XferError(
            f"the local {name} {how}" + (f": {tail}" if tail else ""),
            hint=f"look into {self._folder.log(name)}",
        )

    async def _stop(self) -> None:
        """The broker first, while what it talks to is there. Cancelled (a second signal): all at once."""
        try:
            await self.broker.stop()
            if self.gateway is not None:
                await self.gateway.stop()
            await asyncio.gather(self.store.stop(), self.nats.stop())
        finally:
            for child in self._children:
                child.kill()
            store.sweep_sockets(self._folder, self._ports)
            self._folder.children.unlink(missing_ok=True)

    def _broker_env(self) -> dict[str, str]:
        ca = {"XFER_CA": str(self._folder.authority)} if self._where else {}
        return {
            **ca,
            "NATS_URL": nats.url(self._ports, self._where),
            "NATS_CREDS": str(self._folder.seed(BROKER)),
            "XFER_S3_ENDPOINT": store.endpoint(self._ports, self._where),
            "XFER_BUCKET": store.BUCKET,
            "XFER_RULES": str(self._folder.rules),
            "AWS_SHARED_CREDENTIALS_FILE": str(self._folder.aws_credentials),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _broker_argv() -> list[str]:
    return [sys.executable, "-P", "-m", "transfer.broker"]


def _environment() -> dict[str, str]:
    """Ours without what would lead a child elsewhere: AWS keys and proxies of whoever started us."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_STRANGERS) and name.lower() not in _PROXIES
    }


@contextlib.contextmanager
def signals_cancel() -> Iterator[list[int]]:
    """SIGTERM, SIGINT and SIGHUP cancel the current task; yields the list of those that came.

    SIGHUP only where it is not ignored, as it is under nohup.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    came: list[int] = []

    def cancel(signum: int) -> None:
        came.append(signum)
        task.cancel()

    handled = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handled.append(signal.SIGHUP)
    for signum in handled:
        loop.add_signal_handler(signum, cancel, signum)
    try:
        yield came
    finally:
        for signum in handled:
            loop.remove_signal_handler(signum)
