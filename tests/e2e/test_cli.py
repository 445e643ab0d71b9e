"""The command line as a process: what bad input gets, where it is said, the exit code. No servers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from bare import TICKET, Xfer


def test_version_is_one_line(xfer: Xfer) -> None:
    run = xfer("--version")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("xfer ")
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize("args", [(), ("context",)], ids=["xfer", "context"])
def test_nothing_asked_for_shows_help_on_stderr(xfer: Xfer, args: tuple[str, ...]) -> None:
    run = xfer(*args)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("Usage: xfer")
    assert "Examples:" in run.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["frobnicate"], "there is no command 'frobnicate'"),
        (["--frobnicate"], "no such option: --frobnicate"),
        (["send", "--frobnicate", "f"], "no such option: --frobnicate"),
        (["send", "--wait"], "--wait needs a value; see `xfer send --help`"),
        (["send", "--quiet=3"], "--quiet takes no value; see `xfer send --help`"),
        (["send", "--wiat", "3"], "did you mean --wait? If not, see `xfer send --help`"),
        (["send", "--via", "ftp", "f"], "--via 'ftp' is not auto, webrtc or s3; see `xfer send --help`"),
        (
            ["send", "--fetches", "0", "f"],
            "--fetches '0' is not a whole number from 1 on; see `xfer send --help`",
        ),
        (
            ["send", "--fetches", "many", "f"],
            "--fetches 'many' is not a whole number from 1 on; see `xfer send",
        ),
        (["send", "--threshold", "lots", "f"], "--threshold 'lots' is not a size"),
        (["send", "--wait", "soon", "f"], "--wait 'soon' is not a duration"),
        (["send", "--wait", "soon", "f"], "see `xfer send --help`"),
        (["send", "--expire", "-1", "f"], "--expire '-1' is not a duration"),
        (["send", "--patience", "x", "f"], "--patience 'x' is not a duration"),
        (["send", "--deadline", "soon", "f"], "--deadline 'soon' is not a duration"),
        (["fetch", TICKET, "--deadline", "soon"], "see `xfer fetch --help`"),
        (["send", "--events-fd", "1", "f"], "--events-fd '1' is not a whole number from 3 on"),
        (["send", "f", "--idempotency-key", ""], "the idempotency key is empty"),
        (["send", "--compress", "20", "f"], "--compress '20'"),
        (["send"], "nothing to send"),
        (["send", "-"], "stdin has no name"),
        (["send", "-", "f", "--name", "n"], "cannot be sent together with paths"),
        (["send", "f", "--name", "n"], "--name goes with"),
        (["send", "f", "--from-command", "true"], "no paths besides"),
        (["send", "f", "--ticket", TICKET, "--ticket-from", "t"], "the ticket is given twice"),
        (["send", "f", "--ticket", TICKET, "--no-resume"], "--no-resume starts anew, and a ticket goes on"),
        (["send", "f", "--ticket-from", "absent"], "'absent' cannot be read"),
        (["resume", "--patience", "x"], "see `xfer resume --help`"),
        (["resume", "a", "b"], "unexpected"),
        (["send", "f", "--ticket-file", "nowhere/t"], "its folder is not there"),
        (["send", "f", "--ticket-file", "."], "is not a plain file"),
        (["fetch"], "no ticket"),
        (["fetch", TICKET, "-o", "-", "--json"], "both want stdout"),
        (["fetch", TICKET, "--overwrite", "--rename"], "contradict each other"),
        (["fetch", TICKET, "--ticket-file", "t"], "given twice"),
        (["fetch", "--ticket-file", "absent"], "'absent' cannot be read"),
        (["fetch", "a", "b"], "unexpected"),
        (["fetch", TICKET, "--patience", "x"], "see `xfer fetch --help`"),
        (["context", "add"], "NAME is missing; see `xfer context add --help`"),
        (["context", "frob"], "there is no command 'frob'; see `xfer context --help`"),
    ],
    ids=str,
)
def test_misuse_is_one_sentence_and_exit_2(
    xfer: Xfer, configured: Mapping[str, str], args: list[str], said: str
) -> None:
    run = xfer(*args, env=configured)
    assert run.returncode == 2, run.stderr
    assert said in run.stderr
    assert run.stderr.startswith("xfer: ")
    assert len(run.stderr.splitlines()) <= 2
    assert "; " in run.stderr or ";\n" in run.stderr
    if "--json" not in args:
        assert run.stdout == ""


def test_with_json_an_error_is_an_event_too(xfer: Xfer, env: Mapping[str, str]) -> None:
    for args, variables in ((("--json",), {}), ((), {"XFER_JSON": "1"})):
        run = xfer("send", "--wait", "soon", "f", *args, env={**env, **variables})
        event = json.loads(run.stdout)
        assert (event["event"], event["v"], event["code"], event["kind"]) == ("error", 1, 2, "UsageError")
        assert event["message"] in run.stderr
        assert event["next"] in run.stderr


def test_what_the_parser_refuses_is_an_event_too(xfer: Xfer) -> None:
    run = xfer("send", "--json", "--frobnicate")
    assert json.loads(run.stdout)["code"] == run.returncode == 2


def test_nothing_configured_names_xfer_up(xfer: Xfer, env: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "cwd" / "f").write_text("x")
    run = xfer("send", "f", env=env)
    assert run.returncode == 2
    assert "xfer up" in run.stderr
    assert len(run.stderr.splitlines()) <= 2


def test_every_option_is_a_variable_too(xfer: Xfer, configured: Mapping[str, str]) -> None:
    for name, value, said in (
        ("XFER_WAIT", "abc", "XFER_WAIT 'abc' is not a duration"),
        ("XFER_VIA", "ftp", "XFER_VIA 'ftp' is not auto, webrtc or s3"),
        ("XFER_JSON", "maybe", "XFER_JSON 'maybe' is neither yes nor no"),
        ("XFER_COMPRESS", "99", "XFER_COMPRESS '99' is not a way to compress"),
    ):
        run = xfer("send", "f", env={**configured, name: value})
        assert run.returncode == 2
        assert run.stderr.startswith(f"xfer: {said};")
        assert run.stderr.endswith("see `xfer send --help`\n")


def test_an_option_beats_its_variable(xfer: Xfer, configured: Mapping[str, str]) -> None:
    run = xfer("send", "f", "--wait", "later", env={**configured, "XFER_WAIT": "soon"})
    assert "--wait 'later'" in run.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["send", ""], "a path to send is empty"),
        (["send", "f", ""], "a path to send is empty"),
        (["fetch", TICKET, "-o", ""], "-o is empty"),
        (
            ["send", __file__, "--via", "webrtc", "--wait", "0"],
            "webrtc needs a receiver, and none is waited for",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_begun(
    xfer: Xfer, configured: Mapping[str, str], args: list[str], said: str
) -> None:
    """An unset variable must not send the current folder; and no server is asked, for none is there."""
    run = xfer(*args, env=configured)
    assert run.returncode == 2
    assert run.stderr.startswith(f"xfer: {said};")
