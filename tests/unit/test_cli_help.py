"""Help fits a screen, ends with two examples, every option has its variable, and nothing heavy is loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

import cli
from cli.main import COMMANDS, GROUPS, WORDS, root

BELOW = {**GROUPS, **WORDS}
PAGES = [(), *((name,) for name in COMMANDS), *((group, verb) for group in BELOW for verb in BELOW[group])]
FOREIGN = ("XFER_", "NATS_", "AWS_")
"""NATS and S3 have variables of their own, which other tools honour too."""
HEAVY = {"aiortc", "asyncio", "boto3", "cryptography", "msgspec", "nats", "pydantic", "rich", "transfer.send"}


def page(path: tuple[str, ...]) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-m", "cli", *path, "--help"],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert run.stderr == ""
    return run.stdout.splitlines()


def commands() -> Iterator[tuple[str, TyperCommand]]:
    top = root()
    context = top.make_context("xfer", [], resilient_parsing=True)
    for name in COMMANDS:
        command = top.get_command(context, name)
        if isinstance(command, TyperGroup):
            for verb in GROUPS[name]:
                inner = command.get_command(context, verb)
                assert isinstance(inner, TyperCommand)
                yield f"{name} {verb}", inner
        else:
            assert isinstance(command, TyperCommand)
            yield name, command
            for word in WORDS.get(name, ()):
                _, inner, _ = top.resolve_command(context, [name, word])
                assert isinstance(inner, TyperCommand)
                yield f"{name} {word}", inner


@pytest.mark.parametrize("path", PAGES, ids=lambda path: " ".join(path) or "xfer")
def test_help_fits_a_screen_and_ends_with_two_examples(path: tuple[str, ...]) -> None:
    lines = page(path)
    assert len(lines) <= {("send",): 36, ("fetch",): 32, (): 45}.get(path, 24)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("Usage: " + " ".join(["xfer", *path]))
    assert lines[2]
    examples = lines[lines.index("Examples:") + 1 :]
    assert len([line for line in examples if line.startswith("  ") and not line.startswith("   ")]) == 2


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_option_has_its_variable_and_a_help_text(name: str, command: TyperCommand) -> None:
    for parameter in command.params:
        assert isinstance(parameter, (TyperOption, TyperArgument))
        assert parameter.help, f"{name}: {parameter.name}"
        if isinstance(parameter, TyperOption):
            own = "XFER_" + parameter.name.upper()
            variables = (
                [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
            )
            assert any(v.startswith(FOREIGN) for v in variables), f"{name}: no {own}"


@pytest.mark.parametrize(
    "args", [["--version"], ["--help"], ["send", "--help"], ["context", "--help"]], ids=" ".join
)
def test_nothing_heavy_is_imported_to_answer(args: list[str]) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('|' + ' '.join(sys.modules), file=sys.stderr))\n"
        f"sys.argv = ['xfer', *{args!r}]\n"
        "from cli.main import main\n"
        "main()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(run.stderr.rpartition("|")[2].split())
    assert loaded & HEAVY == set()
    if args == ["--version"]:
        assert "typer" not in loaded


@pytest.mark.parametrize("path", [path for path in PAGES if len(path) == 2], ids=" ".join)
def test_the_examples_of_a_command_in_a_group_are_its_own(path: tuple[str, str]) -> None:
    lines = page(path)
    examples = [line for line in lines[lines.index("Examples:") + 1 :] if not line.startswith("   ")]
    assert all(f"{line} ".startswith("  xfer {} {} ".format(*path)) for line in examples)


def test_the_help_of_fetch_says_that_a_final_slash_makes_a_folder() -> None:
    assert any("a final / makes it one" in line for line in page(("fetch",)))


def test_a_close_name_is_offered() -> None:
    run = subprocess.run([sys.executable, "-m", "cli", "fecth"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "xfer: there is no command 'fecth'; did you mean `xfer fetch`?\n"


def test_an_option_of_several_commands_is_defined_once() -> None:
    """One name with one variable is one option: in cli/options.py, if more than one command has it."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in sorted(Path(cli.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Option") and node.args:
                variable = next((ast.unparse(k.value) for k in node.keywords if k.arg == "envvar"), "")
                found.setdefault((ast.unparse(node.args[0]), variable), []).append(file.name)
    assert len(found) > 30
    assert {option: files for option, files in found.items() if len(files) > 1} == {}
