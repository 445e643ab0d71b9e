"""The tree of errors: what the docstring draws is what the classes are, every leaf helps on, and a command ends with it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cli
import transfer
from transfer import errors
from transfer.errors import Interrupted, XferError

DOCUMENTED_CODES = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
"""The public contract; 0 is success and 128+n belongs to Interrupted."""
ROW = re.compile(r"^(?P<branch>[│ ├└─]*)(?P<name>[A-Z]\w+) +(?P<code>128\+n|\d+)?")

E2E = Path(__file__).resolve().parents[1] / "e2e"
REACHED = {
    "UsageError": "test_cli.py::test_with_json_an_error_is_an_event_too",
    "MissingPath": "test_bad_input.py::test_a_missing_path_exits_2_before_there_is_a_ticket",
    "NotConfigured": "test_bad_input.py::test_nothing_configured_exits_2_and_names_xfer_up",
    "DestinationExists": "test_error_kinds.py::test_what_is_not_there_not_there_any_more_or_there_already",
    "NothingToDo": "test_error_kinds.py::test_what_needs_no_server_to_be_refused",
    "Locked": "test_resume.py::test_two_fetches_to_the_same_place_at_once_do_not_meet",
    "MistypedTicket": "test_error_kinds.py::test_what_needs_no_server_to_be_refused",
    "PartialSource": "test_bad_input.py::test_what_is_unreadable_is_named_the_rest_is_sent_and_it_exits_3",
    "SourceChanged": "test_bad_input.py::test_a_file_that_changes_before_it_is_sent_voids_the_transfer",
    "CommandFailed": "test_streams.py::test_a_command_that_fails_voids_the_transfer",
    "DamagedData": "test_hostile_peer.py::test_a_wrong_digest_in_the_trailer_is_seen_on_a_direct_connection_too",
    "UnsafeName": "test_hostile.py::test_a_name_that_leads_astray_is_refused",
    "CutShort": "test_hostile.py::test_a_stored_job_without_its_trailer_is_cut_short",
    "ProtocolError": "test_hostile.py::test_impossible_numbers_in_a_manifest_are_refused",
    "UnsupportedVersion": "test_error_kinds.py::test_what_needs_no_server_to_be_refused",
    "PartialDelivery": "test_error_kinds.py::test_what_is_not_there_not_there_any_more_or_there_already",
    "JobGone": "test_error_kinds.py::test_what_is_not_there_not_there_any_more_or_there_already",
    "JobCancelled": "test_error_kinds.py::test_what_is_not_there_not_there_any_more_or_there_already",
    "RoomGone": "test_error_kinds.py::test_what_is_not_there_not_there_any_more_or_there_already",
    "NotAllowed": "test_bad_input.py::test_foreign_credentials_exit_7",
    "UntrustedServer": "test_users.py::test_transfers_to_a_server_that_another_authority_vouches_for_exit_7",
    "OverQuota": "test_usage.py::test_who_is_over_quota_is_told_so_sees_it_and_goes_on_once_the_limit_is_raised",
    "BusUnreachable": "test_bad_input.py::test_no_nats_exits_5_long_before_patience_is_over",
    "BrokerAbsent": "test_bad_input.py::test_no_broker_exits_5_and_says_how_to_start_one",
    "StoreUnreachable": "test_bad_input.py::test_no_store_exits_5_once_patience_is_over_and_a_rerun_carries_on",
    "ClockSkew": "test_bad_input.py::test_a_broker_whose_clock_is_off_is_named",
    "PeerAbsent": "test_transfer.py::test_via_webrtc_with_nobody_there_exits_5_and_stores_nothing",
    "PeerLost": "test_error_kinds.py::test_a_peer_that_is_lost_is_told_and_waited_for",
    "DiskFull": "test_hostile.py::test_a_size_that_no_disk_has_is_refused_before_a_byte",
    "OutOfTime": "test_scripts.py::test_a_deadline_makes_a_checkpoint_and_the_next_run_goes_on",
    "Interrupted": "test_resume.py::test_an_interrupted_send_prints_what_resumes_it",
}
"""Which test reaches an error through the real command line; it names the error, as `kind` of the --json event."""


def subclasses(cls: type[XferError]) -> Iterator[type[XferError]]:
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from subclasses(child)


LEAVES = [cls for cls in subclasses(XferError) if not any(subclasses(cls))]
"""Of the tree; elsewhere some have special cases (`BrokerBusy`)."""


def raised() -> set[type[XferError]]:
    """The leaves, and what has special cases and is raised itself (JobGone)."""
    return {*LEAVES, errors.JobGone}


def drawn() -> list[tuple[str, str | None, str | None]]:
    """(name, parent's name, code as drawn or None) of each row of the docstring's tree."""
    rows: list[tuple[str, str | None, str | None]] = []
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = ROW.match(line)
        if match is None or (match["branch"] == "" and match["name"] != "XferError"):
            continue
        depth = len(match["branch"])
        while stack and stack[-1][0] >= depth:
            stack.pop()
        rows.append((match["name"], stack[-1][1] if stack else None, match["code"]))
        stack.append((depth, match["name"]))
    return rows


def make(cls: type[XferError]) -> XferError:
    return Interrupted(2) if issubclass(cls, Interrupted) else cls("something happened")


def test_the_drawn_tree_is_the_tree_of_classes() -> None:
    classes = {cls.__name__: cls.__bases__[0].__name__ for cls in subclasses(XferError)}
    assert {name: parent for name, parent, _ in drawn() if parent} == classes


def test_the_classes_stand_in_the_order_of_the_drawing() -> None:
    names = [name for name in vars(errors) if name in {row[0] for row in drawn()}]
    assert names == [row[0] for row in drawn()]


@pytest.mark.parametrize(("name", "parent", "code"), drawn(), ids=str)
def test_a_drawn_code_is_the_code_that_is_raised(name: str, parent: str | None, code: str | None) -> None:
    cls = getattr(errors, name)
    if code is None and any(subclasses(cls)):
        return
    if code is None:  # inherited, as drawn above it
        code = next(c for n, _, c in drawn() if n == parent)
    expected = 130 if code == "128+n" else int(code or 0)
    assert make(cls).exit_code == expected


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_a_leaf_has_a_sentence_a_next_step_and_a_documented_code(cls: type[XferError]) -> None:
    error = make(cls)
    sentence = (cls.__doc__ or "").strip()
    assert re.match(r"[A-Z]", sentence)
    assert sentence.endswith(".")
    assert error.next_step.strip()
    assert not error.next_step.endswith(".")
    assert "\n" not in error.what + error.next_step
    assert error.exit_code in DOCUMENTED_CODES or error.exit_code == 130


def test_a_hint_of_the_moment_goes_before_that_of_the_class() -> None:
    assert errors.JobGone("gone", hint="look elsewhere").next_step == "look elsewhere"
    assert errors.JobGone("gone").next_step == errors.JobGone.hint


def test_every_code_of_the_contract_has_an_error() -> None:
    assert {make(cls).exit_code for cls in LEAVES} - {130} == DOCUMENTED_CODES


@pytest.mark.parametrize(("signum", "code"), [(2, 130), (15, 143)])
def test_a_signal_exits_with_128_and_its_number(signum: int, code: int) -> None:
    assert Interrupted(signum).exit_code == code


def test_every_error_is_reached_by_a_test_of_the_command_line() -> None:
    assert {cls.__name__ for cls in raised()} == set(REACHED), (
        "an error without a row, or a row without its error"
    )


@pytest.mark.parametrize("kind", REACHED)
def test_the_test_that_reaches_an_error_names_it_and_is_no_long_one(kind: str) -> None:
    file, _, name = REACHED[kind].partition("::")
    found = [
        node
        for node in ast.parse((E2E / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert len(found) == 1, REACHED[kind]
    constants = {node.value for node in ast.walk(found[0]) if isinstance(node, ast.Constant)}
    assert kind in constants
    assert not {"long", "root"} & {
        mark.attr for mark in found[0].decorator_list if isinstance(mark, ast.Attribute)
    }


def test_an_error_beside_the_tree_is_a_special_case_of_one_in_it_and_helps_on_as_well() -> None:
    """Such as BrokerBusy, which is BrokerAbsent to whoever asks."""
    for package in (transfer, cli):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    beside = {cls for cls in everything(XferError) if cls.__module__.split(".")[0] in ("transfer", "cli")} - {
        *subclasses(XferError)
    }
    assert beside
    for cls in beside:
        assert any(base.__module__ == errors.__name__ for base in cls.__mro__[1:])
        assert cls.code in DOCUMENTED_CODES
        assert cls.hint.strip()
        assert (cls.__doc__ or "").strip().endswith(".")


def everything(cls: type[XferError]) -> Iterator[type[XferError]]:
    for child in cls.__subclasses__():
        yield child
        yield from everything(child)
