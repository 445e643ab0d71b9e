"""The S3 route: segments of encoded frames, each one object, put and got through URLs the broker signs.

Sending: frames → parts of at least 8 MiB → segments; the broker opens each upload, signs each part
for its exact length and CRC32C just before its PUT, and joins the parts. Receiving: the sealed index
at a segment's tail says which frames lie where; only the wanted ones are asked for, in parallel,
and handed on as they come. No acknowledgements: what is stored is safe, a receipt comes by other ways.
"""

from transfer.transports.s3.inbound import S3Inbound
from transfer.transports.s3.outbound import NOTHING, OpenSegment, PartLog, Remains, S3Outbound
from transfer.transports.s3.pace import START_READING, Pace

__all__ = [
    "NOTHING",
    "START_READING",
    "OpenSegment",
    "Pace",
    "PartLog",
    "Remains",
    "S3Inbound",
    "S3Outbound",
]
