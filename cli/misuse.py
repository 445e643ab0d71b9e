"""What the parser of the command line did not like, in our own words."""

from __future__ import annotations

from difflib import get_close_matches

from typer.core import TyperArgument, TyperOption

from cli.given import called
from cli.inside_typer import (
    BadOptionUsage,
    BadParameter,
    ClickException,
    Context,
    IntRange,
    Misparsed,
    MissingParameter,
    NoSuchOption,
    TyperChoice,
)
from transfer.errors import UsageError


def in_our_words(wrong: ClickException) -> UsageError:
    """One sentence, and a hint that names the help of the very command."""
    context = wrong.ctx if isinstance(wrong, Misparsed) else None
    see = f"see `{context.command_path if context is not None else 'xfer'} --help`"
    if isinstance(wrong, NoSuchOption):
        near = get_close_matches(wrong.option_name, wrong.possibilities or (), n=1)
        hint = f"did you mean {near[0]}? If not, {see}" if near else see
        return UsageError(f"no such option: {wrong.option_name}", hint=hint)
    return UsageError(_sentence(wrong, context), hint=see)


def _sentence(wrong: ClickException, context: Context | None) -> str:
    if isinstance(wrong, BadOptionUsage) and context is not None:
        valued = [o for p in context.command.params if not getattr(p, "is_flag", False) for o in p.opts]
        return f"{wrong.option_name} {'needs a' if wrong.option_name in valued else 'takes no'} value"
    if isinstance(wrong, MissingParameter) and wrong.param is not None:
        shown = wrong.param.metavar if isinstance(wrong.param, TyperArgument) else wrong.param.opts[0]
        return f"{shown} is missing"
    if isinstance(wrong, BadParameter) and isinstance(wrong.param, TyperOption) and context is not None:
        return f"{called(context, str(wrong.param.name))} {_given(wrong)} is {_not_what(wrong.param)}"
    text = wrong.format_message().rstrip(".")
    return text[:1].lower() + text[1:]


def _given(wrong: BadParameter) -> str:
    """The value that was refused, in quotes: the parser keeps it only at the head of its own sentence."""
    value = wrong.message.partition(" is not ")[0]
    return value if value[:1] in "'\"" else repr(value)


def _not_what(option: TyperOption) -> str:
    """What the value should have been."""
    kind = option.type
    if isinstance(kind, TyperChoice):
        *first, last = map(str, kind.choices)
        return f"not {', '.join(first)} or {last}"
    if option.is_flag:
        return "neither yes nor no"
    assert isinstance(kind, IntRange)
    return f"not a whole number from {kind.min} on"
