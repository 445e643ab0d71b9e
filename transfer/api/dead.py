"""The admins' verbs for dead letters: what brokers owe the store and gave up."""

from __future__ import annotations

import msgspec

from transfer.api.common import Request

DEAD_PAGE = 200


class DeadList(Request, frozen=True):
    """verb `dead_list`, admins only: what brokers owe the store and gave up, at most a page.

    begins: how the job's id does.
    """

    begins: str = ""


class DeadLetter(msgspec.Struct, frozen=True):
    """kind: of work, see `broker.debts`. reason: one sentence. time: seconds since 1970. tries: how often it was tried."""

    kind: str
    job: str
    reason: str
    time: float
    tries: int


class DeadLetters(msgspec.Struct, frozen=True):
    """more: how many there are beyond these."""

    letters: list[DeadLetter]
    more: int


class DeadRetry(Request, frozen=True):
    """verb `dead_retry`, admins only: queue it again. job: None for a page of all of them."""

    job: str | None = None


class DeadDrop(Request, frozen=True):
    """verb `dead_drop`, admins only: nobody owes it any more. job: as above."""

    job: str | None = None


class DeadSettled(msgspec.Struct, frozen=True):
    """jobs: of those that were retried or dropped; none if there is no such letter (any more)."""

    jobs: list[str]
