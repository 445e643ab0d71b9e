"""What may come next on a command line; and that bash, zsh and fish take it as it is meant."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from pathlib import Path

import pytest

from cli import completion
from cli.completion import KINDS, Word, answer
from cli.main import COMMANDS, GROUPS
from cli.shells import SCRIPTS
from transfer import api, config
from transfer.ledger import Ledger

needs = {
    shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")
    for shell in SCRIPTS
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two contexts, and an unfinished send."""
    for name in [name for name in os.environ if name.startswith(("XFER_", "NATS_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("XFER_HOME", str(home))
    for name in ("office", "lab"):
        config.add(config.Context(name=name, nats_url="nats://127.0.0.1:9", user="me"))
    ledger = Ledger(config.state_dir() / "ledger.db")
    ledger.add("send", "qw3eqw3eqw3eqw3e", b"k", b"s", label="a\x1b[2J\nb")
    ledger.close()
    return home


@pytest.fixture
def xfer(tmp_path: Path) -> Path:
    """A folder with `xfer` in it, of the code under test."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "xfer").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m cli "$@"\n')
    (folder / "xfer").chmod(0o755)
    return folder


def texts(*words: str) -> list[str]:
    return [word.text for word in answer(words).words]


def test_commands_and_their_commands_complete() -> None:
    assert texts("") == list(COMMANDS)
    assert texts() == list(COMMANDS)
    assert texts("co") == ["context", "completion"]
    assert texts("context", "") == list(GROUPS["context"])
    assert texts("broker", "per") == ["permissions"]
    assert texts("nonsense", "") == texts("context", "nonsense", "") == []
    assert answer(["se"]).words == [
        Word("send", "Send files to whoever gets the ticket, which stands on stdout.")
    ]


def test_options_complete_and_none_is_offered_twice() -> None:
    assert texts("send", "--thr") == ["--threshold"]
    assert "--help" in texts("context", "use", "-")
    assert texts("send", "--wait", "3", "--wa") == []
    assert texts("send", "--wait=3", "--wa") == []
    assert texts("send", "--exclude", "*.o", "--exc") == ["--exclude"]
    assert answer(["send", "--", "--thr"]).kind == "files"


def test_values_that_are_known_complete() -> None:
    assert texts("send", "--via", "") == ["auto", "webrtc", "s3"]
    assert texts("send", "--via=w") == ["--via=webrtc"]
    assert texts("completion", "") == ["bash", "zsh", "fish"]
    assert texts("completion", "bash", "") == []
    assert answer(["send", "--wait", ""]) == completion.Answer("words")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["send", ""], "files"),
        (["send", "one", "two"], "files"),
        (["send", "--quiet", ""], "files"),
        (["fetch", "-o", ""], "files"),
        (["fetch", "--ticket-file", "t"], "files"),
        (["fetch", ""], "words"),
        (["up", "--dir", ""], "folders"),
    ],
)
def test_what_is_a_file_is_left_to_the_shell(words: list[str], kind: str) -> None:
    assert answer(words) == completion.Answer(kind)  # type: ignore[arg-type]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "words",
    [
        ["context", "use", ""],
        ["send", "--context", ""],
        ["ls", "--context", "=", ""],
        ["ls", "--context", "="],
    ],
)
def test_contexts_complete_by_name(words: list[str]) -> None:
    assert sorted(texts(*words)) == ["lab", "office"]


@pytest.mark.usefixtures("home")
def test_a_new_context_is_called_as_one_likes() -> None:
    assert texts("context", "add", "") == []


@pytest.mark.usefixtures("home")
def test_unfinished_jobs_complete_without_the_network() -> None:
    assert answer(["resume", "q"]).words == [Word("qw3eqw3eqw3eqw3e", r"send a\x1b[2J\nb")]


def test_nothing_is_made_where_nothing_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XFER_HOME", str(tmp_path / "none"))
    assert texts("resume", "") == texts("context", "use", "") == []
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("home")
def test_jobs_elsewhere_complete_as_the_broker_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Mine:
        async def list(self) -> list[api.JobLine]:
            line = api.JobLine(
                job="ab3eqw3eqw3eqw3e",
                state=api.JobState.STORED,
                size=12_000_000,
                created=0.0,
                expires=0.0,
                fetched=0,
                fetches=None,
            )
            return [line]

    @contextlib.asynccontextmanager
    async def jobs(context: config.Context) -> AsyncIterator[Mine]:
        asked.append(context.name)
        yield Mine()

    monkeypatch.setattr(import_module("transfer.jobs"), "jobs", jobs)
    monkeypatch.setattr(completion, "LIMIT", 60.0)
    monkeypatch.setattr(completion, "GIVE_UP", 60.0)
    found = answer(["status", "--context", "lab", ""]).words
    assert found[0].text == "qw3eqw3eqw3eqw3e"
    assert found[1:] == [Word("ab3eqw3eqw3eqw3e", "stored, 12.0 MB")]
    assert asked == ["lab"]


@pytest.mark.usefixtures("home")
def test_a_broker_that_is_away_holds_no_shell_up(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def jobs(_context: config.Context) -> AsyncIterator[None]:
        await asyncio.sleep(3600)
        yield

    monkeypatch.setattr(import_module("transfer.jobs"), "jobs", jobs)
    monkeypatch.setattr(completion, "LIMIT", 0.01)
    monkeypatch.setattr(completion, "GIVE_UP", 60.0)
    assert texts("rm", "q") == ["qw3eqw3eqw3eqw3e"]


def test_what_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    def kind(_context: str | None) -> list[Word]:
        threading.Event().wait(3600)
        return []

    monkeypatch.setitem(KINDS, "TICKET", kind)
    monkeypatch.setattr(completion, "GIVE_UP", 0.01)
    assert texts("fetch", "") == []


def test_a_word_is_answered_without_what_a_transfer_needs() -> None:
    heavy = {"asyncio", "rich", "nats", "msgspec", "cryptography", "transfer.send"}
    code = (
        "import sys; from cli.completion import complete;"
        f"complete('bash', ['']); complete('bash', ['send', '--v']); print(sorted({heavy!r} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"


def in_shell(shell: str, script: str, xfer: Path, folder: Path) -> list[str]:
    path = f"{xfer}{os.pathsep}{os.environ['PATH']}"
    plain = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    run = subprocess.run(
        [shell, *plain, "-c", script],
        capture_output=True, text=True, timeout=60, cwd=folder, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert run.stderr == ""
    return run.stdout.splitlines()


def bash(*words: str) -> str:
    listed = shlex.join(["xfer", *words])
    return (
        f'eval "$(xfer completion bash)"; COMP_WORDS=({listed}); COMP_CWORD={len(words)};'
        ' _xfer xfer; [ ${#COMPREPLY[@]} = 0 ] || printf "%s\\n" "${COMPREPLY[@]}"'
    )


def zsh(*words: str) -> str:
    return (
        'compdef() { :; }; _files() { print -rl -- *(N); }; _describe() { print -rl -- "${(@P)2}"; };'
        f' eval "$(xfer completion zsh)"; words=({shlex.join(["xfer", *words])}); CURRENT={len(words) + 1}; _xfer'
    )


def fish(*words: str) -> str:
    return f"xfer completion fish | source; complete -C {shlex.quote(' '.join(['xfer', *words]))}"


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        pytest.param(shell, line, marks=needs[shell])
        for shell, line in zip(SCRIPTS, (bash, zsh, fish), strict=True)
    ],
    ids=list(SCRIPTS),
)
def test_a_shell_offers_commands_options_contexts_jobs_and_files(
    shell: str, line: Callable[..., str], home: Path, xfer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "a file.txt").touch()
    (folder / "a*b").touch()

    def offered(*words: str) -> list[str]:
        """Without what they are: it stands behind a tab (fish) or a colon (zsh)."""
        found = filter(None, in_shell(shell, line(*words), xfer, folder))
        split = {"bash": "\n", "zsh": ":", "fish": "\t"}[shell]
        return sorted(each.split(split)[0] for each in found)

    assert offered("se") == ["send"]
    assert offered("context", "") == sorted(GROUPS["context"])
    assert offered("send", "--thr") == ["--threshold"]
    assert offered("context", "use", "") == ["lab", "office"]
    assert offered("resume", "q") == ["qw3eqw3eqw3eqw3e"]
    assert {name.replace("\\", "") for name in offered("send", "a")} == {"a file.txt", "a*b"}
    assert offered("nonsense", "") == []


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs[shell]) for shell in SCRIPTS])
def test_a_script_is_one_that_its_shell_reads(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell])
    run = subprocess.run([shell, "-n", script], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
