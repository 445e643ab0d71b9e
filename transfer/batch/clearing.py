"""Removing what somebody has: the steps `removing` and `removed` of the state, around what is done to the file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from transfer.batch import removal
from transfer.batch.plan import Step, What
from transfer.batch.removal import Examine
from transfer.batch.state import Known, State


class Gone(NamedTuple):
    """to: where it is now; empty if it was deleted."""

    outcome: Literal["deleted", "moved"]
    to: str


def clear(
    step: Step, known: Known, state: State, to: str, examine: Examine, checkpoint: Callable[[], None]
) -> Gone | None:
    """Do what the step says, if the file is still what was sent; `State.removed`, or `kept`, is the caller's.

    to: the folder that files are moved below. None: it is no matter for the report. Raises SourceChanged, OSError: it
    stays.
    """
    begun = known.state == "removing"
    try:
        facts = removal.still(step.path, known.facts, known.digest, renamed=begun, examine=examine)
    except (FileNotFoundError, NotADirectoryError):
        if begun:  # a run before this one died between the removal and its commit
            return Gone("moved" if known.target else "deleted", known.target)
        state.removed(known.key)  # by somebody else
        return None
    if facts is None:
        if begun:
            state.removed(known.key)  # that one went, and another came
        return None
    if begun and known.target and removal.finish(step.path, facts, known.digest, known.target, examine):
        return Gone("moved", known.target)
    if step.what is What.DELETE:
        state.removing(known.key)
        removal.delete(step.path, facts)
        return Gone("deleted", "")
    chosen = partial(state.removing, known.key)
    target = removal.move(step.path, facts, known.digest, to, known.name, chosen, checkpoint)
    return Gone("moved", target)
