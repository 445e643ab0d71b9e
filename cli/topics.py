"""`xfer help TOPIC`: pages that belong to no single command, made of the tables that the code goes by."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

from typer import Argument

if TYPE_CHECKING:
    from typer.core import TyperCommand

EXAMPLES = ("xfer help exit-codes", "xfer help unattended")
WIDTH = 80
OTHERS = {
    "XFER_HOME": "Folder of contexts and state; else the platform's",
    "XFER_USER": "Who we are on the bus; else what credentials or context say",
    "XFER_TICKET": "The ticket of `xfer fetch`, not among the arguments",
    "XFER_CA": "PEM file of the authorities that may vouch for NATS and store, and no others",
    "XFER_ROOM_TICKET": "The ticket of `xfer room join`, not among the arguments",
    "XFER_INVITE": "The invite of `xfer join`, not among the arguments",
    "XFER_USAGE_USER": "The user of `xfer usage`",
    "XFER_PREFIX": "broker: what the keys of objects begin with",
    "XFER_URL_LIFE": "broker: seconds for which signed URLs are good",
    "XFER_SWEEP_EVERY": "broker: seconds between two sweeps",
    "XFER_UNFINISHED_LIFE": "broker: seconds without progress after which a job goes",
    "XFER_ORPHAN_AGE": "broker: seconds after which what no job owns is removed",
    "XFER_LIFECYCLE": "broker: on, or off: give the bucket rules of its own",
    "XFER_REPLICAS": "broker: on how many NATS servers its records are kept",
    "XFER_WORK_TRIES": "broker: tries after which work becomes a dead letter",
    "HTTPS_PROXY": "Proxy to the store, for https URLs; HTTP_PROXY for http",
    "NO_PROXY": "Hosts that are reached without a proxy",
    "SSL_CERT_FILE": "PEM file in place of the system's authorities",
    "NO_COLOR": "No colours; nor with TERM=dumb, which has no bars either",
}
"""Variables that are not of an option. Those of NATS (but NATS_URL and NATS_CREDS) and AWS are read by their libraries."""
UNATTENDED = """\
On success nothing is said where there is no terminal; on failure it is one line
on stderr and an exit code (`xfer help exit-codes`). Warnings, for example of a
pipe that was left out, are said. From 10 seconds on there is a line every 10
seconds at most, as a sign of life; --quiet leaves that out. Nothing is ever
asked: what is missing is exit code 2.

Again and again. Exit code 5 means: run the same command again, it resumes. So
does 10, of a --deadline, and 128+n, of a signal: the first one makes a
checkpoint and names the command that goes on, a second one aborts. With
--idempotency-key KEY every run on this host is about one transfer, whatever
became of the others: one that was killed is gone on with, one that ended well
is told again, with the same ticket. Other content under the same key, or files
touched since, is exit code 2. A runner that is new each time knows no keys.

  xfer send --idempotency-key "nightly-$(date +%F)" --deadline 2h /backup
  xfer resume --deadline 1h      everything that is unfinished on this host

Pipes. A shell takes the exit code of a pipe's last command, so that a producer
that fails looks like one that came to its end. Use `set -o pipefail`, which
tells you afterwards, or --from-command, which voids the transfer (exit code 3):

  set -o pipefail; pg_dump shop | xfer send - --name shop.sql
  xfer send --from-command 'pg_dump shop' --name shop.sql
  xfer fetch -o - | tar x        only verified bytes; look at both exit codes

The command is run by /bin/sh, and ended with all it has started when the
transfer ends before it. Streams cannot be resumed: run them again.

Watching. --json writes events as NDJSON to stdout; --events-fd 3 to descriptor
3, while stdout has its ticket or payload:

  xfer fetch -o - --events-fd 3 3>events.ndjson | tar x

Secrets. Give tickets in XFER_TICKET, or with --ticket-file: arguments can be
seen by others on the machine. `xfer send --ticket-file F` writes one, 0600; the
ticket of another transfer that stood there is kept in F~.
"""


def help(
    topic: Annotated[
        str | None,
        Argument(
            metavar="TOPIC", help="exit-codes, environment, unattended, or a command", show_default=False
        ),
    ] = None,
) -> None:
    """Show a page on exit codes, variables, unattended use, or a command."""
    from cli.main import COMMANDS, root
    from transfer.errors import UsageError

    if topic is None:
        sys.stdout.write(_list())
    elif topic in TOPICS:
        sys.stdout.write(TOPICS[topic][1]())
    elif topic in COMMANDS:
        with root().make_context("xfer", [], resilient_parsing=True) as context:
            command = root().get_command(context, topic)
            assert command is not None
            below = command.make_context(topic, [], parent=context, resilient_parsing=True)
            sys.stdout.write(command.get_help(below) + "\n")
    else:
        from difflib import get_close_matches

        near = get_close_matches(topic, [*TOPICS, *COMMANDS], n=1)
        hint = f"did you mean `xfer help {near[0]}`?" if near else "see `xfer help`"
        raise UsageError(f"there is no topic {topic!r}", hint=hint)


def _list() -> str:
    rows = "".join(f"  {name:14}{about}\n" for name, (about, _) in TOPICS.items())
    return f"Topics of `xfer help TOPIC`:\n{rows}  {'COMMAND':14}The page of `xfer COMMAND --help`\n"


def _exit_codes() -> str:
    from transfer.errors import EXIT_CODES

    lines = [_row(code, text, 8) for code, text in EXIT_CODES.items()]
    return "\n".join([*lines, "", "A code that is not listed means failure, too."]) + "\n"


def _environment() -> str:
    """Each variable once, with the options that it sets."""
    found: dict[str, list[str]] = {}
    for command, option, variable in options():
        found.setdefault(variable, []).append(f"{command} {option}")
    rows = {name: _commands(uses) for name, uses in found.items()}
    for name, text in OTHERS.items():
        rows[name] = f"{text}; {rows[name]}" if name in rows else text
    head = textwrap.wrap(
        "Each option is a variable as well; what is typed counts more. Yes and no are 1 and 0; values of an option "
        "that may be repeated are separated by spaces. An empty variable counts as not set.",
        WIDTH,
    )
    return "\n".join([*head, "", *(_row(name, rows[name], 26) for name in sorted(rows))]) + "\n"


def _commands(uses: list[str]) -> str:
    """`send, fetch --wait` from `send --wait` and `fetch --wait`."""
    by_option: dict[str, list[str]] = {}
    for use in uses:
        command, _, option = use.rpartition(" ")
        by_option.setdefault(option, []).append(command)
    return "; ".join(f"{option}: {', '.join(commands)}" for option, commands in by_option.items())


def _unattended() -> str:
    return UNATTENDED


def options() -> Iterator[tuple[str, str, str]]:
    """Of every option of every command: the command, the option, its variable."""
    from typer.core import TyperOption

    for name, command in commands():
        for parameter in command.params:
            variable = parameter.envvar
            if isinstance(parameter, TyperOption) and isinstance(variable, str):
                yield name, max(parameter.opts, key=len), variable


def commands() -> Iterator[tuple[str, TyperCommand]]:
    """Every one there is, by what it is called: `context add`."""
    from typer.core import TyperCommand

    from cli.main import COMMANDS, GROUPS, WORDS, root

    top = root()
    with top.make_context("xfer", [], resilient_parsing=True) as context:
        for name in COMMANDS:
            command = top.get_command(context, name)
            if isinstance(command, TyperCommand):
                yield name, command
                words = [
                    (word, top.resolve_command(context, [name, word])[1]) for word in WORDS.get(name, ())
                ]
            else:
                assert command is not None
                words = [(verb, command.get_command(context, verb)) for verb in GROUPS[name]]
            for word, inner in words:
                assert isinstance(inner, TyperCommand)
                yield f"{name} {word}", inner


def _row(name: str, text: str, width: int) -> str:
    head = f"{name.ljust(width - 2)}  "
    return "\n".join(
        textwrap.wrap(
            text.replace("`", ""),
            WIDTH,
            initial_indent=head,
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
    )


TOPICS: dict[str, tuple[str, Callable[[], str]]] = {
    "exit-codes": ("What the exit codes mean", _exit_codes),
    "environment": ("The variables, and the options they set", _environment),
    "unattended": ("Use in scripts, CI and cron", _unattended),
}
