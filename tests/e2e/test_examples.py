"""What stands in scripts/examples/ runs as it stands: its variables are set from outside, its lines are not touched."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from helpers import MIB, SOON, XFER, write
from stand import PG_DUMP, README, ROOT, Stand
from workflow import Run

from transfer.errors import EXIT_CODES

EXAMPLES = ROOT / "scripts" / "examples"
AWAY = {"NATS_URL": "nats://127.0.0.1:9", "XFER_PATIENCE": "0"}
"""The bus cannot be reached, and is not waited for."""


def test_the_readme_links_every_example() -> None:
    linked = set(re.findall(r"\]\(scripts/examples/([^)]+)\)", README))
    assert linked == {path.name for path in EXAMPLES.iterdir()}


# --- crontab


@dataclass
class Crontab:
    """env: what it sets. commands: what the shell gets, by the first words that tell them apart."""

    env: dict[str, str]
    commands: list[str]

    @classmethod
    def read(cls, path: Path) -> Crontab:
        """As cron does: no comments behind anything, nothing expanded in what is set, a bare % ends a command."""
        env, commands = {}, []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            if found := re.fullmatch(r"([A-Z_]+)=([^\s$#]*)", line):
                env[found[1]] = found[2]
                continue
            *fields, command = line.split(maxsplit=5)
            assert len(fields) == 5
            assert all(re.fullmatch(r"(\*|\d+)(/\d+)?", field) for field in fields), line
            assert not re.search(r"(?<!\\)%", command), "cron makes a new line of it"
            commands.append(command.replace("\\%", "%"))
        return cls(env, commands)


def test_the_crontab_hands_over_by_night_and_mails_only_troubles(stand: Stand) -> None:
    cron = Crontab.read(EXAMPLES / "crontab")
    dump, batch, fetch = cron.commands
    spool, inbox = stand.tmp / "spool", stand.tmp / "inbox"
    paths = {"TICKET": stand.ticket, "SPOOL": spool, "SENT": stand.tmp / "sent", "INBOX": inbox}
    paths["REPORT"] = stand.tmp / "report.json"
    assert {*paths, "PATH", "XFER_HOME", "SHELL", "MAILTO", "XFER_QUIET", "XFER_MIN_AGE"} == set(cron.env)
    young = {**cron.env, **stand.env("sender", **paths)}
    sender = {**young, "XFER_MIN_AGE": "0"}
    receiver = {**cron.env, **stand.env("receiver", **paths)}
    stand.program("pg_dump", PG_DUMP)
    stand.file(spool / "a" / "monday.csv", "1")
    stand.file(spool / "tuesday.csv", "2")

    assert stand.well(batch, young) == ""
    assert stand.shown()["items"] == [], "nothing is old enough"
    begun = date.today()
    for command, env in ((dump, sender), (batch, sender), (fetch, receiver), (fetch, receiver)):
        assert stand.well(command, env) == "", "cron would mail it"
    assert (inbox / "a" / "monday.csv").read_text() == "1"
    assert (inbox / "tuesday.csv").read_text() == "2"
    [dumped] = inbox.glob("shop-*.sql")
    assert dumped.read_text() == "dump of shop\n"
    assert dumped.name in {f"shop-{day}.sql" for day in (begun, date.today())}
    for written, done in ((None, {"moved": 2}), ("3", {"sent": 1})):
        if written:
            stand.file(spool / "tuesday.csv", written)
        assert stand.well(batch, sender) == ""
        assert json.loads((stand.tmp / "report.json").read_text())["counts"] == done
    assert sorted(path.name for path in (stand.tmp / "sent").rglob("*.csv")) == ["monday.csv", "tuesday.csv"]

    stand.program("pg_dump", "#!/bin/sh\necho half\nexit 1\n")
    assert stand.run(dump, sender).stderr, "cron mails it"
    for command, env in ((batch, sender), (fetch, receiver)):
        said = stand.run(command, {**env, **AWAY})
        assert "xfer: " in said.stdout, "cron mails it"
        said = stand.run(command, {**env, "TICKET": str(stand.tmp / "gone")})
        assert "No such file" in said.stdout + said.stderr
    assert stand.well(fetch, receiver) == ""
    assert sorted(path.read_text() for path in inbox.glob("tuesday*")) == ["2", "3"]
    assert not [path for path in inbox.rglob("*") if path.is_file() and "half" in path.read_text()]


@pytest.mark.parametrize("name", ["batch", "fetch"])
def test_a_run_of_the_crontab_beside_another_one_says_nothing(stand: Stand, name: str) -> None:
    [command] = [each for each in Crontab.read(EXAMPLES / "crontab").commands if f"xfer {name}" in each]
    spool = stand.tmp / "spool"
    spool.mkdir()
    write(spool / "large", 8 * MIB)
    paths = {"TICKET": stand.ticket, "SPOOL": spool, "SENT": stand.tmp / "sent", "INBOX": stand.tmp / "inbox"}
    env = stand.env("host", **paths, REPORT=stand.tmp / "report.json")
    code = stand.tmp / "code"
    slowly = {"fetch": ["fetch", "--follow"], "batch": ["batch", str(spool), "--bwlimit", "64K"]}
    room = stand.ticket.read_text().strip()
    running = subprocess.Popen(
        [*XFER, *slowly[name], "--json"],
        env={**env, "XFER_ROOM": room, "PYTHONPATH": str(ROOT)},
        cwd=stand.tmp,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        locks = stand.tmp / "host" / "state" / "locks"
        deadline = time.monotonic() + SOON
        while not (locks.is_dir() and any(locks.iterdir())):
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.02)
        (stand.bin / "xfer").rename(stand.bin / "real")
        stand.program("xfer", f'#!/bin/sh\nreal "$@"\necho $? >{code}\nexit $(cat {code})\n')
        assert stand.well(command, env) == ""
        assert code.read_text() == "11\n"
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()


# --- systemd


def unit(name: str, specifiers: Mapping[str, object]) -> dict[str, list[str]]:
    """Its settings, each with all its values, with the specifiers that it uses resolved."""
    settings: dict[str, list[str]] = {}
    known = {"%": "%", **specifiers}
    for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#;[":
            key, _, value = line.partition("=")
            resolved = re.sub("%(.)", lambda found: str(known[found[1]]), value)
            settings.setdefault(key, []).append(resolved)
    return settings


def started(settings: Mapping[str, list[str]], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The arguments and environment of ExecStart. What env says goes over what the unit sets."""
    sets = dict(pair.split("=", 1) for line in settings["Environment"] for pair in shlex.split(line))
    [line] = settings["ExecStart"]
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", line), "systemd would put a variable in there"
    return [word.replace("$$", "$") for word in shlex.split(line)], {**sets, **env}


def is_success(settings: Mapping[str, list[str]], code: int) -> bool:
    return code == 0 or str(code) in settings["SuccessExitStatus"][0].split()


def is_restarted(settings: Mapping[str, list[str]], code: int) -> bool:
    """Source: systemd.service(5), Restart=on-failure."""
    assert settings["Restart"] == ["on-failure"]
    return not is_success(settings, code) and str(code) not in settings["RestartPreventExitStatus"][0].split()


def test_the_unit_runs_a_batch_and_is_run_again_while_servers_are_away(stand: Stand) -> None:
    credentials = stand.tmp / "credentials"
    credentials.mkdir()
    settings = unit("xfer-batch.service", {"d": credentials, "S": stand.tmp, "n": "xfer-batch.service"})
    [given] = settings["LoadCredential"]
    shutil.copy(stand.ticket, credentials / given.partition(":")[0])
    spool = stand.tmp / "spool"
    stand.file(spool / "monday.csv", "1")
    machine = stand.env("host", SPOOL=spool, SENT=stand.tmp / "sent", REPORT=stand.tmp / "report.json")
    machine["XFER_MIN_AGE"] = "0"
    argv, env = started(settings, machine)
    assert set(env) == set(machine)

    def start(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env={**env, **more}, cwd=stand.tmp, capture_output=True, text=True, timeout=3 * SOON
        )

    away = start(**AWAY)
    assert is_restarted(settings, away.returncode), away.stderr
    went = start()
    assert (went.returncode, went.stdout, went.stderr) == (0, "", "")
    assert len(stand.shown()["items"]) == 1
    (credentials / given.partition(":")[0]).unlink()
    lost = start()
    assert not is_success(settings, lost.returncode)
    assert not is_restarted(settings, lost.returncode)


def test_of_all_exit_codes_the_unit_is_restarted_for_the_temporary_one_alone() -> None:
    settings = unit("xfer-batch.service", {"d": "", "S": "", "n": ""})
    codes = [int(code) for code in EXIT_CODES if code.isdigit()]
    assert [code for code in codes if is_restarted(settings, code)] == [5]
    assert [code for code in codes if is_success(settings, code)] == [0, 10, 11]
    assert settings["OnFailure"] == ["xfer-failed@.service"]


def test_the_unit_for_failures_mails_what_was_said(stand: Stand) -> None:
    settings = unit("xfer-failed@.service", {"i": "xfer-batch.service", "H": "host"})
    stand.program("systemctl", '#!/bin/sh\necho "status: $*"\nexit 3\n')
    stand.program("mail", f'#!/bin/sh\nprintf "%s\\n" "$@" >{stand.tmp}/mailed\ncat >>{stand.tmp}/mailed\n')
    argv, env = started(settings, {"PATH": f"{stand.bin}:/usr/bin:/bin"})
    subprocess.run(argv, env=env, check=True, timeout=SOON)
    subject, to, said = (stand.tmp / "mailed").read_text().splitlines()[1:]
    assert (subject, to) == ("xfer-batch.service failed on host", env["MAILTO"])
    assert said.startswith("status: status ")
    assert said.endswith(" xfer-batch.service")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_units() -> None:
    names = ("xfer-batch.service", "xfer-batch.timer", "xfer-failed@.service")
    env = {**os.environ, "SYSTEMD_LOG_TARGET": "console"}
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(EXAMPLES / name) for name in names)],
        capture_output=True, text=True, env=env, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, [line for line in ended.stderr.splitlines() if "xfer-" in line]) == (0, [])


# --- make


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_publishes_once_and_pulls_whole_files_or_none(stand: Stand) -> None:
    shutil.copy(EXAMPLES / "Makefile", stand.tmp / "Makefile")
    room = stand.ticket.read_text().strip()
    sender, receiver = (stand.env(host, XFER_ROOM=room) for host in ("sender", "receiver"))
    artifact = stand.tmp / "build" / "site.tar.gz"
    stamp, latest = artifact.with_name("site.tar.gz.published"), stand.tmp / "in" / ".latest"

    def names(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    assert stand.run("make publish", sender).returncode == 2, "there is nothing to publish"
    stand.file(artifact, "one")
    failed = stand.run("make publish", {**sender, **AWAY})
    assert (failed.returncode, names(artifact.parent)) == (2, [artifact.name])
    assert "Error 5" in failed.stderr
    assert stand.run("make pull-latest", {**receiver, **AWAY}).returncode == 2
    assert not latest.exists()

    assert room not in stand.well("make publish", sender)
    assert "Nothing to be done" in stand.well("make publish", sender)
    assert names(artifact.parent) == [artifact.name, stamp.name]
    assert "xfer" in stand.well("make pull-latest", receiver)
    assert (stand.tmp / "in" / artifact.name).read_text() == "one"
    os.utime(latest, (1, 1))
    assert stand.run("make pull-latest", receiver).returncode == 0
    assert latest.stat().st_mtime == 1, "nothing came"

    artifact.write_text("two")
    stand.well("make publish", sender)
    stand.file(stand.tmp / "build" / "other", "other")
    stand.well("make publish ARTIFACT=build/other", sender)
    assert len(stand.shown()["items"]) == 3
    stand.well("make pull-latest", receiver)
    assert latest.stat().st_mtime > 1
    assert names(stand.tmp / "in") == [".latest", artifact.name]
    stand.well("make pull IN=all", receiver)
    assert {path.name: path.read_text() for path in (stand.tmp / "all").iterdir()} == {
        artifact.name: "two",
        "other": "other",
    }


# --- GitHub Actions


@pytest.fixture
def secrets(stand: Stand) -> Iterator[dict[str, str]]:
    """Of a repository: the invite of its own user, and the room's ticket."""
    env = dict(stand.servers.env)
    where = ("--dir", str(stand.servers.dir))
    subprocess.run([*XFER, "user", "add", "ci", *where], env=env, check=True, timeout=60, capture_output=True)
    invited = subprocess.run(
        [*XFER, "invite", "ci", *where], env=env, capture_output=True, text=True, timeout=60
    )
    assert invited.returncode == 0, invited.stderr
    yield {"XFER_INVITE": invited.stdout.strip(), "XFER_ROOM": stand.ticket.read_text().strip()}
    subprocess.run([*XFER, "user", "rm", "ci", *where], env=env, check=True, timeout=60, capture_output=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_workflow_hands_this_runs_artifact_on_and_the_log_of_what_failed(
    stand: Stand, secrets: dict[str, str]
) -> None:
    checkout = stand.tmp / "checkout"
    page = checkout / "site" / "index.html"
    page.parent.mkdir(parents=True)
    (checkout / "check").write_text('cat "$1/index.html"; grep -q title "$1/index.html"\n')
    env = {"PATH": f"{stand.bin}:/usr/bin:/bin", "LANG": "C.UTF-8"}

    def run(number: int, text: str) -> Run:
        page.write_text(text)
        jobs = Run(
            EXAMPLES / "github-actions.yml",
            stand.tmp,
            number,
            env=env,
            checkout=checkout,
            secrets=secrets,
            variables={"XFER_PACKAGE": "xfer"},
        )
        assert jobs.job("build").result == "success", jobs.ended["build"].said
        return jobs

    one = run(1001, "title one")
    two = run(1002, "page two, with nothing above it")
    lost = one.job("test", lost_after="check")
    assert "title one" in lost.said, "and not the newest that lies there"
    one.attempt = 2
    assert one.job("test").result == "success", one.ended["test"].said
    assert "title one" in one.ended["test"].said, "what the first attempt has built"
    assert one.job("report").result == "skipped"

    assert [job.result for job in (two.job("test"), two.job("report"))] == ["failure", "success"]
    assert "    page two" in two.ended["report"].summary
    assert "page two" not in two.ended["report"].said

    other = stand.file(stand.tmp / one.ended["build"].outputs["artifact"], "of somebody else in the room")
    stand.well(f"xfer send --quiet {other.name}", stand.env("other", XFER_ROOM=secrets["XFER_ROOM"]))
    one.attempt = 3
    assert one.job("test").result == "failure"
    assert "checksum did NOT match" in one.ended["test"].said
    assert one.job("report").result == "skipped"

    left = [consumer["name"] for consumer in stand.shown()["consumers"]]
    assert left == ["test-1001-1"], "all others could leave"
    for job in (*one.ended.values(), *two.ended.values()):
        assert not one.leaks(job.said + job.summary)
