"""The command line as a process: what bad input gets, where it is said, the exit code. No servers."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cli.tickets import check_target, read_ticket, write_ticket
from tests.screen import Screen
from transfer.errors import MistypedTicket, UsageError
from transfer.ticket import RoomTicket, Ticket

TICKET = str(Ticket("q" * 16, bytes(range(16))))
ROOM = str(RoomTicket("q" * 16, bytes(range(16))))
Xfer = Callable[..., subprocess.CompletedProcess[str]]
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, pipes or terminals")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def env(home: Path) -> Mapping[str, str]:
    """Nothing is configured."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("XFER_", "NATS_", "AWS_"))
    }
    return {**kept, "XFER_HOME": str(home)}


@pytest.fixture
def configured(env: Mapping[str, str]) -> Mapping[str, str]:
    """A context whose NATS nobody runs."""
    return {**env, "NATS_URL": "nats://127.0.0.1:9"}


def test_version_is_one_line(xfer: Xfer) -> None:
    run = xfer("--version")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("xfer ")
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize("args", [(), ("context",)], ids=["xfer", "context"])
def test_nothing_asked_for_shows_help_on_stderr(xfer: Xfer, args: tuple[str, ...]) -> None:
    run = xfer(*args)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("Usage: xfer")
    assert "Examples:" in run.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["frobnicate"], "there is no command 'frobnicate'"),
        (["--frobnicate"], "no such option: --frobnicate"),
        (["send", "--frobnicate", "f"], "no such option: --frobnicate"),
        (["send", "--wait"], "--wait needs a value; see `xfer send --help`"),
        (["send", "--quiet=3"], "--quiet takes no value; see `xfer send --help`"),
        (["send", "--wiat", "3"], "did you mean --wait? If not, see `xfer send --help`"),
        (["send", "--via", "ftp", "f"], "--via 'ftp' is not auto, webrtc or s3; see `xfer send --help`"),
        (
            ["send", "--fetches", "0", "f"],
            "--fetches '0' is not a whole number from 1 on; see `xfer send --help`",
        ),
        (
            ["send", "--fetches", "many", "f"],
            "--fetches 'many' is not a whole number from 1 on; see `xfer send",
        ),
        (["send", "--threshold", "lots", "f"], "--threshold 'lots' is not a size"),
        (["send", "--wait", "soon", "f"], "--wait 'soon' is not a duration"),
        (["send", "--wait", "soon", "f"], "see `xfer send --help`"),
        (["send", "--expire", "-1", "f"], "--expire '-1' is not a duration"),
        (["send", "--patience", "x", "f"], "--patience 'x' is not a duration"),
        (["send", "--deadline", "soon", "f"], "--deadline 'soon' is not a duration"),
        (["fetch", TICKET, "--deadline", "soon"], "see `xfer fetch --help`"),
        (["send", "--events-fd", "1", "f"], "--events-fd '1' is not a whole number from 3 on"),
        (["send", "f", "--idempotency-key", ""], "the idempotency key is empty"),
        (["send", "--compress", "20", "f"], "--compress '20'"),
        (["send"], "nothing to send"),
        (["send", "-"], "stdin has no name"),
        (["send", "-", "f", "--name", "n"], "cannot be sent together with paths"),
        (["send", "f", "--name", "n"], "--name goes with"),
        (["send", "f", "--from-command", "true"], "no paths besides"),
        (["send", "f", "--ticket", TICKET, "--ticket-from", "t"], "the ticket is given twice"),
        (["send", "f", "--ticket", TICKET, "--no-resume"], "--no-resume starts anew, and a ticket goes on"),
        (["send", "f", "--ticket-from", "absent"], "'absent' cannot be read"),
        (["resume", "--patience", "x"], "see `xfer resume --help`"),
        (["resume", "a", "b"], "unexpected"),
        (["send", "f", "--ticket-file", "nowhere/t"], "its folder is not there"),
        (["send", "f", "--ticket-file", "."], "is not a plain file"),
        (["fetch"], "no ticket"),
        (["fetch", TICKET, "-o", "-", "--json"], "both want stdout"),
        (["fetch", TICKET, "--overwrite", "--rename"], "contradict each other"),
        (["fetch", TICKET, "--ticket-file", "t"], "given twice"),
        (["fetch", "--ticket-file", "absent"], "'absent' cannot be read"),
        (["fetch", "a", "b"], "unexpected"),
        (["fetch", TICKET, "--patience", "x"], "see `xfer fetch --help`"),
        (["context", "add"], "NAME is missing; see `xfer context add --help`"),
        (["context", "frob"], "there is no command 'frob'; see `xfer context --help`"),
    ],
    ids=str,
)
def test_misuse_is_one_sentence_and_exit_2(
    xfer: Xfer, configured: Mapping[str, str], args: list[str], said: str
) -> None:
    run = xfer(*args, env=configured)
    assert run.returncode == 2, run.stderr
    assert said in run.stderr
    assert run.stderr.startswith("xfer: ")
    assert len(run.stderr.splitlines()) <= 2
    assert "; " in run.stderr or ";\n" in run.stderr
    if "--json" not in args:
        assert run.stdout == ""


def test_with_json_an_error_is_an_event_too(xfer: Xfer, env: Mapping[str, str]) -> None:
    for args, variables in ((("--json",), {}), ((), {"XFER_JSON": "1"})):
        run = xfer("send", "--wait", "soon", "f", *args, env={**env, **variables})
        event = json.loads(run.stdout)
        assert (event["event"], event["v"], event["code"], event["kind"]) == ("error", 1, 2, "UsageError")
        assert event["message"] in run.stderr
        assert event["next"] in run.stderr


def test_what_the_parser_refuses_is_an_event_too(xfer: Xfer) -> None:
    run = xfer("send", "--json", "--frobnicate")
    assert json.loads(run.stdout)["code"] == run.returncode == 2


def test_nothing_configured_names_xfer_up(xfer: Xfer, env: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "cwd" / "f").write_text("x")
    run = xfer("send", "f", env=env)
    assert run.returncode == 2
    assert "xfer up" in run.stderr
    assert len(run.stderr.splitlines()) <= 2


def test_a_mistyped_ticket_is_told_locally(xfer: Xfer, configured: Mapping[str, str]) -> None:
    wrong = TICKET[:-1] + ("q" if TICKET[-1] != "q" else "p")
    for args, more, given in (
        (["fetch", wrong], {}, None),
        (["fetch"], {"XFER_TICKET": wrong}, None),
        (["fetch", "--ticket-file", "-"], {}, wrong),
    ):
        run = xfer(*args, env={**configured, **more}, input=given)
        assert run.returncode == 12, run.stderr
        assert wrong not in run.stderr


def test_a_ticket_file_beats_the_variable(xfer: Xfer, configured: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "cwd" / "t").write_text("not a ticket\n")
    run = xfer("fetch", "--ticket-file", "t", env={**configured, "XFER_TICKET": TICKET})
    assert run.returncode == 12


def test_every_option_is_a_variable_too(xfer: Xfer, configured: Mapping[str, str]) -> None:
    for name, value, said in (
        ("XFER_WAIT", "abc", "XFER_WAIT 'abc' is not a duration"),
        ("XFER_VIA", "ftp", "XFER_VIA 'ftp' is not auto, webrtc or s3"),
        ("XFER_JSON", "maybe", "XFER_JSON 'maybe' is neither yes nor no"),
        ("XFER_COMPRESS", "99", "XFER_COMPRESS '99' is not a way to compress"),
    ):
        run = xfer("send", "f", env={**configured, name: value})
        assert run.returncode == 2
        assert run.stderr.startswith(f"xfer: {said};")
        assert run.stderr.endswith("see `xfer send --help`\n")


def test_an_option_beats_its_variable(xfer: Xfer, configured: Mapping[str, str]) -> None:
    run = xfer("send", "f", "--wait", "later", env={**configured, "XFER_WAIT": "soon"})
    assert "--wait 'later'" in run.stderr


def test_a_ticket_is_not_written_through_a_link(
    xfer: Xfer, configured: Mapping[str, str], tmp_path: Path
) -> None:
    target, link = tmp_path / "cwd" / "elsewhere", tmp_path / "cwd" / "link"
    target.write_text("precious")
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this user may not make links here")
    run = xfer("send", "f", "--ticket-file", "link", env=configured)
    assert run.returncode == 2
    assert "is not a plain file" in run.stderr
    assert target.read_text() == "precious"


@pytest.mark.parametrize("held", ["precious\n", f"{TICKET}x\n", TICKET[:-1]])
def test_a_file_that_holds_something_else_is_not_replaced_by_a_ticket(
    xfer: Xfer, configured: Mapping[str, str], tmp_path: Path, held: str
) -> None:
    target = tmp_path / "cwd" / "report"
    target.write_text(held)
    run = xfer("send", "f", "--ticket-file", "report", env=configured)
    assert run.returncode == 2
    assert "'report' is there and holds something else than a ticket" in run.stderr
    assert target.read_text() == held


@pytest.mark.parametrize("held", ["", TICKET, f"{TICKET}\n"])
def test_an_empty_file_or_an_older_ticket_may_be_replaced(tmp_path: Path, held: str) -> None:
    (tmp_path / "t").write_text(held)
    check_target(tmp_path / "t")


def test_a_ticket_file_is_private_whole_and_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("an older and longer ticket" * 9)
    path.chmod(0o644)
    write_ticket(path, TICKET)
    assert path.read_text() == TICKET + "\n"
    assert [found.name for found in tmp_path.iterdir()] == ["t"]
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    assert str(read_ticket(None, str(path))) == TICKET


def test_a_ticket_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(UsageError):
        write_ticket(tmp_path / "t", TICKET)
    assert [found.name for found in tmp_path.iterdir()] == ["t"]


@posix_only
def test_a_ticket_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(MistypedTicket):
        read_ticket(None, "/dev/zero")


@posix_only
def test_stdin_that_is_a_terminal_is_refused(configured: Mapping[str, str]) -> None:
    ours, theirs = os.openpty()
    try:
        run = subprocess.run(
            [sys.executable, "-m", "cli", "send", "-", "--name", "n"],
            env=configured,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert run.returncode == 2
    assert "stdin is a terminal" in run.stderr


@posix_only
@pytest.mark.parametrize(
    ("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_the_label_is_red_on_a_terminal_that_wants_it(
    env: Mapping[str, str], variables: Mapping[str, str], coloured: bool
) -> None:
    ours, theirs = os.openpty()
    kept = {name: value for name, value in env.items() if name != "NO_COLOR"}
    try:
        subprocess.run(
            [sys.executable, "-m", "cli", "frobnicate"],
            env={**kept, "TERM": "xterm", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            timeout=60,
        )
        said = os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"there is no command" in said
    assert (b"\x1b[" in said) is coloured


CHILD = """
import asyncio, os, sys
import cli.main, cli.run
from transfer import errors

{body}

class Context:
    def __enter__(self): return self
    def __exit__(self, *_): return None
    @property
    def command(self): return self
    def invoke(self, _): return work()
    def make_context(self, *_): return self

cli.main.root = Context
sys.argv = ["xfer", *{args!r}]
cli.main.main()
"""


@pytest.fixture
def child(env: Mapping[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The console script's own ending of things, around work() of the test's own."""
    started: list[subprocess.Popen[str]] = []

    def start(body: str, args: tuple[str, ...] = ("send", "f"), **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(body=textwrap.dedent(body), args=args)],
            env={**env, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


Child = Callable[..., subprocess.Popen[str]]


def test_a_bug_is_one_line_and_its_traceback_a_private_file(child: Child, home: Path) -> None:
    process = child("def work(): raise KeyError('xfer1' + 'q' * 49)")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("xfer: internal error: KeyError")
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2
    (log,) = home.rglob("errors/*.txt")
    assert str(log) in err
    text = log.read_text()
    assert "Traceback" in text
    assert "xfer1q" not in text + err
    if os.name == "posix":
        assert log.stat().st_mode & 0o777 == 0o600


def test_a_bug_without_a_state_folder_is_still_one_line(child: Child, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = child("def work(): raise KeyError('x')", XFER_HOME=str(tmp_path / "file"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "internal error" in err
    assert "Traceback" not in err


def test_a_group_exits_with_its_first_own_error(child: Child) -> None:
    process = child(
        "def work(): raise ExceptionGroup('g', [ValueError(), errors.JobGone('it is gone')])",
        ("fetch", "--json"),
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert err == "xfer: it is gone; ask the sender for a new ticket\n"
    assert json.loads(out)["kind"] == "JobGone"


WAITING = """
async def forever():
    print("ready", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("checkpoint", flush=True)
def work(): cli.run.run(forever, resume=cli.run.same_command())
"""


@posix_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_checkpoints_and_names_the_command_that_resumes(child: Child, name: str) -> None:
    signum = getattr(signal, name)
    process = child(WAITING, ("send", "a file"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert out == "checkpoint\n"
    assert err == "xfer: interrupted; carry on with `xfer send 'a file'`\n"


@posix_only
def test_the_command_that_resumes_does_not_start_anew(child: Child) -> None:
    process = child(WAITING, ("send", "--no-resume", "f", "--", "--no-resume"))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "carry on with `xfer send f -- --no-resume`" in process.communicate(timeout=60)[1]


@posix_only
def test_a_terminal_that_is_closed_costs_no_checkpoint(configured: Mapping[str, str], tmp_path: Path) -> None:
    body = f"""
        import fcntl, termios
        import cli.show
        from transfer.events import Notice, Waiting
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        async def call(*, on_event):
            on_event(Waiting(what="waiting"))
            try:
                await asyncio.sleep(60)
            finally:
                on_event(Notice(text="nobody reads this"))
                open({str(tmp_path / "checkpoint")!r}, "w").close()
        def work(): cli.show.show(call, json=False, quiet=False, resume="")
        """
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=textwrap.dedent(body), args=())],
        env={**configured, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        said = b""
        while b"waiting" not in said:
            said += os.read(ours, 10_000)
        os.close(ours)
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "checkpoint").exists()


@posix_only
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_narrow_terminal_shows_hostile_names_without_a_line_that_wraps(
    configured: Mapping[str, str], term: str
) -> None:
    """The window's width is asked of the terminal itself."""
    import fcntl
    import struct
    import termios

    body = """
        import cli.show
        from transfer.events import FileProgress, Notice, Progress
        async def call(*, on_event):
            names = ["a\\x1b[2J\\u202eb" + "c" * 60, "caf\\udce9", "日本語" * 20]
            for done in range(3):
                on_event(Progress(
                    done=done, total=9, wire=0, files=2000, files_done=7, route="s3",
                    moving=[FileProgress(name, 1, 3) for name in names],
                ))
                on_event(Notice(text=f"{done} of them are there, and more to say than 40 columns hold"))
                await asyncio.sleep(0.3)
            on_event(Notice(text="done"))
        def work(): cli.show.show(call, json=False, quiet=False, resume="")
        """
    env = {
        name: value for name, value in configured.items() if name not in ("COLUMNS", "LINES")
    }  # pytest-xdist's
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(body=textwrap.dedent(body), args=())],
        env={**env, "TERM": term}, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    screen, said = Screen(40), b""
    deadline = time.monotonic() + 60
    try:
        # Our end of its side stays open: what is written just before the last one closes may be lost with it.
        ended = False
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                said += os.read(ours, 10_000)
            elif ended:  # and nothing came since
                break
            else:
                ended = process.poll() is not None
        assert process.wait(timeout=60) == 0
    finally:
        os.close(theirs)
        os.close(ours)
        process.kill()
        process.wait()
    screen.write(said.decode())
    assert screen.shown[-1] == "done"
    if term == "dumb":
        assert b"\x1b" not in said
        return
    assert screen.shown[:2] == ["0 of them are there, and more to say", "  than 40 columns hold"]
    assert (len(screen.shown), screen.wrapped, screen.cursor) == (7, False, True)
    assert rb"\x1b[2J\u202e" not in said  # only its end is shown
    assert rb"caf\xe9" in said


@posix_only
@pytest.mark.parametrize(
    "given", [("fetch", TICKET), ("send", f"--ticket={TICKET.upper()}", "f"), ("room", "join", ROOM)]
)
def test_the_command_that_resumes_withholds_a_ticket_where_a_log_may_listen(
    child: Child, given: tuple[str, ...]
) -> None:
    process = child(WAITING, (*given, "-o", "d/"))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    shown = [
        word.replace(TICKET, "TICKET").replace(ROOM, "TICKET").replace(TICKET.upper(), "TICKET")
        for word in given
    ]
    assert f"carry on with `xfer {' '.join(shown)} -o d/`" in said


@posix_only
def test_a_second_signal_ends_it_at_once(child: Child) -> None:
    process = child("""
        async def stubborn():
            print("ready", flush=True)
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    print("not yet", flush=True)
        def work(): cli.run.run(stubborn)
        """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "not yet\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM


@posix_only
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_that_the_parent_ignores_stays_ignored(child: Child, name: str) -> None:
    process = child(f"""
        import signal
        signal.signal(signal.{name}, signal.SIG_IGN)
        async def short():
            os.kill(os.getpid(), signal.{name})
            await asyncio.sleep(0.01)
            print("whole", flush=True)
        def work(): cli.run.run(short)
        """)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "whole\n")


@posix_only
def test_what_ends_well_despite_a_signal_ended_well(child: Child) -> None:
    process = child("""
        import signal
        async def done():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return
        def work(): cli.run.run(done)
        """)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@posix_only
def test_a_reader_who_leaves_is_no_error(child: Child) -> None:
    process = child("""
        def work():
            while True:
                sys.stdout.buffer.write(bytes(65536))
        """)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


@posix_only
def test_a_reader_who_left_before_the_last_bytes_is_no_error(child: Child) -> None:
    process = child("""
        def work():
            sys.stdin.readline()
            print("small enough to stay in the buffer until the end")
        """)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["send", ""], "a path to send is empty"),
        (["send", "f", ""], "a path to send is empty"),
        (["fetch", TICKET, "-o", ""], "-o is empty"),
        (
            ["send", __file__, "--via", "webrtc", "--wait", "0"],
            "webrtc needs a receiver, and none is waited for",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_begun(
    xfer: Xfer, configured: Mapping[str, str], args: list[str], said: str
) -> None:
    """An unset variable must not send the current folder; and no server is asked, for none is there."""
    run = xfer(*args, env=configured)
    assert run.returncode == 2
    assert run.stderr.startswith(f"xfer: {said};")


@posix_only
@pytest.mark.parametrize("stderr", ["closed", "full", "unread"])
def test_a_stderr_that_takes_nothing_ends_nothing(env: Mapping[str, str], stderr: str) -> None:
    work = """
        def work():
            for line in range(3):
                print("a notice", file=sys.stderr, flush=True)
            print("the end")
        """
    words = [sys.executable, "-c", CHILD.format(body=textwrap.dedent(work), args=("send", "f"))]
    read, write = os.pipe()
    os.close(read)
    redirect = {"closed": "2>&-", "full": "2>/dev/full", "unread": ""}[stderr]
    with open(write, "wb") as unread:
        run = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirect}', "sh", *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=unread,
            text=True,
            timeout=60,
        )
    assert (run.returncode, run.stdout) == (0, "the end\n")


@posix_only
def test_a_ticket_that_could_not_be_told_is_not_made(env: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    words = [sys.executable, "-P", "-m", "cli", "send", "f"]
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words],
        env={**env, "NATS_URL": "nats://127.0.0.1:9"},
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("xfer: stdout is closed, and the ticket goes there;")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("args", [["--version"], ["send", "--help"], ["context", "ls", "--json"]])
def test_a_stdout_without_room_is_said(args: list[str], env: Mapping[str, str]) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-P", "-m", "cli", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
            timeout=60,
        )
    assert run.returncode == 5
    assert run.stderr.startswith("xfer: no room left to write to stdout;")
    assert "Traceback" not in run.stderr


@posix_only
def test_another_broken_pipe_is_not_taken_for_the_reader_s(child: Child) -> None:
    process = child("def work(): raise BrokenPipeError('a socket')")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "internal error: BrokenPipeError" in err


@posix_only
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("args", "code"), [("--version", 0), ("context ls", 0), ("send nothing-there", 2)])
def test_closed_streams_change_no_exit_code(
    closed: str, args: str, code: int, env: Mapping[str, str], tmp_path: Path
) -> None:
    ended = in_shell(f"{args} {closed}", env, tmp_path)
    assert "Traceback" not in ended.stderr
    assert ended.returncode == code


@posix_only
def test_a_fetch_to_a_closed_stdout_is_wrong_usage(env: Mapping[str, str], tmp_path: Path) -> None:
    ended = in_shell(f"fetch {TICKET} -o - >&-", env, tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("xfer: stdout is closed")


def in_shell(words: str, env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """`xfer` with redirections."""
    command = f"exec {sys.executable} -P -m cli {words}"
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
