"""What a job's sends announced, read out of the stream of events for its owner, who has no access to streams."""

from __future__ import annotations

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from transfer import api, bus
from transfer.broker.job import Refusal, not_found
from transfer.broker.records import Records
from transfer.broker.streams import EVENTS
from transfer.broker.table import Table, verb
from transfer.errors import BusUnreachable
from transfer.ticket import is_job_id

READ_WITHIN = 5.0
"""Seconds that a page may take."""


class HistoryVerb:
    """Raises Refusal, BusUnreachable. The subject makes it safe: only its owner publishes there, and is asked for."""

    def __init__(self, client: Client, records: Records) -> None:
        self._client, self._records = client, records

    def table(self) -> Table:
        return {"history": verb(api.History, self.history)}

    async def history(self, user: str, request: api.History) -> api.HistoryPage:
        if not is_job_id(request.job):
            raise Refusal(api.ErrorCode.BAD_REQUEST, "that is no job id")
        if not 0 <= request.start < 1 << 63:
            raise Refusal(api.ErrorCode.BAD_REQUEST, "the first sequence is out of bounds")
        try:
            page = await self._page(bus.events_subject(user, request.job), max(1, request.start))
        except NotFoundError:
            page = api.HistoryPage([], 0, 0, more=False)
        except (NatsError, OSError) as error:
            raise BusUnreachable(f"the broker cannot read the events ({type(error).__name__})") from None
        if not page.past:
            record = await self._records.read(request.job)
            if record is None or record.owner != user:
                raise not_found()
        return page

    async def _page(self, subject: str, start: int) -> api.HistoryPage:
        jetstream = self._client.jetstream()
        state = (await jetstream.stream_info(EVENTS)).state
        reading = await jetstream.pull_subscribe(
            subject,
            stream=EVENTS,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=start,
                ack_policy=AckPolicy.NONE,
                inactive_threshold=READ_WITHIN,
                mem_storage=True,
            ),
        )
        past: list[api.Past] = []
        try:
            left = (await reading.consumer_info()).num_pending or 0
            while left and len(past) < api.HISTORY_PAGE:
                try:
                    messages = await reading.fetch(
                        min(left, api.HISTORY_PAGE - len(past)), timeout=READ_WITHIN
                    )
                except NatsTimeoutError:
                    break  # what was left is gone since: its time in the stream was over
                for message in messages:
                    left = message.metadata.num_pending or 0
                    if _is_json(message.data):
                        lasting = "Nats-TTL" not in (message.headers or {})
                        sequence = message.metadata.sequence.stream
                        past.append(api.Past(sequence, lasting, msgspec.Raw(message.data)))
        finally:
            await reading.unsubscribe()
        return api.HistoryPage(past, state.first_seq, state.last_seq, more=left > 0 and bool(past))


def _is_json(data: bytes) -> bool:
    """Its owner may have published anything; an answer must stay readable."""
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
