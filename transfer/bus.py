"""The bus: one NATS connection, its subjects, and how one asks and tells on it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.config import to_trust
from transfer.errors import (
    BrokerAbsent,
    BusUnreachable,
    NotAllowed,
    NotConfigured,
    UntrustedServer,
)
from transfer.redact import redact
from transfer.tasks import AGAIN_SOON, ended
from transfer.unreachable import why

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

CONNECT_WITHIN = 5.0
"""Seconds that a first connection may take before it is called unreachable."""
REFUSED_WITHIN = 1.5
"""The same where every try was refused: nobody listens there, and a server that restarts is back by then."""
PING_EVERY = 10
"""Seconds. Three unanswered pings mean that the connection is lost, whatever TCP believes."""
THROWN_OUT = "no longer let in"
"""How `on_refusal` is told that the server does not know us any more."""
NO_TLS = (
    "it does not speak TLS",
    "check its address with `xfer context show`, and with whoever runs it; if nothing was changed, somebody stands between",
)
"""What is wrong with a server that should, and what to do."""
UNSENT = 1 << 16
"""Bytes that may wait for the network before what can be left out is."""


def peer_subject(user: str, job: str) -> str:
    """Where `user` hears the signals of `job`."""
    return f"xfer.peer.{user}.{job}"


def api_subject(user: str, verb: str) -> str:
    """Where a broker hears `user` ask."""
    return f"xfer.api.{user}.{verb}"


def events_subject(owner: str, job: str) -> str:
    """Where `owner` hears what happens to `job`."""
    return f"xfer.events.{owner}.{job}"


def control_subject(owner: str, job: str) -> str:
    """Where brokers tell whatever runs `job` for `owner` to look at its state; nobody else may publish there."""
    return f"xfer.control.{owner}.{job}"


def inbox_prefix(user: str) -> str:
    """Replies to `user`; only that user may subscribe below it."""
    return f"_INBOX_{user}"


async def connect(
    url: str,
    creds: Path | None,
    user: str,
    name: str,
    *,
    within: float = CONNECT_WITHIN,
    on_refusal: Callable[[str], None] | None = None,
    ca: Path | None = None,
) -> Client:
    """Connect, and keep reconnecting for ever once connected.

    Args:
        url: one server, or several separated by commas; those that they know of are tried as well once one is lost.
        creds: a NATS .creds file, or a file with a bare nkey seed (SU…); None for an open server.
        user: pins the inbox; the server's permissions must agree.
        name: shown in the server's connection list.
        within: seconds for the first connection.
        on_refusal: told what the server's permissions forbade, since NATS itself answers such a request with silence;
            and, beginning with THROWN_OUT, that it refuses our credentials when we reconnect.
        ca: PEM file of the authorities that may vouch for the server, and no others; None: those of the system.
    Raises:
        BusUnreachable: nobody answers there in time.
        NotAllowed: the server knows no such user.
        UntrustedServer: its certificate is not what it must be, or it has none; it was told nothing.
        NotConfigured: the credentials or the authorities' file is missing or is none.
    """
    from transfer.sturdy import PlainServer, SturdyClient

    shown, errors = redact(url), list[Exception]()
    refused = asyncio.Event()
    distrust: list[tuple[str, str]] = []  # what is wrong, and what to do

    async def on_error(error: Exception) -> None:
        errors.append(error)
        text = str(error).lower()
        if isinstance(error, (ssl.SSLCertVerificationError, PlainServer)):
            if isinstance(error, PlainServer):
                distrust.append(NO_TLS)
            else:
                distrust.append((error.verify_message, to_trust(ca)))
            refused.set()
        elif "timeout" not in text and ("authorization" in text or "authentication" in text):
            refused.set()  # «authentication timeout» means that our answer was long on its way
            if on_refusal is not None:
                on_refusal(f"{THROWN_OUT}: {error}")
        elif "permissions violation" in text and on_refusal is not None:
            on_refusal(str(error))
        del errors[:-4]

    client = SturdyClient()
    dialling = asyncio.ensure_future(
        client.connect(
            url.split(","),
            name=name,
            error_cb=on_error,
            connect_timeout=3,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # it sleeps so long, whatever it is annotated as
            max_reconnect_attempts=-1,
            ping_interval=PING_EVERY,
            max_outstanding_pings=2,
            inbox_prefix=inbox_prefix(user).encode(),
            **_credentials(creds),
            **_trust(ca),
        )
    )
    watching = asyncio.ensure_future(refused.wait())
    try:
        await asyncio.wait({dialling, watching}, timeout=REFUSED_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if not all(isinstance(error, ConnectionRefusedError) for error in errors) or not errors:
            left = within - REFUSED_WITHIN
            await asyncio.wait({dialling, watching}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if dialling.done():
            dialling.result()
            return client
        if distrust:
            what, hint = distrust[0]
            raise UntrustedServer(f"NATS at {shown} is not to be trusted: {what}", hint=hint)
        if refused.is_set():
            raise NotAllowed(f"NATS at {shown} does not accept these credentials")
        raise BusUnreachable(f"cannot reach NATS at {shown} ({_cause(errors)})")
    except (OSError, ValueError) as error:
        raise BusUnreachable(f"cannot reach NATS at {shown} ({error})") from None
    finally:
        await ended(dialling, watching, again=AGAIN_SOON)


def _cause(errors: list[Exception]) -> str:
    """asyncio's texts hold numbers and addresses once more: say the kind."""
    if not errors:
        return "no answer"
    last = errors[-1]
    if isinstance(last, TimeoutError):
        return "no answer"
    return why(last) or (last.strerror if isinstance(last, OSError) else str(last)) or type(last).__name__


def _credentials(creds: Path | None) -> dict[str, Any]:
    if creds is None:
        return {}
    try:
        text = creds.read_text()
    except OSError as error:
        raise NotConfigured(
            f"the NATS credentials file {creds} cannot be read ({error.strerror})",
            hint="check the context with `xfer context show`",
        ) from None
    if "BEGIN NATS USER JWT" in text:
        return {"user_credentials": creds}
    seed = text.strip()
    if not seed.startswith("SU"):
        raise NotConfigured(
            f"{creds} holds no NATS credentials", hint="give a .creds file or an nkey seed (SU…)"
        )
    return {"nkeys_seed_str": seed}


def _trust(ca: Path | None) -> dict[str, Any]:
    if ca is None:
        return {}
    try:
        return {"tls": ssl.create_default_context(cafile=ca)}
    except OSError as error:  # ssl's own errors are some, too
        raise NotConfigured(
            f"the authorities' file {ca} cannot be used ({error.strerror or error})",
            hint="it holds certificates in PEM; check the context with `xfer context show`, or XFER_CA",
        ) from None


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """What NATS says within of a connection that is lost, as BusUnreachable."""
    from nats.errors import Error

    try:
        yield
    except (Error, OSError) as error:
        raise _lost(error) from None


def _lost(error: Exception) -> BusUnreachable:
    return BusUnreachable(f"the connection to NATS is lost ({str(error) or type(error).__name__})")


async def request(client: Client, subject: str, body: bytes, within: float) -> Msg:
    """Ask and get the answer.

    Raises:
        BrokerAbsent: nobody listens there.
        BusUnreachable: the connection is lost (it is being restored meanwhile).
        TimeoutError: no answer within that many seconds.
    """
    from nats.errors import Error, NoRespondersError

    async def watch() -> None:
        while client.is_connected:  # noqa: ASYNC110 (nats-py tells of a loss only by callbacks set at connect)
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)  # a reconnect that is quick loses no request

    # Nothing is handed to a connection that is lost: nats-py would keep it, and on reconnection all tries of a
    # request would reach the brokers at once, in whatever order.
    for _ in range(5):
        if not client.is_connected:
            await asyncio.sleep(0.2)
    if not client.is_connected:
        raise BusUnreachable("the connection to NATS is lost")
    asking = asyncio.ensure_future(client.request(subject, body, timeout=within))
    watching = asyncio.ensure_future(watch())
    try:
        await asyncio.wait({asking, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done() and not client.is_connected:
            raise BusUnreachable("the connection to NATS is lost")
        return await asking
    except NoRespondersError:
        raise BrokerAbsent("NATS answers, but no broker does") from None
    except TimeoutError:  # to NATS and to the system an error like the others below
        raise
    except (Error, OSError) as error:
        raise _lost(error) from None
    finally:
        for task in (asking, watching):
            task.cancel()
        await asyncio.gather(asking, watching, return_exceptions=True)


@dataclass(frozen=True)
class ServerFacts:
    """The NATS server that a client is connected to. tls: the protocol's name, "" without. until: when its certificate
    ends, as the certificate says it; "" if there is none."""

    host: str
    version: str
    tls: str
    until: str


def facts(client: Client) -> ServerFacts:
    """What the connection shows."""
    from transfer.sturdy import tls_of, version_of

    secure = tls_of(client)
    where = client.connected_url
    return ServerFacts(
        host=(where.hostname or "") if where else "",
        version=version_of(client),
        tls=(secure.version() or "") if secure else "",
        until=str((secure.getpeercert() or {}).get("notAfter", "")) if secure else "",
    )


async def round_trip(client: Client, within: float) -> float:
    """Seconds from a ping to its pong. Raises BusUnreachable."""
    from nats.errors import Error

    begun = time.perf_counter()
    try:
        async with asyncio.timeout(within):
            await client.flush()
    except (Error, OSError, TimeoutError):
        raise BusUnreachable("NATS does not answer a ping") from None
    return time.perf_counter() - begun


@contextlib.asynccontextmanager
async def hearing(client: Client, subject: str, take: Callable[[bytes], object]) -> AsyncIterator[None]:
    """Give `take` what is published there while the block lasts. Only a hint: what is lost with a connection is lost.

    Raises BusUnreachable if there is no connection just now.
    """

    async def hear(message: Msg) -> None:
        take(message.data)

    with translated():
        subscription = await client.subscribe(subject, cb=hear)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the connection may be gone, and with it the subscription
            await subscription.unsubscribe()


async def tell(client: Client, subject: str, body: bytes, *, ttl: float | None) -> bool:
    """Publish what may as well be left out, without waiting for anything.

    ttl: seconds that a stream keeps it, None for as long as it keeps anything. Source: NATS ADR-43.
    Returns False, and publishes nothing, while the connection is lost or slower than what is said on it.
    """
    from nats.errors import Error

    if not client.is_connected or client.pending_data_size > UNSENT:
        return False
    try:
        await client.publish(subject, body, headers=None if ttl is None else {"Nats-TTL": f"{ttl:.0f}s"})
    except (Error, OSError):
        return False
    return True
