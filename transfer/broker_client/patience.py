"""How long an outage is ridden out, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential
from tenacity.stop import stop_base

from transfer.errors import BrokerAbsent, BusUnreachable, StoreUnreachable, XferError
from transfer.events import WaitedFor

OUTAGES: dict[type[Exception], WaitedFor] = {
    BusUnreachable: "bus",
    BrokerAbsent: "broker",
    StoreUnreachable: "store",
}
"""What is ridden out, and who is away then."""


UNASKED = 600.0
"""Seconds for which a transfer rides out an outage where nobody said how long."""
OnWait = Callable[[str, float, WaitedFor | None], None]


class Patience:
    """How long outages are ridden out, counted anew from every success.

    seconds: 0 gives up at the first failure. on_wait: told what is waited for, the seconds left, and who is away.
    from_start: also before anything has answered, where a wrong address looks like an outage.
    """

    def __init__(
        self,
        seconds: float,
        on_wait: OnWait = lambda _what, _left, _on: None,
        *,
        from_start: bool = False,
    ) -> None:
        self.seconds, self.on_wait, self.from_start = seconds, on_wait, from_start

    @classmethod
    def asked(cls, seconds: float | None, on_wait: OnWait) -> Patience:
        """As a caller asks for: from the start if it says how long. None: it does not."""
        return cls(UNASKED if seconds is None else seconds, on_wait, from_start=seconds is not None)

    @property
    def under_way(self) -> Patience:
        """The same, of one who has been answered already."""
        return Patience(self.seconds, self.on_wait, from_start=True)

    def retrying(self, *kinds: type[Exception]) -> AsyncRetrying:
        """Exponential with full jitter, 0.1 to 10 s; a Retry-After in the error's `retry_after` is honoured."""
        exponential = wait_random_exponential(multiplier=0.2, max=10)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, XferError) else None
            return max(0.05 + exponential(state), asked or 0.0)

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            left = self.seconds - (state.seconds_since_start or 0)
            if (state.seconds_since_start or 0) > 1 or state.attempt_number > 2 or state.upcoming_sleep >= 1:
                what = error.what if isinstance(error, XferError) else str(error)
                on = next((on for kind, on in OUTAGES.items() if isinstance(error, kind)), None)
                self.on_wait(what, max(0.0, left), on)

        return AsyncRetrying(
            retry=retry_if_exception_type(kinds),
            wait=wait,
            stop=_Elapsed(self.seconds),
            before_sleep=tell,
            reraise=True,
        )


class _Elapsed(stop_base):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, state: RetryCallState) -> bool:
        upcoming = state.upcoming_sleep if self._seconds else 0.0
        return (state.seconds_since_start or 0.0) + upcoming >= self._seconds
