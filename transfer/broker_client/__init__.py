"""The client's side of the broker: one method a verb, errors in our words, outages ridden out.

connection  the bus and the broker of a context, for as long as a block lasts
client      one method a verb
asking      one request and its answer
patience    how long an outage is ridden out
refusals    what the broker refuses, as errors
"""

from transfer.broker_client.asking import FIRST_CONTACT
from transfer.broker_client.client import BrokerClient
from transfer.broker_client.connection import Link, connected
from transfer.broker_client.patience import Patience
from transfer.broker_client.refusals import BrokerBusy, Conflict, JobPaused

__all__ = [
    "FIRST_CONTACT",
    "BrokerBusy",
    "BrokerClient",
    "Conflict",
    "JobPaused",
    "Link",
    "Patience",
    "connected",
]
