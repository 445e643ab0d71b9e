"""What a client asks of the broker and what it answers: JSON over NATS request-reply.

Subject: `xfer.api.<user>.<verb>`; the NATS server pins <user>, so identity is no field here. Every
request is idempotent: repeating one whose answer was lost gives the same answer. Unknown fields
are ignored; a request of a version that the broker does not know is refused by name.

    common    the envelope, the errors, a job's states, signed URLs
    sending   create, begin, sign_parts, list_parts, complete, finish
    fetching  open, segments, sign_gets, receipt
    owning    status, list, pause, resume, cancel, remove, extend, history
    quotas    usage
    health    info, checkup, probe, probe_end
    dead      dead_list, dead_retry, dead_drop

The verbs of rooms are in `transfer.rooms_api`.
"""

from transfer.api.common import (
    TRANSITIONS,
    VERSION,
    ApiError,
    ErrorCode,
    JobState,
    Request,
    SignedUrl,
    SignedUrls,
)
from transfer.api.dead import DEAD_PAGE, DeadDrop, DeadLetter, DeadLetters, DeadList, DeadRetry, DeadSettled
from transfer.api.fetching import (
    MAX_GETS,
    SEGMENT_PAGE,
    Done,
    GiveReceipt,
    Open,
    Opened,
    SegmentPage,
    Segments,
    SignGets,
)
from transfer.api.health import (
    MAX_PROBE,
    PROBE_SLOTS,
    BrokerInfo,
    Checkup,
    CheckupReport,
    Info,
    Probe,
    ProbeEnd,
    ProbeEnded,
    ProbeUrls,
)
from transfer.api.owning import (
    HISTORY_PAGE,
    JOB_PAGE,
    Cancel,
    Changed,
    Extend,
    History,
    HistoryPage,
    JobLine,
    JobPage,
    JobStatus,
    ListJobs,
    Nudge,
    Past,
    Pause,
    Remove,
    Resume,
    Status,
)
from transfer.api.quotas import USAGE_PAGE, Usage, UsageReport, Used, UserUsage
from transfer.api.sending import (
    MAX_PARTS_TO_SIGN,
    MAX_SEGMENTS,
    Begin,
    Begun,
    Complete,
    Completed,
    Create,
    Created,
    Finish,
    Finished,
    ListParts,
    PartList,
    PartToSign,
    SignParts,
    StoredPart,
)

__all__ = [
    "DEAD_PAGE",
    "HISTORY_PAGE",
    "JOB_PAGE",
    "MAX_GETS",
    "MAX_PARTS_TO_SIGN",
    "MAX_PROBE",
    "MAX_SEGMENTS",
    "PROBE_SLOTS",
    "SEGMENT_PAGE",
    "TRANSITIONS",
    "USAGE_PAGE",
    "VERSION",
    "ApiError",
    "Begin",
    "Begun",
    "BrokerInfo",
    "Cancel",
    "Changed",
    "Checkup",
    "CheckupReport",
    "Complete",
    "Completed",
    "Create",
    "Created",
    "DeadDrop",
    "DeadLetter",
    "DeadLetters",
    "DeadList",
    "DeadRetry",
    "DeadSettled",
    "Done",
    "ErrorCode",
    "Extend",
    "Finish",
    "Finished",
    "GiveReceipt",
    "History",
    "HistoryPage",
    "Info",
    "JobLine",
    "JobPage",
    "JobState",
    "JobStatus",
    "ListJobs",
    "ListParts",
    "Nudge",
    "Open",
    "Opened",
    "PartList",
    "PartToSign",
    "Past",
    "Pause",
    "Probe",
    "ProbeEnd",
    "ProbeEnded",
    "ProbeUrls",
    "Remove",
    "Request",
    "Resume",
    "SegmentPage",
    "Segments",
    "SignGets",
    "SignParts",
    "SignedUrl",
    "SignedUrls",
    "Status",
    "StoredPart",
    "Usage",
    "UsageReport",
    "Used",
    "UserUsage",
]
