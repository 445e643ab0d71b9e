"""Help that fits a screen: usage, one line on what it does, one line an option, two examples. Plain text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from cli.inside_typer import Misparsed, TyperChoice
from transfer.errors import UsageError

if TYPE_CHECKING:
    from cli.inside_typer import Command as ClickCommand
    from cli.inside_typer import Context, HelpFormatter, Parameter

WIDTH = 80
"""Columns. Wider help is harder to read, narrower terminals are rare."""
_INDENT = "  "
_LEFT = 28
"""Columns of the widest left part; a wider one (a long metavar) gets a line of its own."""

Row = tuple[str, str]


class Command(TyperCommand):
    """A command whose epilog holds its examples, one a line.

    words: the commands below it, and what each is for.
    """

    words: tuple[Row, ...] = ()

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Every complaint knows the command it is about; the library leaves it out of some."""
        try:
            return super().parse_args(ctx, args)
        except Misparsed as wrong:
            wrong.ctx = wrong.ctx or ctx
            raise

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        arguments = [p for p in self.params if isinstance(p, TyperArgument) and not p.hidden]
        usage = " ".join([ctx.command_path, "[OPTIONS]", *(_metavar(a) for a in arguments)])
        options = [_row(p) for p in self.params if not getattr(p, "hidden", False)]
        usage += f", or {ctx.command_path} COMMAND" if self.words else ""
        formatter.write(_page(usage, self.help, [*self.words, *options], (self.epilog or "").splitlines()))


class Group(TyperGroup):
    """Commands by name, each made when it is asked for.

    Args:
        name: how it is called; `about`: one line on what its commands are for.
        names: its commands, in the order of the help.
        make: gives the command (or group) of one of `names`.
        examples: one command line each.
        rows: what the help lists besides the commands.
        notes: what stands between the commands and the examples.
        words: of some of `names`, the second words that make another command of them.
    """

    def __init__(
        self,
        name: str,
        about: str,
        names: tuple[str, ...],
        make: Callable[[str], TyperCommand | TyperGroup],
        *,
        examples: Iterable[str],
        rows: Iterable[Row] = (),
        notes: str = "",
        words: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(
            name=name,
            help=about,
            no_args_is_help=True,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self._names = names
        self._make = make
        self._examples = tuple(examples)
        self._rows = tuple(rows)
        self._notes = notes
        self._words = words or {}

    def list_commands(self, ctx: Context) -> list[str]:
        return list(self._names)

    def get_command(self, ctx: Context, cmd_name: str) -> TyperCommand | TyperGroup | None:
        return self._make(cmd_name) if cmd_name in self._names else None

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, ClickCommand | None, list[str]]:
        """Raises UsageError with the nearest name if there is no such command."""
        if args[0] not in self._names and not args[0].startswith("-"):
            near = get_close_matches(args[0], self._names, n=1)
            see = f"see `{ctx.command_path} --help`"
            hint = f"did you mean `{ctx.command_path} {near[0]}`?" if near else see
            raise UsageError(f"there is no command {args[0]!r}", hint=hint)
        if len(args) > 1 and args[1] in self._words.get(args[0], ()):
            both = f"{args[0]} {args[1]}"
            return both, self._make(both), args[2:]
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        rows = [(name, first_line(self._make(name).help)) for name in self._names]
        usage = f"{ctx.command_path} COMMAND [OPTIONS]"
        formatter.write(_page(usage, self.help, [*rows, *self._rows], self._examples, self._notes))


def _page(
    usage: str, about: str | None, rows: Iterable[Row], examples: Iterable[str], notes: str = ""
) -> str:
    lines = textwrap.wrap(f"Usage: {usage}", WIDTH, subsequent_indent=" " * 7)
    lines += ["", *textwrap.wrap(first_line(about), WIDTH)]
    rows = list(rows)
    left = min(_LEFT, max((len(name) for name, _ in rows), default=0)) + len(_INDENT)
    for name, text in rows:
        head = f"{_INDENT}{name}".ljust(left) + _INDENT
        if len(head) > left + len(_INDENT):
            lines.append(head.rstrip())
            head = ""
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=head.ljust(left + 2), subsequent_indent=" " * (left + 2)
        )
    if notes:
        lines += ["", *textwrap.wrap(notes, WIDTH)]
    return "\n".join([*lines, "", "Examples:", *map(_example, examples)])


def _example(line: str) -> str:
    """The command line, continued with a backslash where it is too long, so that it can be pasted.

    An option and its value stay together.
    """
    joined = re.sub(r"(--[\w-]+) (?=[^-])", "\\1\0", line)
    parts = textwrap.wrap(joined, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    return (_INDENT + f" \\\n{_INDENT * 3}".join(parts)).replace("\0", " ")


def _row(parameter: Parameter) -> Row:
    """The option's names and metavar, and its help with the default in brackets."""
    text = getattr(parameter, "help", None) or ""
    if isinstance(parameter, TyperArgument):
        return _metavar(parameter), text
    assert isinstance(parameter, TyperOption)
    names = ", ".join(sorted(parameter.opts + parameter.secondary_opts, key=len))
    if parameter.is_flag:
        return names, text
    default = parameter.default
    if isinstance(default, (str, int, float)) and not isinstance(default, bool) and f"{default}":
        text = f"{text} [{default}]"
    return f"{names} {_metavar(parameter)}", text


def _metavar(parameter: TyperArgument | TyperOption) -> str:
    choices = parameter.type.choices if isinstance(parameter.type, TyperChoice) else ()
    name = parameter.metavar or ("|".join(map(str, choices)) if choices else str(parameter.name).upper())
    return f"[{name}]" if isinstance(parameter, TyperArgument) and not parameter.required else name


def first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0].rstrip(".")
