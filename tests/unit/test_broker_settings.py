"""What a broker reads from its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from transfer.broker.settings import Settings
from transfer.errors import NotConfigured, UsageError

NATS = {"NATS_URL": "nats://127.0.0.1:4222"}


def test_nats_url_is_all_that_must_be_said() -> None:
    assert Settings.from_environment(NATS) == Settings(nats_url=NATS["NATS_URL"])
    assert Settings.from_environment(NATS).bucket == "xfer"


def test_without_nats_url_nothing_is_guessed() -> None:
    with pytest.raises(NotConfigured):
        Settings.from_environment({"NATS_URL": ""})


@pytest.mark.parametrize(
    ("more", "endpoint"),
    [
        ({"AWS_ENDPOINT_URL": "c"}, "c"),
        ({"AWS_ENDPOINT_URL": "c", "AWS_ENDPOINT_URL_S3": "b"}, "b"),
        ({"AWS_ENDPOINT_URL": "c", "AWS_ENDPOINT_URL_S3": "b", "XFER_S3_ENDPOINT": "a"}, "a"),
        ({"AWS_ENDPOINT_URL": "c", "XFER_S3_ENDPOINT": ""}, "c"),
    ],
)
def test_the_nearest_endpoint_wins(more: dict[str, str], endpoint: str) -> None:
    assert Settings.from_environment(NATS | more).endpoint_url == endpoint


def test_all_of_it_can_be_said() -> None:
    said = Settings.from_environment(
        NATS
        | {
            "NATS_CREDS": "seed",
            "XFER_BUCKET": "b",
            "XFER_PREFIX": "p/",
            "XFER_URL_LIFE": "3",
            "XFER_SWEEP_EVERY": "0.5",
            "XFER_UNFINISHED_LIFE": "60",
            "XFER_ORPHAN_AGE": "2",
            "XFER_LIFECYCLE": "off",
            "XFER_REPLICAS": "3",
            "XFER_WORK_TRIES": "2",
            "AWS_REGION": "eu-central-1",
        }
    )
    assert said == Settings(
        nats_url=NATS["NATS_URL"],
        nats_creds=Path("seed"),
        bucket="b",
        prefix="p/",
        region="eu-central-1",
        url_life=3.0,
        sweep_every=0.5,
        unfinished_life=60.0,
        orphan_age=2.0,
        lifecycle=False,
        replicas=3,
        work_tries=2,
    )


@pytest.mark.parametrize(
    "more",
    [
        {"XFER_URL_LIFE": "soon"},
        {"XFER_URL_LIFE": "0"},
        {"XFER_URL_LIFE": "604801"},
        {"XFER_URL_LIFE": "nan"},
        {"XFER_SWEEP_EVERY": "0"},
        {"XFER_SWEEP_EVERY": "nan"},
        {"XFER_UNFINISHED_LIFE": "-1"},
        {"XFER_UNFINISHED_LIFE": "5184001"},
        {"XFER_ORPHAN_AGE": "0"},
        {"XFER_LIFECYCLE": "yes"},
        {"XFER_REPLICAS": "2"},
        {"XFER_REPLICAS": "all"},
        {"XFER_WORK_TRIES": "0"},
        {"XFER_PREFIX": "no-slash"},
    ],
)
def test_what_makes_no_sense_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Settings.from_environment(NATS | more)
