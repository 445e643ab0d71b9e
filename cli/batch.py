"""`xfer batch`: arguments to one run of `transfer.batch`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option

from cli import options
from cli.options import Bwlimit, ContextName, ErrorOnNothing, Fetches, Patience, Quiet, RoomFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO, Literal

    from transfer.batch.plan import Step
    from transfer.batch.selection import Item, Rules

EXAMPLES = (
    "xfer batch spool/ --room backups --min-age 1m --delete",
    "find . -name '*.csv' -print0 | xfer batch --files-from0 - --room backups --dry-run",
)


def batch(
    arguments: Context,
    folder: Annotated[
        str | None,
        Argument(metavar="DIR", help="The folder whose files to send; - reads names", show_default=False),
    ] = None,
    room: Annotated[str | None, options.room("Where they are posted")] = None,
    room_file: RoomFile = None,
    files_from: Annotated[
        str | None,
        Option("--files-from", metavar="F", envvar="XFER_FILES_FROM", help="Names, one a line; - is stdin"),
    ] = None,
    files_from0: Annotated[
        str | None,
        Option("--files-from0", metavar="F", envvar="XFER_FILES_FROM0", help="Names, a zero byte after each"),
    ] = None,
    include: Annotated[
        list[str] | None,
        Option("--include", metavar="GLOB", envvar="XFER_INCLUDE", help="Only these, as in .gitignore"),
    ] = None,
    exclude: Annotated[list[str] | None, options.exclude("And not these; both repeatable")] = None,
    newer_than: Annotated[
        str | None,
        Option(
            "--newer-than", metavar="TIME", envvar="XFER_NEWER_THAN", help="Modified since: 7d, 2026-01-31"
        ),
    ] = None,
    min_age: Annotated[
        str, Option("--min-age", metavar="TIME", envvar="XFER_MIN_AGE", help="Unchanged for so long")
    ] = "0",
    settled: Annotated[
        bool, Option("--settled", envvar="XFER_SETTLED", help="Only what nobody is writing: look twice")
    ] = False,
    pack: Annotated[bool, Option("--pack", envvar="XFER_PACK", help="All of it in one transfer")] = False,
    delete: Annotated[
        bool, Option("--delete", envvar="XFER_DELETE", help="Delete each once somebody has it (a later run)")
    ] = False,
    move_to: Annotated[
        Path | None,
        Option("--move-to", metavar="DIR", envvar="XFER_MOVE_TO", help="Move each there instead"),
    ] = None,
    retry_failed: Annotated[
        bool, Option("--retry-failed", envvar="XFER_RETRY_FAILED", help="Only what failed last time")
    ] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", envvar="XFER_DRY_RUN", help="Only say what would be done")
    ] = False,
    report: Annotated[
        Path | None,
        Option("--report", metavar="F", envvar="XFER_REPORT", help="Write what became of each file, as JSON"),
    ] = None,
    wait_lock: Annotated[
        bool, Option("--wait-lock", envvar="XFER_WAIT_LOCK", help="Wait for another run; else exit 11")
    ] = False,
    lock: Annotated[
        str | None,
        Option(
            "--lock", metavar="NAME", envvar="XFER_LOCK", help="One at a time on all hosts that name it so"
        ),
    ] = None,
    max_duration: Annotated[
        str | None,
        Option("--max-duration", metavar="TIME", envvar="XFER_MAX_DURATION", help="Leave the rest; exit 10"),
    ] = None,
    expire: Annotated[str, options.expire("How long each is kept")] = "7d",
    fetches: Fetches = None,
    patience: Patience = None,
    concurrency: Annotated[int, options.concurrency("Transfers at once")] = 4,
    bwlimit: Bwlimit = None,
    error_on_nothing: ErrorOnNothing = False,
    context: ContextName = None,
    json: Annotated[bool, options.json("As NDJSON on stdout")] = False,
    quiet: Quiet = False,
) -> None:
    """Send what is new or changed, each version once; for cron."""
    import os
    from functools import partial

    from cli.batch_run import Scope, run_batch
    from cli.given import Given
    from cli.tickets import room_named
    from transfer.batch.room_sender import room_sender
    from transfer.batch.run import Asked
    from transfer.batch.selection import Rules
    from transfer.errors import NothingToDo, UsageError
    from transfer.room_names import find
    from transfer.source import patterns

    given = Given(arguments)
    room = room_named(given, room, room_file)
    if room is None:
        raise UsageError("no room is named", hint="say where to send with --room")
    if delete and move_to is not None:
        raise UsageError("a file is either deleted or moved", hint="drop --delete or --move-to")
    if lock == "":
        raise UsageError(f"{given.called('lock')} is empty", hint="is a variable not set?")
    kept = given.duration("expire", expire)
    if not kept:
        raise UsageError("what expires at once cannot be fetched", hint="give --expire a time")
    root = _root(folder, files_from, files_from0)
    target = os.path.realpath(move_to) if move_to is not None else ""
    rules = Rules(
        include=patterns(include or (), given.called("include")),
        exclude=patterns(exclude or (), given.called("exclude")),
        since=given.since("newer_than", newer_than),
        min_age=given.duration("min_age", min_age),
        now=time.time(),
        apart=tuple(os.path.realpath(each) for each in (move_to, report) if each is not None),
    )
    if target and (root == target or (not root and Path.cwd().is_relative_to(target))):
        raise UsageError("--move-to names the folder that is sent", hint="name another, or one inside it")
    removal: Literal["", "delete", "move"] = "delete" if delete else "move" if move_to is not None else ""

    def wanted(name: bytes) -> bool:
        return rules.takes_tree(os.fsdecode(name))

    source = "-" if folder == "-" else files_from or files_from0
    separator = b"\0" if files_from0 is not None else b"\n"
    where = find(room)
    with _names(source) as names:
        if dry_run:
            items = _items(root, names, separator, rules, look_twice=settled)
            _plan(where.ticket.id, root, items, wanted, removal, only_failed=retry_failed, json=json)
            return
        asked = Asked(
            removal=removal,
            to=os.path.abspath(move_to) if move_to is not None else "",
            wanted=wanted,
            pack=pack,
            only_failed=retry_failed,
            concurrency=concurrency,
            max_duration=given.duration_if("max_duration", max_duration),
        )
        sending = partial(
            room_sender,
            where,
            context=context,
            expire=kept,
            fetches=fetches,
            patience=given.duration_if("patience", patience),
            bwlimit=given.limit("bwlimit", bwlimit),
        )
        scope = Scope(where.name or where.ticket.id, where.ticket.id, root, lock, wait_lock)
        counts = run_batch(
            asked,
            scope,
            lambda pause: _items(root, names, separator, rules, look_twice=settled, pause=pause),
            sending,
            report=report,
            json=json,
            quiet=quiet,
        )
    if error_on_nothing and not counts["sent"]:
        raise NothingToDo("there is nothing new to send")


def _root(folder: str | None, files_from: str | None, files_from0: str | None) -> str:
    """The folder, absolute and without links; empty for a list. Raises UsageError unless exactly one of them is given."""
    import os
    import sys

    from transfer.errors import UsageError

    given = [each for each in (folder, files_from, files_from0) if each is not None]
    if len(given) != 1:
        raise UsageError(
            "nothing to send" if not given else "a folder and a list, or two lists, are too much at once",
            hint="name one folder, or one list with --files-from or --files-from0; see `xfer batch --help`",
        )
    if not given[0]:
        raise UsageError("the name of what to send is empty", hint="is a variable not set?")
    if given[0] == "-" and (sys.stdin is None or sys.stdin.closed):
        raise UsageError("stdin is closed, and the names come from there", hint="pipe them in")
    return os.path.realpath(folder) if folder is not None and folder != "-" else ""


def _names(source: str | None) -> BinaryIO:
    """The list, opened; an empty one where there is none. Raises UsageError."""
    import io
    import sys

    from transfer.errors import UsageError
    from transfer.paths import printable
    from transfer.source import reason_of

    if source is None:
        return io.BytesIO()
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False) if source == "-" else open(source, "rb")
    except OSError as error:
        raise UsageError(
            f"the list {printable(source)} cannot be read: {reason_of(error)}", hint="check its name"
        ) from None


def _items(
    root: str,
    names: BinaryIO,
    separator: bytes,
    rules: Rules,
    *,
    look_twice: bool,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[Item]:
    from transfer.batch.selection import from_folder, from_list, settled

    found = from_folder(Path(root), rules) if root else from_list(names, separator, rules)
    return settled(found, pause=pause) if look_twice else found


def _plan(
    room: str,
    root: str,
    items: Iterator[Item],
    wanted: Callable[[bytes], bool],
    removal: Literal["", "delete", "move"],
    *,
    only_failed: bool,
    json: bool,
) -> None:
    """Print it, a step a line. Raises PartialSource, at its end, if some of it would fail."""
    import contextlib
    import sys

    from transfer import config
    from transfer.batch.examine import examine
    from transfer.batch.plan import What, whole
    from transfer.batch.state import State
    from transfer.errors import PartialSource

    failed = 0
    with contextlib.closing(State(config.state_dir() / "batch.db", room, root)) as state:
        for step in whole(
            items,
            state,
            examine,
            removal=removal,
            wanted=wanted,
            only_failed=only_failed,
        ):
            failed += step.what is What.FAILED
            sys.stdout.write((_json(step) if json else _line(step)) + "\n")
    sys.stdout.flush()
    if failed:
        raise PartialSource(
            f"{failed} {'file' if failed == 1 else 'files'} would fail", hint="see the lines that begin so"
        )


def _line(step: Step) -> str:
    from cli.units import show_size
    from transfer.paths import printable

    size = show_size(step.facts.size) if step.facts is not None else ""
    reason = f" ({printable(step.reason)})" if step.reason else ""
    return f"{step.what.value:9}  {size:>8}  {printable(step.name)}{reason}"


def _json(step: Step) -> str:
    import msgspec

    from transfer.batch.plan import planned

    return msgspec.json.encode(planned(step)).decode()
