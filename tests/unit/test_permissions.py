"""What is printed for NATS servers of others is what our own enforces."""

from __future__ import annotations

import itertools
import json
import re
import shlex

import pytest

from transfer.errors import UsageError
from transfer.permissions import BROKER, config_form, nsc_form, parse_users, permissions

KEY = "U" + "A" * 55


def test_a_user_may_say_and_hear_nothing_that_names_another() -> None:
    allowed = permissions("ann")
    assert allowed == {
        "publish": {"allow": ["xfer.api.ann.>", "xfer.peer.>", "xfer.events.ann.>"]},
        "subscribe": {
            "allow": ["_INBOX_ann.>", "xfer.peer.ann.>", "xfer.events.ann.>", "xfer.control.ann.>"]
        },
    }


def test_the_broker_is_added_and_comes_first() -> None:
    assert list(parse_users(["ann", "bob"])) == [BROKER, "ann", "bob"]
    assert parse_users(["ann", f"broker={KEY}"]) == {BROKER: KEY, "ann": None}


@pytest.mark.parametrize(
    "words", [["a.b"], ["ann", "ann"], ["ann=SUABC"], ["ann="], ["*"], ["é"], [f"ann={KEY.lower()}"]]
)
def test_what_cannot_be_a_user_or_its_public_key_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_users(words)


def test_the_config_form_carries_the_same_permissions_and_a_variable_for_a_key_that_is_not_known() -> None:
    text = config_form(parse_users([f"ann={KEY}", "bob-2"]))
    rows = re.findall(r"\{ nkey: (\S+), permissions: (\{.*\}) \} # (\S+)", text)
    assert [(nkey, user) for nkey, _, user in rows] == [
        ("$XFER_NKEY_BROKER", BROKER),
        (f'"{KEY}"', "ann"),
        ("$XFER_NKEY_BOB_2", "bob-2"),
    ]
    assert [json.loads(found) for _, found, _ in rows] == [
        permissions(user) for user in (BROKER, "ann", "bob-2")
    ]


def test_the_nsc_form_carries_the_same_permissions() -> None:
    text = nsc_form(parse_users([f"ann={KEY}", "bob"]))
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    added = [line for line in lines if line[:3] == ["nsc", "add", "user"]]
    assert len(added) == 3
    for line, user in zip(added, (BROKER, "ann", "bob"), strict=True):
        options = dict(itertools.pairwise(line))
        assert options["--name"] == user
        assert options["--account"] == "XFER"
        assert {
            "publish": {"allow": options["--allow-pub"].split(",")},
            "subscribe": {"allow": options["--allow-sub"].split(",")},
        } == {key: value for key, value in permissions(user).items() if key != "allow_responses"}
        assert ("--allow-pub-response=1" in line) == (user == BROKER)
    assert added[1][7:9] == ["--public-key", KEY]
    assert [line[-1] for line in lines if line[:2] == ["nsc", "generate"]] == ["broker.creds", "bob.creds"]


def test_only_the_broker_writes_rooms_and_hears_of_them() -> None:
    rooms = "$KV.xfer_rooms.>"
    for user, may in ((BROKER, True), ("ann", False)):
        allowed = permissions(user)
        for act in ("publish", "subscribe"):
            assert (rooms in allowed[act]["allow"]) is may  # type: ignore[index]
