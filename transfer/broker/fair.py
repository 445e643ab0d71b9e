"""Whose request is answered next, and whose is told to come again, when there are more than can be answered. No I/O.

Users have turns, however many requests each of them has waiting; none may have all places of those that are being
answered; and where no more may wait, it is whoever has most waiting who is told to come again. So one who floods the
broker waits for himself.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Fair(Generic[Item]):
    """at_once: requests that are answered at the same time. of_one: of one user, at most. waiting: more that may wait."""

    def __init__(self, at_once: int, of_one: int, waiting: int) -> None:
        self._at_once, self._of_one, self._most_waiting = at_once, of_one, waiting
        self._queues: dict[str, deque[Item]] = {}  # in the order of their turns; none is empty
        self._waiting = 0
        self._begun: Counter[str] = Counter()
        self._answering = 0

    def offer(self, user: str, item: Item) -> Item | None:
        """It waits for its turn. Returns what is to be told to come again: the newest of who has most waiting.

        Say `next` before the next offer, so that nothing waits that could be begun.
        """
        self._queues.setdefault(user, deque()).append(item)
        self._waiting += 1
        if self._waiting <= self._most_waiting:
            return None
        most = user
        if len(self._queues[user]) * len(self._queues) <= self._waiting:  # no more than its share
            most = max(self._queues, key=lambda other: len(self._queues[other]))
        return self._taken(most, self._queues[most].pop())

    def next(self) -> tuple[str, Item] | None:
        """What is to be begun now, and whose it is; say `done` at its end. None: nothing for now."""
        if self._answering >= self._at_once:
            return None
        user = next((user for user in self._queues if self._begun[user] < self._of_one), None)
        if user is None:
            return None
        queue = self._queues.pop(user)
        self._queues[user] = queue  # its next turn is after all others'
        self._begun[user] += 1
        self._answering += 1
        return user, self._taken(user, queue.popleft())

    def done(self, user: str) -> None:
        """One of that user's is answered."""
        self._answering -= 1
        self._begun[user] -= 1
        if not self._begun[user]:
            del self._begun[user]

    def _taken(self, user: str, item: Item) -> Item:
        self._waiting -= 1
        if not self._queues[user]:
            del self._queues[user]
        return item
