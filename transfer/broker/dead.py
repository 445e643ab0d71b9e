"""Verbs about dead letters: what brokers owe and gave up. Only for the admins of the operator's rules."""

from __future__ import annotations

from transfer import api
from transfer.api import ErrorCode
from transfer.broker.job import Refusal
from transfer.broker.rules import RuleBook
from transfer.broker.table import Table, verb
from transfer.broker.work import Item, Kinds, Queue
from transfer.ticket import is_job_id


class DeadLetters:
    """One method a verb. Every method is idempotent. Raises Refusal, or what the queue raises."""

    def __init__(self, queue: Queue, kinds: Kinds, rulebook: RuleBook) -> None:
        self._queue, self._kinds, self._rulebook = queue, kinds, rulebook

    def table(self) -> Table:
        return {
            "dead_list": verb(api.DeadList, self.show),
            "dead_retry": verb(api.DeadRetry, self.retry),
            "dead_drop": verb(api.DeadDrop, self.drop),
        }

    async def show(self, user: str, request: api.DeadList) -> api.DeadLetters:
        self._admit(user)
        dead = sorted(item for item in await self._queue.dead() if item.job.startswith(request.begins))
        letters = []
        for item in dead[: api.DEAD_PAGE]:
            letter = await self._queue.letter(item)
            if letter is not None:
                row = api.DeadLetter(item.kind, item.job, letter.reason, letter.time, letter.tries)
                letters.append(row)
        return api.DeadLetters(letters, more=max(0, len(dead) - api.DEAD_PAGE))

    async def retry(self, user: str, request: api.DeadRetry) -> api.DeadSettled:
        """Queued first: should we die before the letter is gone, it is done or dies again."""
        items = await self._chosen(user, request.job)
        for item in items:
            await self._queue.enqueue(item)
            await self._queue.unbury(item)
        return api.DeadSettled([item.job for item in items])

    async def drop(self, user: str, request: api.DeadDrop) -> api.DeadSettled:
        items = await self._chosen(user, request.job)
        for item in items:
            if item.kind in self._kinds:
                await self._kinds[item.kind].give_up(item.job)
            await self._queue.unbury(item)
        return api.DeadSettled([item.job for item in items])

    async def _chosen(self, user: str, job: str | None) -> list[Item]:
        """As many as can be settled in the time of one request; whoever wants all asks until none is left."""
        self._admit(user)
        if job is not None and not is_job_id(job):
            raise Refusal(ErrorCode.BAD_REQUEST, "that is no job id")
        chosen = sorted(item for item in await self._queue.dead() if job in (None, item.job))
        return chosen[: api.DEAD_PAGE]

    def _admit(self, user: str) -> None:
        if user not in self._rulebook.rules.admins:
            raise Refusal(ErrorCode.NOT_ALLOWED, "only admins may see and settle what brokers owe")
