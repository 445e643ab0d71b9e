"""The same request, come twice: asked once, answered twice.

A client that waits long asks again (`transfer.hedge`). Without this a broker that is slow because its store is slow would
ask the store again for every such copy, and be slower still.
"""

from __future__ import annotations

import asyncio

from transfer.broker.table import Answered, Table, Verb
from transfer.errors import BusUnreachable

FRESH = frozenset({"status", "room_list"})
"""Verbs that ask no store, and whose answers must not be older than the question."""


def joined(table: Table) -> Table:
    """The same verbs; a request that is like one in hand (user, verb and body) shares its answer, or its refusal.

    But for those of FRESH.
    """
    return {name: verb if name in FRESH else _joined(verb) for name, verb in table.items()}


def _joined(verb: Verb) -> Verb:
    in_hand: dict[tuple[str, bytes], asyncio.Future[Answered]] = {}

    async def run(user: str, body: bytes) -> Answered:
        asked = (user, body)
        if (first := in_hand.get(asked)) is not None:
            return await asyncio.shield(first)
        answer = in_hand[asked] = asyncio.get_running_loop().create_future()
        try:
            result = await verb(user, body)
        except BaseException as error:
            if isinstance(error, Exception):
                answer.set_exception(error)
            else:  # given up: it took too long, or we leave
                answer.set_exception(BusUnreachable("the store or the job records take too long to answer"))
            answer.exception()  # nobody need ask for it
            raise
        else:
            answer.set_result(result)
            return result
        finally:
            del in_hand[asked]

    return run
