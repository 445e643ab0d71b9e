"""The console script `xfer`: finds the command, runs it, turns whatever ends it into an exit code."""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer.core import TyperCommand

    from cli.help import Command, Group

COMMANDS = (
    *("send", "fetch", "resume", "room", "batch"),
    *("ls", "status", "watch", "pause", "cancel", "rm", "extend"),
    *("up", "down", "broker", "user", "invite", "join", "context"),
    *("usage", "doctor", "dead", "completion", "help"),
)
GROUPS = {
    "context": ("ls", "add", "use", "show", "rm"),
    "user": ("ls", "add", "rotate", "rm"),
    "dead": ("ls", "retry", "drop"),
    "room": ("new", "join", "ls", "show", "retry", "leave", "rm"),
}
"""Commands of commands: each is a function in cli/<group>.py, with its two examples in EXAMPLES_OF."""
WORDS = {"broker": ("permissions", "key")}
"""Commands that run by themselves, and have others below them as well: functions in the same file as these."""
MODULES = {"help": "topics"}
"""Where a command's function is not in the file of its name: `cli/help.py` makes the pages of all commands."""
EXAMPLES = ("xfer up --detach", "xfer send report.pdf")
NOTES = (
    "Every option is a variable, too: --wait 10s is XFER_WAIT=10s. "
    "For scripts, CI and cron: `xfer help unattended`, `exit-codes`, `environment`."
)


def main() -> None:
    """Entry point of the console script. Never returns, never shows a traceback."""
    args = sys.argv[1:]
    gc.set_threshold(50_000, 20, 20)  # imports make tens of thousands of objects that stay
    _prepare_streams()
    code = _answer(args)
    sys.stderr.flush()
    # What must be out is out. The interpreter would take itself apart for 20 ms, and wait for threads that may be
    # stuck for long: in a request to a store that is silent, in a write to a pipe that nobody reads.
    os._exit(code)


class _Stderr(io.RawIOBase):
    """Stderr, or nothing where nobody reads it or its disk is full: what is only said must end no transfer."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def write(self, data: Any) -> int:
        try:
            return os.write(2, data)
        except OSError:
            return len(data)


def _prepare_streams() -> None:
    """With 0, 1 or 2 closed, the next file opened would get that number, and what is said would go into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    buffered = io.BufferedWriter(_Stderr())
    sys.stderr = io.TextIOWrapper(buffered, encoding=encoding, errors="backslashreplace", line_buffering=True)


def version() -> str:
    """One line for bug reports: ours, Python's, the system's."""
    from importlib.metadata import version as installed

    python = ".".join(map(str, sys.version_info[:3]))
    return f"xfer {installed('xfer')} (Python {python}, {sys.platform})"


def root() -> Group:
    """The whole command line; each command's module is imported when it is asked for."""
    from cli.help import Group

    return Group(
        "xfer",
        "Move files: small ones peer to peer, large ones through S3, sealed end to end.",
        COMMANDS,
        command_of,
        examples=EXAMPLES,
        rows=[("--version", "Print the version")],
        notes=NOTES,
        words=WORDS,
    )


def _answer(args: list[str]) -> int:
    try:
        code = _run(args)
        sys.stdout.flush()
    except BaseException as error:  # the one place where everything ends: a log or a sentence, and a code
        if isinstance(error, (SystemExit, GeneratorExit)):
            raise
        from cli.exits import report

        return report(error, json=_wants_json(args))
    return code


def _run(args: list[str]) -> int:
    if shell := os.environ.get("_XFER_COMPLETE"):  # a shell asks what could come next
        from cli.completion import complete

        complete(shell, args)
        return 0
    if args[:1] == ["--version"]:  # answered before anything heavy is imported
        print(version())  # noqa: T201
        return 0
    from typer import Exit
    from typer.exceptions import TyperException

    try:
        with root().make_context("xfer", args) as context:
            context.command.invoke(context)
    except Exit as end:
        return end.exit_code
    except TyperException as wrong:
        return _misused(wrong, args)
    return 0


def _misused(wrong: Exception, args: list[str]) -> int:
    """What the parser did not like, as our own error."""
    from cli.exits import report
    from cli.inside_typer import ClickException, NoArgsIsHelpError
    from cli.misuse import in_our_words

    if isinstance(wrong, NoArgsIsHelpError):
        wrong.show()
        return 2
    assert isinstance(wrong, ClickException)
    return report(in_our_words(wrong), json=_wants_json(args))


def _wants_json(args: list[str]) -> bool:
    before = args[: args.index("--")] if "--" in args else args
    return "--json" in before or os.environ.get("XFER_JSON", "").lower() in (
        "1",
        "true",
        "t",
        "yes",
        "y",
        "on",
    )


def command_of(name: str) -> TyperCommand | Group:
    """The command (or group of commands) in cli/<name>.py; of two words: the second's function there."""
    from importlib import import_module

    from cli.help import Group, first_line

    name, _, word = name.partition(" ")
    module = import_module(f"cli.{MODULES.get(name, name)}")
    if word:
        return _made(word, getattr(module, word), module.EXAMPLES_OF[word])
    if name not in GROUPS:
        made = _made(name, getattr(module, name), module.EXAMPLES)
        made.words = tuple((word, first_line(getattr(module, word).__doc__)) for word in WORDS.get(name, ()))
        return made

    def make(verb: str) -> TyperCommand:
        return _made(verb, getattr(module, verb), module.EXAMPLES_OF[verb])

    return Group(name, module.__doc__ or "", GROUPS[name], make, examples=module.EXAMPLES)


def _made(name: str, function: Callable[..., None], examples: tuple[str, str]) -> Command:
    import typer

    from cli.help import Command

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=Command, epilog="\n".join(examples))(function)
    command = typer.main.get_command(app)
    assert isinstance(command, Command)
    return command
