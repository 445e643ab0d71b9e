"""Streams that brokers make and keep right: any number of brokers may do so at once, and a newer one moves the limits."""

from __future__ import annotations

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from transfer.errors import BusUnreachable

EVENTS = "xfer_events"
NAME_IN_USE = 10058
"""Source: nats-server errors.json, JSStreamNameExistErr."""

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


async def keep_events(client: Client) -> None:
    """Make the stream of events, or give it its limits. Transfers go on without it.

    Raises BusUnreachable, whatever stands in the way.
    """
    try:
        await ensure(client.jetstream(), _EVENTS)
    except APIError as error:
        raise BusUnreachable(f"JetStream refuses the stream {EVENTS} ({error.description})") from None
    except (NatsError, OSError) as error:
        raise BusUnreachable(f"JetStream does not answer ({type(error).__name__})") from None


async def ensure(jetstream: JetStreamContext, wanted: StreamConfig) -> None:
    """Make that stream, or make it what is wanted. What `wanted` leaves open (replicas, placement) stays as it is.

    Raises nats.errors.Error.
    """
    name = wanted.name or ""
    fields = {
        field: value for field, value in vars(wanted).items() if value != getattr(StreamConfig(), field)
    }
    try:
        await keep_right(jetstream, name, **fields)
    except NotFoundError:
        try:
            await jetstream.add_stream(wanted)
        except BadRequestError as error:  # made with other limits in the meantime
            if error.err_code != NAME_IN_USE:
                raise
            await keep_right(jetstream, name, **fields)


async def keep_right(jetstream: JetStreamContext, stream: str, **fields: object) -> None:
    """Change these of a stream's settings, if they differ. Raises NotFoundError, and as `ensure`."""
    config = (await jetstream.stream_info(stream)).config
    if any(getattr(config, field) != value for field, value in fields.items()):
        await jetstream.update_stream(config.evolve(**fields))
