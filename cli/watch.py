"""`xfer watch`: a transfer that runs elsewhere, as if it ran here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from cli import options
from cli.options import ContextName, Job, Quiet

if TYPE_CHECKING:
    from transfer.announce import Announcement
    from transfer.events import Event, Listener, Summary
    from transfer.watch import Heard

EXAMPLES = ("xfer watch qw3e", "xfer watch qw3e --json --from 18200")
GAP = "some of what was announced before this is not kept any more"


def watch(
    job: Job,
    start: Annotated[
        int,
        Option("--from", metavar="SEQ", min=0, envvar="XFER_FROM", help="Replay from this sequence on"),
    ] = 0,
    json: Annotated[bool, options.json("What is announced as NDJSON, with its sequence")] = False,
    quiet: Quiet = False,
    context: ContextName = None,
) -> None:
    """Show a transfer that runs elsewhere, from its start to its end."""
    from functools import partial

    from cli.run import run
    from cli.show import show
    from transfer import config
    from transfer.watch import watch as transfer_watch

    call = partial(transfer_watch, job, context=config.load(context), start=start)
    again = f"watch on with `xfer watch {job}`; the transfer goes on"
    if json:
        run(lambda: call(on_heard=_write), resume=again)
        return

    async def shown(*, on_event: Listener) -> Summary:
        teller = _Teller(on_event)
        last = await call(on_heard=teller)
        summary = summary_of(last, since=teller.since)
        on_event(summary)
        return summary

    show(shown, json=False, quiet=quiet, resume=again, terse=False)


def _write(heard: Heard) -> None:
    import msgspec

    from cli.ask import print_json
    from transfer.events import Notice

    if heard.gap:
        print_json(Notice(text=GAP))
    print_json({**msgspec.to_builtins(heard.said), "sequence": heard.sequence})


class _Teller:
    """Announcements as the events that they were made of, as far as they tell."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._before: Announcement | None = None
        self._unseen: int | None = None  # raw bytes that moved before what is seen as it happens
        self.since: float | None = None

    def __call__(self, heard: Heard) -> None:
        from transfer.events import Notice

        said, before = heard.said, self._before
        self.since = said.time if self.since is None else self.since
        if heard.gap:
            self._listener(Notice(text=GAP))
        if before is not None and before.run != said.run:
            self._listener(Notice(text="another run goes on with it"))
            before = self._unseen = None
        far = said.done + said.under_way
        unseen = far if self._unseen is None else min(self._unseen, far)
        for event in events_of(said, before, unseen):
            self._listener(event)
        if heard.sequence is None:
            self._unseen = unseen
        self._before = said


def events_of(said: Announcement, before: Announcement | None, unseen: int) -> list[Event]:
    """before: of the same run. unseen: raw bytes that count for no speed."""
    from transfer.events import Progress, RouteChosen, Stored, Waiting

    told: list[Event] = []
    if said.route is not None and (before is None or before.route != said.route):
        told.append(RouteChosen(route=said.route, reason="as its sender says"))
    moved = (said.done, said.under_way, said.wire)
    if before is None or moved != (before.done, before.under_way, before.wire):
        told.append(
            Progress(
                done=said.done,
                total=said.total,
                wire=said.wire,
                files=said.files,
                files_done=said.files_done,
                route=said.route,
                under_way=said.under_way,
                kept=unseen,
            )
        )
    if said.segments is not None and said.expires is not None and (before is None or before.segments is None):
        told.append(Stored(job=said.job, segments=said.segments, expires=said.expires))
    if said.event == "end" and said.state in ("failed", "interrupted"):
        why = "was interrupted" if said.state == "interrupted" else f"ended with exit code {said.code}"
        told.append(Waiting(what=f"its sender {why}; waiting for it to go on", on="sender"))
    elif said.state in ("waiting", "paused") or (said.state == "stored" and said.waiting is not None):
        told.append(Waiting(what=_waiting(said), left=said.left, on=said.waiting))
    return told


def _waiting(said: Announcement) -> str:
    if said.waiting == "owner":
        return f"paused by its owner; `xfer resume {said.job}` goes on"
    what = {"receiver": "a receiver", "receipt": "the receipt"}.get(said.waiting or "", said.waiting)
    return f"its sender waits for {what or 'something'}" if what else "its sender waits"


def summary_of(last: Announcement | None, since: float | None) -> Summary:
    """Of a job that ended well; what only its two sides know is left out. since: of the first that was heard."""
    from transfer.events import Summary

    receipt = last is not None and (last.state == "receipt" or last.receipts > 0)
    return Summary(
        job=last.job if last is not None else "",
        outcome="receipt" if receipt else "stored",
        bytes=last.done if last is not None else 0,
        wire=last.wire if last is not None else 0,
        seconds=last.time - since if last is not None and since is not None else 0.0,
        route=last.route if last is not None else None,
        files=last.files if last is not None else 0,
        chunks=0,
        resent=0,
        digest="",
    )
