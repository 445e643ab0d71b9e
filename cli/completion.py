"""`xfer completion`: the script that has a shell complete our command lines, and what it gets to hear.

The script runs `xfer` with `_XFER_COMPLETE` set to the shell's name and the words typed so far. Not by the library's
own machinery: that would make every command, and can ask for no time limit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from typer import Argument

if TYPE_CHECKING:
    from typer.core import TyperArgument, TyperCommand, TyperOption

EXAMPLES = ('eval "$(xfer completion bash)"', "xfer completion fish > ~/.config/fish/completions/xfer.fish")
ASKED = "_XFER_COMPLETE"
"""The variable that has `xfer` say what could come next, and its value the shell."""
LIMIT = 0.5
"""Seconds that the broker is waited for."""
GIVE_UP = 1.5
"""Seconds after which what is there by then is all: nothing may hold a shell up, not even a name server."""


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"],
        Argument(
            metavar="SHELL",
            help="bash, zsh: eval it in ~/.bashrc, ~/.zshrc (after compinit); fish: write it to the file below",
            show_default=False,
        ),
    ],
) -> None:
    """Print the script by which a shell completes commands, options and jobs."""
    from cli.shells import SCRIPTS

    sys.stdout.write(SCRIPTS[shell])


class Word(NamedTuple):
    """What may come next. about: what it is, for shells that show it."""

    text: str
    about: str = ""


class Answer(NamedTuple):
    """kind: `words`, or what the shell finds by itself: `files` or `folders`."""

    kind: Literal["words", "files", "folders"]
    words: Sequence[Word] = ()


# what there is, by kind; each gets the --context of the command line, if one stands there


def contexts(_context: str | None) -> Iterator[Word]:
    """All that have a name here."""
    from transfer import config

    for name, context in config.contexts().items():
        yield Word(name, context.public_url)


def unfinished(_context: str | None) -> Iterator[Word]:
    """The jobs that were begun here and have not ended. Makes no ledger where there is none."""
    from contextlib import closing

    from transfer import config
    from transfer.ledger import Ledger
    from transfer.paths import printable

    path = config.state_dir() / "ledger.db"
    if path.exists():
        with closing(Ledger(path)) as ledger:
            for side in ("send", "fetch"):
                yield from (
                    Word(row.job, f"{side} {printable(row.label)}") for row in ledger.unfinished(side)
                )


def jobs(context: str | None) -> Iterator[Word]:
    """The user's, from whatever host, as the broker says; first those begun here, for it may be away."""
    yield from unfinished(context)
    import asyncio

    from cli.units import show_size
    from transfer import config
    from transfer.api import JobLine
    from transfer.jobs import jobs as transfer_jobs

    async def ask() -> list[JobLine]:
        async with asyncio.timeout(LIMIT), transfer_jobs(config.load(context)) as mine:
            return await mine.list()

    for line in asyncio.run(ask()):
        size = "" if line.size is None else f", {show_size(line.size)}"
        yield Word(line.job, f"{line.state.value}{size}")


def rooms(_context: str | None) -> Iterator[Word]:
    """Those that this host has joined."""
    from transfer.room_names import rooms as joined

    return (Word(room.name, f"at {room.context}") for room in joined())


def topics(_context: str | None) -> Iterator[Word]:
    from cli.topics import TOPICS

    return (Word(name, about) for name, (about, _) in TOPICS.items())


Kind = Callable[[str | None], Iterable[Word]]
KINDS: dict[str, Kind] = {
    "--context": contexts,
    "context use NAME": contexts,
    "context show NAME": contexts,
    "context rm NAME": contexts,
    "JOB": jobs,
    "resume JOB": unfinished,
    "--room": rooms,
    "ROOM": rooms,
    "TOPIC": topics,
}
"""By an option's name or an argument's metavar, of all commands or of the one named before it."""
FILES = {"F", "FILE", "PATH...", "WHERE"}
"""Metavars of what is a file."""
FOLDERS = {"DIR"}


def complete(shell: str, words: Sequence[str]) -> None:
    """Write to stdout what may take the last word's place: the kind of answer, then a word and what it is a line."""
    kind, found = answer(words, told=shell != "bash")
    lines = [kind, *(f"{word.text}\t{word.about}" if shell != "bash" else word.text for word in found)]
    sys.stdout.write("\n".join(lines) + "\n")


def answer(words: Sequence[str], *, told: bool = True) -> Answer:
    """words: without `xfer`; the last one is being typed. told: say also what commands are for, which takes a while."""
    from cli.main import COMMANDS, GROUPS, WORDS, command_of

    *before, start = _whole(words) or [""]
    if not before:
        return _names(COMMANDS, "", start, told)
    name, *rest = before
    if name not in COMMANDS:
        return Answer("words")
    if name in GROUPS:
        if not rest:
            return _names(GROUPS[name], name, start, told)
        verb, *rest = rest
        if verb not in GROUPS[name]:
            return Answer("words")
        name = f"{name} {verb}"
    elif rest and rest[0] in WORDS.get(name, ()):
        name = f"{name} {rest.pop(0)}"
    elif not rest and not start.startswith("-") and name in WORDS:
        return _names(WORDS[name], name, start, told)
    command = command_of(name)
    assert not hasattr(command, "list_commands"), name
    return _Line(name, command, rest).answer(start)


def _whole(words: Sequence[str]) -> list[str]:
    """bash hands over `--option=value` as three words."""
    kept: list[str] = []
    for at, word in enumerate(words):
        if word == "=" and kept and kept[-1].startswith("--"):
            if at + 1 == len(words):
                kept.append("")
            continue
        kept.append(word)
    return kept


def _names(names: Iterable[str], above: str, start: str, told: bool) -> Answer:
    from cli.main import command_of

    found = [name for name in names if name.startswith(start)]
    abouts = [
        (command_of(f"{above} {name}".strip()).help or "").strip().partition("\n")[0] if told else ""
        for name in found
    ]
    return Answer("words", [Word(*pair) for pair in zip(found, abouts, strict=True)])


class _Line:
    """The words of one command, read as far as they go."""

    def __init__(self, name: str, command: TyperCommand, words: Sequence[str]) -> None:
        from typer.core import TyperArgument, TyperOption

        self._name = name
        shown = [p for p in command.params if not getattr(p, "hidden", False)]
        self._arguments = [p for p in shown if isinstance(p, TyperArgument)]
        self._options = {
            o: p for p in shown if isinstance(p, TyperOption) for o in (*p.opts, *p.secondary_opts)
        }
        self._given: dict[str, str] = {}
        self._pending: str | None = None
        self._placed = 0
        self._only_arguments = False
        for word in words:
            self._read(word)

    def answer(self, start: str) -> Answer:
        name, equals, value = start.partition("=")
        if self._pending is not None:
            return self._values(self._options[self._pending], self._pending, start)
        if not self._only_arguments and equals and name in self._options:
            found = self._values(self._options[name], name, value)
            return Answer("words", [Word(f"{name}={word.text}", word.about) for word in found.words])
        if start.startswith("-") and not self._only_arguments:
            return self._names(start)
        last = len(self._arguments) - 1
        at = min(self._placed, last) if last >= 0 and self._arguments[last].nargs == -1 else self._placed
        if at > last:
            return Answer("words")
        argument = self._arguments[at]
        return self._values(argument, argument.metavar or "", start)

    def _read(self, word: str) -> None:
        if self._pending is not None:
            self._given[self._pending], self._pending = word, None
        elif self._only_arguments or not word.startswith("-") or word == "-":
            self._placed += 1
        elif word == "--":
            self._only_arguments = True
        else:
            name, equals, value = word.partition("=")
            if name in self._options:
                self._given[name] = value
                if not equals and not self._options[name].is_flag:
                    self._pending = name

    def _names(self, start: str) -> Answer:
        """Of the options; one that was given is not offered again, if it does not repeat."""
        used = {id(self._options[name]) for name in self._given if not self._options[name].multiple}
        found = [
            Word(name, option.help or "")
            for name, option in self._options.items()
            if name.startswith(start) and id(option) not in used
        ]
        return Answer("words", [*found, *(Word(n, "Show help") for n in ("--help",) if n.startswith(start))])

    def _values(self, parameter: TyperArgument | TyperOption, called: str, start: str) -> Answer:
        choices = getattr(parameter.type, "choices", None)
        metavar = parameter.metavar or ""
        kind = KINDS.get(f"{self._name} {called}") or KINDS.get(called)
        if choices is not None:
            return Answer("words", [Word(str(each)) for each in choices if str(each).startswith(start)])
        if kind is not None:
            there = _in_time(kind, self._given.get("--context"))
            return Answer("words", [word for word in there if word.text.startswith(start)])
        if metavar in FOLDERS:
            return Answer("folders")
        return Answer("files") if metavar in FILES else Answer("words")


def _in_time(kind: Kind, context: str | None) -> list[Word]:
    """What is there in time. What goes wrong is not said: whoever types did not ask for anything yet."""
    from threading import Thread

    found: dict[str, Word] = {}

    def look() -> None:
        with suppress(Exception):
            for word in kind(context):
                found.setdefault(word.text, word)

    thread = Thread(target=look, daemon=True)
    thread.start()
    thread.join(GIVE_UP)
    return list(found.copy().values())
