"""Help fits a screen, ends with two examples, every option has its variable, and nothing heavy is loaded."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperArgument, TyperCommand, TyperOption

import cli
from cli.main import COMMANDS, GROUPS, WORDS
from cli.topics import commands, options
from transfer.errors import EXIT_CODES

BELOW = {**GROUPS, **WORDS}
PAGES = [(), *((name,) for name in COMMANDS), *((group, verb) for group in BELOW for verb in BELOW[group])]
_NATS = "tools for NATS have this variable, and most of them share it"
OTHERWISE = {
    ("broker", "--nats-url"): ("NATS_URL", _NATS),
    ("broker", "--nats-creds"): ("NATS_CREDS", _NATS),
    ("context add", "--nats-url"): ("NATS_URL", _NATS),
    ("context add", "--nats-creds"): ("NATS_CREDS", _NATS),
    ("broker", "--region"): ("AWS_REGION", "S3 libraries have this variable"),
    ("broker", "--endpoint-url"): ("XFER_S3_ENDPOINT", "XFER_ENDPOINT_URL would not say of what"),
    ("send", "--ticket"): ("XFER_SEND_TICKET", "XFER_TICKET is the one to fetch"),
    ("room join", "--name"): (
        "XFER_ROOM_NAME",
        "XFER_NAME is that of a stream, and may be set for all sends",
    ),
    ("join", "--name"): ("XFER_JOIN_NAME", "XFER_NAME is that of a stream, and may be set for all sends"),
    ("usage", "--all"): ("XFER_USAGE_ALL", "XFER_ALL is of the lists of jobs"),
}
"""(command, option): the variable that it has instead of XFER_<OPTION>, and why."""
ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = {"aiortc", "asyncio", "boto3", "cryptography", "msgspec", "nats", "pydantic", "rich", "transfer.send"}


def page(path: tuple[str, ...]) -> list[str]:
    return said(*path, "--help")


def said(*args: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-m", "cli", *args],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert run.stderr == ""
    return run.stdout.splitlines()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: " ".join(path) or "xfer")
def test_help_fits_a_screen_and_ends_with_two_examples(path: tuple[str, ...]) -> None:
    lines = page(path)
    assert len(lines) <= {("send",): 37, ("fetch",): 33, ("batch",): 37, (): 45}.get(path, 24)
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("Usage: " + " ".join(["xfer", *path]))
    assert lines[2]
    examples = lines[lines.index("Examples:") + 1 :]
    assert len([line for line in examples if line.startswith("  ") and not line.startswith("   ")]) == 2


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_option_has_its_variable_and_every_parameter_a_help_text(
    name: str, command: TyperCommand
) -> None:
    for parameter in command.params:
        assert isinstance(parameter, (TyperOption, TyperArgument))
        assert parameter.help, f"{name}: {parameter.name}"
        if isinstance(parameter, TyperOption):
            option = max(parameter.opts, key=len)
            own = "XFER_" + option.removeprefix("--").upper().replace("-", "_")
            expected, _why = OTHERWISE.get((name, option), (own, ""))
            assert parameter.envvar == expected, f"{name} {option}"


def test_no_exception_is_named_that_is_none() -> None:
    there = {(command, option) for command, option, _ in options()}
    assert set(OTHERWISE) <= there


@pytest.mark.parametrize("topic", ["exit-codes", "environment", "unattended"])
def test_a_topic_fits_eighty_columns_and_is_listed(topic: str) -> None:
    lines = said("help", topic)
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:1] == [topic] for line in said("help"))


def test_the_topic_of_exit_codes_has_the_table_of_the_code() -> None:
    page = "\n".join(said("help", "exit-codes"))
    for code, text in EXIT_CODES.items():
        assert re.search(rf"^{re.escape(code)} ", page, re.MULTILINE), code
        assert text.replace("`", "") in " ".join(page.split())


def test_the_topic_of_the_environment_has_every_variable_that_is_read() -> None:
    listed = {line.split()[0] for line in said("help", "environment") if re.match("[A-Z_0-9]+ ", line)}
    assert {variable for _, _, variable in options()} <= listed
    code = "".join(path.read_text() for top in ("cli", "transfer") for path in (ROOT / top).rglob("*.py"))
    named = {word.strip('"') for word in re.findall(r'"XFER_[A-Z0-9_]*[A-Z0-9]"', code)}
    assert named <= listed
    assert {name for name in listed if name.startswith("XFER_")} <= named


def test_the_page_of_a_command_is_a_topic_and_a_close_name_is_offered() -> None:
    assert said("help", "fetch") == page(("fetch",))
    run = subprocess.run(
        [sys.executable, "-m", "cli", "help", "exit-code"], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "xfer: there is no topic 'exit-code'; did you mean `xfer help exit-codes`?\n"


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
    assert examples
    assert all(f"{line} ".startswith("  xfer {} {} ".format(*path)) for line in examples)


def test_the_help_of_fetch_says_that_a_final_slash_makes_a_folder() -> None:
    assert any("a final / makes it one" in line for line in page(("fetch",)))


@pytest.mark.parametrize("name", WORDS)
def test_the_page_of_a_command_lists_the_commands_below_it_and_what_they_are_for(name: str) -> None:
    listed = " ".join(" ".join(page((name,))).split())
    for word in WORDS[name]:
        assert f" {word} {page((name, word))[2]} " in listed


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


@pytest.mark.parametrize("path", sorted(ROOT.glob("cli/*.py")), ids=lambda path: path.stem)
def test_what_is_confirmed_to_a_terminal_can_be_left_out(path: Path) -> None:
    """But for empty lists: those are the answer."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id == "confirm":
            empty = isinstance(call.args[0], ast.Constant) and str(call.args[0].value).startswith("no")
            assert empty or [keyword.arg for keyword in call.keywords] == ["quiet"], ast.unparse(call)
