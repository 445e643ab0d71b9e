"""What brokers owe the store: uploads to abort, objects to delete.

A debt is on the job's record before anybody tries to pay it. So a broker that dies midway, or a store that is away,
only delays it: whoever sweeps next pays. Any number of brokers may pay the same debt at once.
"""

from __future__ import annotations

import logging

from transfer.api import JobState
from transfer.broker.job import JobRecord
from transfer.broker.records import Records
from transfer.broker.store import Store
from transfer.errors import XferError

log = logging.getLogger(__name__)


async def pay(records: Records, store: Store, record: JobRecord) -> None:
    """Drop what this record owes, then note it. Idempotent. Raises what records and store raise."""
    if not record.in_debt:
        return
    if record.settled:
        await store.erase(record.folder, {**{u: n for n, u in record.uploads.items()}, **record.owed})
    else:
        for upload, segment in record.owed.items():
            await store.abort(record.folder, segment, upload)
        if record.state is JobState.STORED:
            # A broker may have completed one of them and died before its record said so. Of an open job such an
            # object is overwritten yet, or owed at its end; a stored one begins no segment any more.
            # And one that opened an upload and died before that was on record is known by nobody but the store.
            await store.abort_all(record.folder)
            stray = [segment for segment in record.owed.values() if not record.has(segment)]
            await store.delete(record.folder, stray)
    await records.change(record.job, lambda r: r.paid(record))


async def try_to_pay(records: Records, store: Store, record: JobRecord) -> None:
    """The same; what fails is left to the sweeper."""
    try:
        await pay(records, store, record)
    except XferError as error:
        log.warning("job %s: not all of it could be dropped yet: %s", record.job, error.what)
