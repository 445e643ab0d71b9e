"""Streams that brokers make and keep right: any number of brokers may do so at once, and a newer one moves the limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from transfer.errors import BusUnreachable, UsageError

EVENTS = "xfer_events"
NAME_IN_USE = 10058
"""Source: nats-server errors.json, JSStreamNameExistErr."""
NO_CLUSTER = 10074
"""Source: the same, JSStreamReplicasNotSupportedErr."""

_EVENTS = StreamConfig(
    name=EVENTS,
    description="what transfers announce",
    subjects=["xfer.events.>"],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    discard=DiscardPolicy.OLD,
    max_age=7 * 86_400.0,
    # An hour leaves some 460 announcements that last (see `announce.KEPT_SHARE`) and 600 of the last two minutes.
    max_msgs_per_subject=4000,
    max_bytes=256 << 20,
    max_msg_size=4096,
    allow_msg_ttl=True,
    no_ack=True,
)


async def keep_events(client: Client, replicas: int = 1) -> None:
    """Make the stream of events, or give it its limits. Transfers go on without it.

    Raises BusUnreachable, whatever stands in the way.
    """
    try:
        await ensure(client.jetstream(), _EVENTS, replicas)
    except APIError as error:
        raise BusUnreachable(f"JetStream refuses the stream {EVENTS} ({error.description})") from None
    except (NatsError, OSError) as error:
        raise BusUnreachable(f"JetStream does not answer ({type(error).__name__})") from None


async def ensure(jetstream: JetStreamContext, wanted: StreamConfig, replicas: int = 1) -> None:
    """Make that stream, or make it what is wanted. What `wanted` leaves open (placement) stays as it is.

    replicas: at least so many. Raises nats.errors.Error, and as `raise_replicas`.
    """
    name = wanted.name or ""
    fields = {
        field: value for field, value in vars(wanted).items() if value != getattr(StreamConfig(), field)
    }
    try:
        await keep_right(jetstream, name, **fields)
    except NotFoundError:
        try:
            with needs_cluster(replicas):
                await jetstream.add_stream(wanted.evolve(num_replicas=replicas))
        except BadRequestError as error:  # made with other limits in the meantime
            if error.err_code != NAME_IN_USE:
                raise
            await keep_right(jetstream, name, **fields)
    await raise_replicas(jetstream, name, replicas)


async def raise_replicas(jetstream: JetStreamContext, stream: str, replicas: int) -> None:
    """Keep a stream on at least so many servers; one that has more keeps them: that is an operator's doing.

    Raises UsageError if these servers are no cluster, NotFoundError, and nats.errors.Error.
    """
    config = (await jetstream.stream_info(stream)).config
    if (config.num_replicas or 1) < replicas:
        with needs_cluster(replicas):
            await jetstream.update_stream(config.evolve(num_replicas=replicas))


@contextmanager
def needs_cluster(replicas: int) -> Iterator[None]:
    """What asks for so many replicas within raises UsageError where NATS is a single server."""
    try:
        yield
    except APIError as error:
        if error.err_code != NO_CLUSTER:
            raise
        raise UsageError(
            f"XFER_REPLICAS is {replicas}, but NATS is a single server",
            hint="leave it out, or let NATS run as a cluster of as many servers",
        ) from None


async def keep_right(jetstream: JetStreamContext, stream: str, **fields: object) -> None:
    """Change these of a stream's settings, if they differ. Raises NotFoundError, and as `ensure`."""
    config = (await jetstream.stream_info(stream)).config
    if any(getattr(config, field) != value for field, value in fields.items()):
        await jetstream.update_stream(config.evolve(**fields))
