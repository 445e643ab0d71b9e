"""What verbs and sweeper ask of whoever counts what users use; and one that counts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from transfer.broker.job import JobRecord
from transfer.broker.tally import Charge


class Metering(Protocol):
    """As `quotas.Quotas`, which says what each does and raises."""

    async def reserve(self, user: str, job: str, size: int | None) -> Charge: ...

    def confirm(self, user: str, charge: Charge) -> None: ...

    async def withdraw(self, user: str, job: str, charge: Charge) -> None: ...

    async def sign(
        self, user: str, job: str, segment: int, upload: str, lengths: Mapping[int, int]
    ) -> None: ...

    async def settle(self, record: JobRecord) -> JobRecord: ...


class Unmetered:
    """Whatever anybody wants."""

    async def reserve(self, user: str, job: str, size: int | None) -> Charge:
        return Charge()

    def confirm(self, user: str, charge: Charge) -> None:
        pass

    async def withdraw(self, user: str, job: str, charge: Charge) -> None:
        pass

    async def sign(self, user: str, job: str, segment: int, upload: str, lengths: Mapping[int, int]) -> None:
        pass

    async def settle(self, record: JobRecord) -> JobRecord:
        return record
