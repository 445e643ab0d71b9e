"""The rules by which the store itself cleans up: never before the longest-lived job of a kind is over."""

from __future__ import annotations

import math
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from transfer.broker import lifecycle
from transfer.broker.job import OPEN_LIFE
from transfer.broker.keys import DAY, MAX_EXPIRE, folder_of, key_of, place_of, roots
from transfer.broker.store import Store
from transfer.errors import StoreUnreachable

LIFE = 7 * DAY
JOB = "q" * 16


def rule_for(key: str) -> dict[str, Any]:
    """The one that deletes this object."""
    [found] = [
        rule
        for rule in lifecycle.rules("xfer/", LIFE)
        if "Expiration" in rule and key.startswith(rule["Filter"]["Prefix"])
    ]
    return found


@given(st.floats(min_value=0, max_value=MAX_EXPIRE, exclude_min=True))
def test_no_rule_strikes_before_a_jobs_last_day(expire: float) -> None:
    key = "xfer/" + key_of(folder_of(JOB, "realm", expire), 0)
    days = rule_for(key)["Expiration"]["Days"]
    assert days * DAY > OPEN_LIFE + expire + DAY
    assert days <= 2 * max(30.0, expire / DAY) * 12.5


@given(st.floats(min_value=1, max_value=OPEN_LIFE))
def test_no_rule_aborts_an_upload_that_may_yet_be_taken_up(life: float) -> None:
    days = lifecycle.rules("xfer/", life)[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
    assert days == math.ceil(days)
    assert days * DAY >= 2 * life


def test_a_key_says_whose_it_is() -> None:
    folder = folder_of(JOB, "realm", 40 * DAY)
    assert folder.startswith(roots("realm")[1])
    assert place_of(key_of(folder, 7)) == (folder, "realm", JOB, 7)


@pytest.mark.parametrize(
    "key", ["", "notes.txt", f"{JOB}/000000", f"30d/realm/{JOB}", f"30d/realm/{JOB}/1", f"30d//{JOB}/000001"]
)
def test_what_does_not_look_like_ours_is_not(key: str) -> None:
    assert place_of(key) is None


def test_rules_of_others_stay_and_ours_are_replaced() -> None:
    theirs = {"ID": "theirs", "Expiration": {"Days": 1}}
    nameless = {"Expiration": {"Days": 2}}
    of_another_prefix = lifecycle.rules("other/xfer/", LIFE)
    old = {"ID": "xfer:xfer/:2d", "Expiration": {"Days": 3}}
    ours = lifecycle.rules("xfer/", LIFE)
    there: list[dict[str, Any]] = [theirs, old, nameless, *of_another_prefix, ours[0]]
    assert lifecycle.merged(there, ours, "xfer/") == [theirs, nameless, *of_another_prefix, *ours]


class Refusing:
    """boto3's client of a store that will have no rules."""

    def __init__(self, status: int, code: str, least: str | None = None) -> None:
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        self.error, self.least = ClientError(answer, "PutBucketLifecycleConfiguration"), least
        self.put: dict[str, object] = {}

    def get_bucket_lifecycle_configuration(self, **_parameters: object) -> dict[str, object]:
        return (
            {"Rules": [], "TransitionDefaultMinimumObjectSize": self.least} if self.least else {"Rules": []}
        )

    def put_bucket_lifecycle_configuration(self, **parameters: object) -> None:
        self.put = parameters
        if not self.least:
            raise self.error


def store_on(client: object) -> Store:
    store = Store(endpoint_url="http://127.0.0.1:1", bucket="b")
    store._client = client  # type: ignore[assignment]
    return store


@pytest.mark.parametrize(
    ("status", "why"), [(403, "AccessDenied"), (501, "NotImplemented"), (405, "MethodNotAllowed")]
)
async def test_a_store_that_refuses_rules_is_worth_a_line_and_no_more(
    caplog: pytest.LogCaptureFixture, status: int, why: str
) -> None:
    caplog.set_level("INFO")
    await lifecycle.install(store_on(Refusing(status, why)), LIFE)
    [said] = caplog.records
    assert said.getMessage() == f"the bucket gets no lifecycle rules ({why}); brokers alone clean it up"


async def test_a_store_that_is_away_is_asked_again_by_whoever_called() -> None:
    with pytest.raises(StoreUnreachable):
        await lifecycle.install(store_on(Refusing(503, "SlowDown")), LIFE)
    refusing = Refusing(403, "AccessDenied")
    refusing.error = EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(StoreUnreachable):
        await lifecycle.install(store_on(refusing), LIFE)


async def test_what_else_the_configuration_says_is_not_reset() -> None:
    taking = Refusing(200, "", least="varies_by_storage_class")
    await lifecycle.install(store_on(taking), LIFE)
    assert taking.put["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"
