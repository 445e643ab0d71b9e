"""What brokers have been lent of what is for all users together: the value of the key `total`."""

from __future__ import annotations

import msgspec

from transfer.broker.tally import Tally


class Loan(msgspec.Struct, frozen=True, array_like=True):
    """lent: what that broker may have put on pages. beat: goes up as long as it lives. answered: the last call it heard."""

    lent: Tally = Tally()
    beat: int = 0
    answered: int = 0


class Total(msgspec.Struct, frozen=True, array_like=True):
    """base: what brokers that are gone have put on pages. call: goes up when a broker needs what others hold."""

    base: Tally = Tally()
    loans: dict[str, Loan] = {}
    call: int = 0
    gone: tuple[str, ...] = ()

    def lent(self) -> Tally:
        """All that is used, or may be without asking."""
        total = self.base
        for loan in self.loans.values():
            total = total.plus(loan.lent)
        return total
