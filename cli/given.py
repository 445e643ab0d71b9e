"""What a command was given: read, and called as it was given where it makes no sense or was given twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.units import parse_duration, parse_limit, parse_since, parse_size
from transfer.errors import UsageError

if TYPE_CHECKING:
    from cli.inside_typer import Context
    from transfer.timetable import Timetable


class Given:
    """The parameters of a command, by the names that its function has for them.

    Raises (any that reads): UsageError, naming the option, the value and the command's help; see `cli.units` for the forms.
    """

    def __init__(self, arguments: Context) -> None:
        self._arguments = arguments
        self._command = arguments.info_name or ""

    def called(self, name: str) -> str:
        """An option as it was given: `--wait`, or `XFER_WAIT` where the variable said it. name: `wait`."""
        return called(self._arguments, name)

    def typed(self, *names: str) -> bool:
        """Whether one of them stood on the command line, which goes before what a variable says."""
        sources = (self._arguments.get_parameter_source(name) for name in names)
        return any(source is not None and source.name == "COMMANDLINE" for source in sources)

    def duration(self, name: str, text: str) -> float:
        """Seconds."""
        return parse_duration(text, option=self.called(name), command=self._command)

    def duration_if(self, name: str, text: str | None) -> float | None:
        """Seconds; None for no text."""
        return None if text is None else self.duration(name, text)

    def size(self, name: str, text: str) -> int:
        """Bytes."""
        return parse_size(text, option=self.called(name), command=self._command)

    def limit(self, name: str, text: str | None) -> float | Timetable | None:
        """Bytes per second, or when they are how many; None for no limit."""
        return parse_limit(text, option=self.called(name), command=self._command)

    def since(self, name: str, text: str | None) -> float | None:
        """Seconds since 1970; None for no text."""
        return None if text is None else parse_since(text, option=self.called(name), command=self._command)

    def text_or_file(
        self, name: str, text: str | None, file_name: str, file: str | None, *, twice: str
    ) -> tuple[str | None, str | None]:
        """Of a text and the file that holds it: what is typed goes before a variable; both stay only if neither is typed.

        twice: the sentence for both being typed, as UsageError.
        """
        if text is None or file is None:
            return text, file
        if self.typed(name) and self.typed(file_name):
            raise UsageError(twice, hint="give it once")
        if self.typed(file_name):
            return None, file
        return text, None if self.typed(name) else file


def called(arguments: Context, name: str) -> str:
    """As `Given.called`."""
    parameter = next(p for p in arguments.command.params if p.name == name)
    source = arguments.get_parameter_source(name)
    if source is not None and source.name == "ENVIRONMENT" and isinstance(parameter.envvar, str):
        return parameter.envvar
    return max(parameter.opts, key=len)
