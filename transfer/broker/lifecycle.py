"""The second net under the sweeper: rules by which the store itself drops what all brokers forgot.

A rule goes by an object's age, and a job may be kept for up to ten years. So keys begin with the lifetime of their job
(`keys.LIFETIMES`), and each has a rule that strikes when its longest-lived job is over for sure. Not by object tags:
those need one more permission on AWS (s3:PutObjectTagging), a tag for every upload, and are missing in some stores.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

from transfer.broker.bucket import S3, client_error, code_of, status_of
from transfer.broker.job import OPEN_LIFE
from transfer.broker.keys import DAY, LIFETIMES, PROBES
from transfer.broker.store import Store

log = logging.getLogger(__name__)

Rule = dict[str, Any]
"""Source: S3 API reference, LifecycleRule."""

SLACK = 10
"""Days between the end of the longest-lived job and the rule that drops its objects."""
_NO_RULES = "NoSuchLifecycleConfiguration"


def rules(prefix: str, unfinished_life: float) -> list[Rule]:
    """Ours for a prefix. unfinished_life: seconds that a job lives without progress.

    An upload is completed, or begun anew, by the next run of its sender, which has to come within `unfinished_life`
    of the last one; twice that leaves time for the run. In a bucket with versions, what was deleted goes for good.
    """

    def rule(name: str, below: str, **action: Rule) -> Rule:
        return {
            "ID": _own(prefix) + name,
            "Status": "Enabled",
            "Filter": {"Prefix": prefix + below},
            **action,
        }

    days = math.ceil(2 * unfinished_life / DAY)
    uploads = rule("uploads", "", AbortIncompleteMultipartUpload={"DaysAfterInitiation": days})
    longest = math.ceil(OPEN_LIFE / DAY) + SLACK
    objects = [
        rule(
            f"{days}d",
            f"{days}d/",
            Expiration={"Days": days + longest},
            NoncurrentVersionExpiration={"NoncurrentDays": 1},
        )
        for days in LIFETIMES
    ]
    probes = rule("probe", PROBES, Expiration={"Days": 1}, NoncurrentVersionExpiration={"NoncurrentDays": 1})
    return [uploads, *objects, probes]


def merged(there: Iterable[Rule], ours: list[Rule], prefix: str) -> list[Rule]:
    """Ours in place of what an earlier broker set for this prefix; all others stay as they are."""
    return [rule for rule in there if not str(rule.get("ID", "")).startswith(_own(prefix))] + ours


async def install(store: Store, unfinished_life: float) -> None:
    """Give the bucket our rules. A store or an operator that does not let us is told once, in the log.

    Raises what the store raises when it is away.
    """
    ours = rules(store.prefix, unfinished_life)

    def work(s3: S3) -> str:
        try:
            there = _there(s3, store.bucket)
            wanted = merged(there.get("Rules", []), ours, store.prefix)
            if _by_id(wanted) == _by_id(there.get("Rules", [])):
                return ""
            # What else is part of the configuration (AWS: the least size for transitions) would be reset otherwise.
            size = "TransitionDefaultMinimumObjectSize"
            more = {size: there[size]} if size in there else {}
            s3.put_bucket_lifecycle_configuration(
                Bucket=store.bucket, LifecycleConfiguration={"Rules": wanted}, **more
            )
        except client_error() as error:
            if not (400 <= status_of(error) < 500 or status_of(error) == 501):
                raise
            return f"the bucket gets no lifecycle rules ({code_of(error)}); brokers alone clean it up"
        return "the bucket has lifecycle rules now"

    if said := await store.run(work):
        log.info("%s", said)


def _there(s3: S3, bucket: str) -> dict[str, Any]:
    try:
        return s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    except client_error() as error:
        if code_of(error) != _NO_RULES:
            raise
        return {}


def _own(prefix: str) -> str:
    """How our rules' IDs begin. A prefix ends with a slash, so that none begins like another's."""
    return f"xfer:{prefix}:"


def _by_id(rules: Iterable[Rule]) -> dict[str, Rule]:
    return {str(rule.get("ID", number)): rule for number, rule in enumerate(rules)}
