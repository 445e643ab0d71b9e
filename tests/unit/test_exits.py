"""Which error is told of, and what never is."""

from __future__ import annotations

import asyncio

from cli.exits import first_own
from transfer.errors import JobGone, PeerLost


def test_a_group_is_told_of_by_its_first_own_error() -> None:
    own = PeerLost("gone")
    inner = ExceptionGroup("inner", [KeyError("x"), own])
    group = BaseExceptionGroup("outer", [asyncio.CancelledError(), ValueError(), inner, JobGone("later")])
    assert first_own(group) is own


def test_a_group_without_an_own_error_is_told_of_by_its_first_that_is_no_cancellation() -> None:
    bug = ValueError()
    assert first_own(BaseExceptionGroup("outer", [asyncio.CancelledError(), bug, KeyError()])) is bug


def test_an_error_in_no_group_is_itself() -> None:
    error = JobGone("gone")
    assert first_own(error) is error
