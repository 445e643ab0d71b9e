"""What of typer is not public: the parser that it brings with it. The place to look at when a new version comes.

Whoever needs the parser's classes imports them from here.
"""

from __future__ import annotations

from typer._click.core import Command, Context, Parameter
from typer._click.exceptions import (
    BadOptionUsage,
    BadParameter,
    ClickException,
    MissingParameter,
    NoArgsIsHelpError,
    NoSuchOption,
)
from typer._click.exceptions import UsageError as Misparsed
from typer._click.formatting import HelpFormatter
from typer._click.types import IntRange
from typer._types import TyperChoice

CHECKED = "0.28."
"""The versions whose insides were looked at: how these begin."""

__all__ = [
    "BadOptionUsage",
    "BadParameter",
    "ClickException",
    "Command",
    "Context",
    "HelpFormatter",
    "IntRange",
    "Misparsed",
    "MissingParameter",
    "NoArgsIsHelpError",
    "NoSuchOption",
    "Parameter",
    "TyperChoice",
]
