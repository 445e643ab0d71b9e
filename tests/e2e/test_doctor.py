"""`xfer doctor` against real servers: all well, and each of them away, silent, forbidden or with a wrong clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker_asked import SKEWED
from brokers import (
    HTTP,
    Job,
    Place,
    answers,
    ask,
    broker_process,
    code,
    connected,
    crc,
    free_port,
    got,
    nats_server,
    until_said,
)
from nats.aio.client import Client

from tests.proxies import HOST, Proxy, serving
from transfer import api
from transfer.api import ErrorCode
from transfer.broker.checkup import _key
from transfer.broker.store import Store
from transfer.local.credentials import make_nkey

if TYPE_CHECKING:
    from tests.conftest import Servers

Run = Callable[..., subprocess.CompletedProcess[str]]
ALL = [
    "NATS",
    "TLS",
    "rights",
    "broker",
    "JetStream",
    "S3",
    "clocks",
    "STUN/TURN",
    "disk",
    "versions",
    "libraries",
    "cipher",
]
BEHIND_NATS = ALL[1:7]


class Doctor:
    """Runs it as that user of those servers; the same in JSON and as lines."""

    def __init__(self, xfer: Run, env: dict[str, str]) -> None:
        self._xfer, self._env = xfer, env
        self.code, self.checks = -1, dict[str, dict[str, Any]]()
        self.took = 0.0

    def __call__(self, *args: str) -> Doctor:
        begun = time.monotonic()
        ended = self._xfer("doctor", "--json", *args, env=self._env)
        self.took = time.monotonic() - begun
        said = json.loads(ended.stdout)
        self.code, self.checks = ended.returncode, {row["check"]: row for row in said["checks"]}
        assert said["code"] == self.code, ended.stderr
        return self

    def states(self) -> dict[str, str]:
        return {name: row["state"] for name, row in self.checks.items()}


def doctor(xfer: Run, place: Place, tmp_path: Path, **more: str) -> Doctor:
    env = {**place.env, "XFER_HOME": str(tmp_path / "home"), "XFER_USER": "alice", "NO_COLOR": "1", **more}
    return Doctor(xfer, env)


@contextlib.contextmanager
def _alone(place: Place, tmp_path: Path) -> Iterator[Place]:
    """NATS of the test's own."""
    with nats_server(tmp_path, free_port()) as url:
        yield Place(url, place.s3_endpoint, {**place.env, "NATS_URL": url}, tmp_path)


async def _with_a_broker(place: Place) -> None:
    client = await connected(place)
    await answers(client, each=10)
    await client.close()


async def test_where_all_is_well_each_line_is_ok_and_nothing_is_left(
    xfer: Run, place: Place, client: Client, store: Store, tmp_path: Path
) -> None:
    await Job(client).create()  # so that there is something to be well
    found = await asyncio.to_thread(doctor(xfer, place, tmp_path))
    assert list(found.checks) == ALL
    assert found.states() == {**dict.fromkeys(ALL, "ok"), "STUN/TURN": "skip"}
    assert found.code == 0
    assert "put, read and deleted" in found.checks["S3"]["said"]
    assert not (
        await store.run(lambda s3: s3.list_objects_v2(Bucket=store.bucket, Prefix="xfer/probe/"))
    ).get("Contents")


async def test_the_proxy_on_the_way_to_the_store_is_named(
    xfer: Run, place: Place, client: Client, tmp_path: Path
) -> None:
    class Noting(Proxy):
        """With a list of its own."""

    Noting.seen = []
    with serving(Noting) as address:
        look = doctor(xfer, place, tmp_path, http_proxy=f"http://ann:secret@{address}", no_proxy="")
        found = await asyncio.to_thread(look)
        assert f" by way of the proxy http://{address}: " in found.checks["S3"]["said"]
        assert Noting.seen
        look = doctor(xfer, place, tmp_path, http_proxy=f"http://{address}", no_proxy=HOST)
        assert "proxy" not in (await asyncio.to_thread(look)).checks["S3"]["said"]
    look = doctor(xfer, place, tmp_path, http_proxy="http://ann:secret@127.0.0.1:9", no_proxy="")
    found = await asyncio.to_thread(look)
    assert (found.code, "secret" in str(found.checks)) == (5, False)
    assert "by way of the proxy http://127.0.0.1:9" in found.checks["S3"]["said"]


def test_the_lines_fit_80_columns_and_begin_with_ok_or_say_what_to_do(
    xfer: Run, place: Place, client: Client, tmp_path: Path
) -> None:
    env = {**place.env, "XFER_HOME": str(tmp_path / "home"), "XFER_USER": "alice"}
    ended = xfer("doctor", env=env)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in lines if not line.startswith(" ")] == ALL
    away = xfer("doctor", env={**env, "NATS_URL": f"nats://127.0.0.1:{free_port()}"})
    assert away.returncode == 5
    assert "\x1b" not in away.stdout
    assert max(map(len, away.stdout.splitlines())) <= 80
    assert any(line.lstrip().startswith("→ ") for line in away.stdout.splitlines())


async def test_without_a_broker_it_says_so_and_exits_5(xfer: Run, place: Place, tmp_path: Path) -> None:
    with _alone(place, tmp_path) as alone:
        found = await asyncio.to_thread(doctor(xfer, alone, tmp_path))
    assert found.code == 5
    assert (
        found.states() | {"NATS": "ok", "TLS": "ok", "rights": "ok", "broker": "fail", "S3": "skip"}
        == found.states()
    )
    assert "no broker" in found.checks["broker"]["said"]
    assert "xfer broker" in found.checks["broker"]["next"]


def test_without_nats_it_says_so_and_exits_5(xfer: Run, place: Place, tmp_path: Path) -> None:
    found = doctor(xfer, place, tmp_path, NATS_URL=f"nats://127.0.0.1:{free_port()}")()
    assert found.code == 5
    assert list(found.checks) == ALL
    assert found.checks["NATS"]["state"] == "fail"
    assert {found.checks[name]["state"] for name in BEHIND_NATS} == {"skip"}
    assert found.checks["disk"]["state"] == "ok"


async def test_without_a_store_it_says_so_and_exits_5(xfer: Run, place: Place, tmp_path: Path) -> None:
    with _alone(place, tmp_path) as alone:
        nowhere = f"http://127.0.0.1:{free_port()}"
        with broker_process(alone, tmp_path / "log", XFER_S3_ENDPOINT=nowhere):
            await _with_a_broker(alone)
            found = await asyncio.to_thread(doctor(xfer, alone, tmp_path))
    assert found.code == 5
    assert found.states() | {"broker": "ok", "JetStream": "ok", "S3": "fail"} == found.states()
    assert "store" in found.checks["S3"]["said"]


async def test_of_two_brokers_the_one_with_other_keys_for_the_store_is_named(
    xfer: Run, place: Place, tmp_path: Path
) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong"}
    with (
        _alone(place, tmp_path) as alone,
        broker_process(alone, tmp_path / "good"),
        broker_process(alone, tmp_path / "bad", **wrong) as bad,
    ):
        await asyncio.to_thread(until_said, tmp_path / "good", "ready, bucket")
        await asyncio.to_thread(until_said, tmp_path / "bad", "waiting for the store")
        found = await asyncio.to_thread(doctor(xfer, alone, tmp_path))
    assert (found.code, found.checks["S3"]["state"]) == (5, "fail")
    assert found.checks["S3"]["said"].startswith("the store refuses the broker (")
    assert found.checks["S3"]["said"].endswith(f" (the broker on {socket.gethostname()}, process {bad.pid})")


async def test_a_broker_whose_clock_is_off_is_told_in_the_line_of_clocks(
    xfer: Run, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "skewed.py").write_text(SKEWED)
    with (
        _alone(place, tmp_path) as alone,
        broker_process(alone, tmp_path / "log", str(tmp_path / "skewed.py"), "1200"),
    ):
        await _with_a_broker(alone)
        found = await asyncio.to_thread(doctor(xfer, alone, tmp_path))
    assert found.code == 5
    assert found.checks["clocks"]["state"] == "fail"
    assert "ahead of the store" in found.checks["clocks"]["said"]
    assert "NTP" in found.checks["clocks"]["next"]


def test_wrong_credentials_exit_7(servers: Servers, xfer: Run, tmp_path: Path) -> None:
    (tmp_path / "eve.nk").write_text(make_nkey()[0])
    env = {
        **servers.env,
        "NATS_URL": servers.nats_url,
        "NATS_CREDS": str(tmp_path / "eve.nk"),
        "XFER_USER": "eve",
    }
    found = Doctor(xfer, env)()
    assert found.code == 7
    assert found.checks["NATS"]["state"] == "fail"
    assert found.checks["NATS"]["next"] == (
        "user eve was removed there, or has a new key: have whoever runs the servers look (`xfer user ls`)"
        " and give you a new invite (`xfer invite eve`), then `xfer join` it"
    )


@pytest.mark.parametrize(
    ("allowed", "exit_code", "check", "said", "advice"),
    [
        (0, 7, "broker", "this user may ask nothing of the broker", "have the operator allow this user more"),
        (1, 5, "S3", "that is more than 1 request a minute", "run the same command again in "),
    ],
)
async def test_who_may_not_ask_so_often_is_told_that_and_not_to_mend_what_is_well(
    xfer: Run, place: Place, tmp_path: Path, allowed: int, exit_code: int, check: str, said: str, advice: str
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(f"[quota.users.carol]\nrequests_per_minute = {allowed}\n")
    with (
        _alone(place, tmp_path) as alone,
        broker_process(alone, tmp_path / "log", XFER_RULES=str(rules)),
    ):
        await _with_a_broker(alone)
        found = await asyncio.to_thread(doctor(xfer, alone, tmp_path, XFER_USER="carol"))
    assert found.code == exit_code
    assert found.checks[check]["state"] == "fail"
    assert said in found.checks[check]["said"]
    assert found.checks[check]["next"].startswith(advice)
    assert "requests_per_minute in the broker's rules" in found.checks[check]["next"]


def test_a_user_that_the_server_does_not_let_ask_exits_7_and_says_whom_to_ask(
    servers: Servers, xfer: Run
) -> None:
    env = {
        **servers.env,
        "NATS_URL": servers.nats_url,
        "NATS_CREDS": str(servers.creds),
        "XFER_USER": "somebody",
    }
    found = Doctor(xfer, env)()
    assert found.code == 7
    assert found.checks["NATS"]["state"] == "ok"
    assert found.checks["broker"]["state"] == "fail"
    assert "operator" in found.checks["broker"]["next"]


def test_without_a_context_it_says_so_and_still_looks_at_this_machine(xfer: Run) -> None:
    ended = xfer("doctor", "--json")
    assert ended.returncode == 2
    checks = [row["check"] for row in json.loads(ended.stdout)["checks"]]
    assert checks == ["context", *ALL[-4:]]


def test_where_everything_is_silent_it_still_ends_soon_and_each_line_is_there(
    xfer: Run, place: Place, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as undo:
        silent = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
        mute = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        mute.bind(("127.0.0.1", 0))
        udp, tcp = mute.getsockname()[1], silent.getsockname()[1]
        made = ("--nats-url", f"nats://127.0.0.1:{tcp}", "--user", "alice", "--stun", f"stun:127.0.0.1:{udp}")
        home = {**place.env, "XFER_HOME": str(tmp_path / "home"), "NO_COLOR": "1"}
        home = {name: value for name, value in home.items() if name != "NATS_URL"}
        turn = ("--turn", f"turn:127.0.0.1:{udp}", "--turn-user", "ann")
        assert xfer("context", "add", "dead", *made, *turn, env=home).returncode == 0
        found = Doctor(xfer, home)()
    assert found.code == 5
    states = found.states()
    assert {name for name, state in states.items() if state == "fail"} == {"NATS", "STUN", "TURN"}
    assert found.took < 30, "10 s are meant, on a machine that does nothing else"


async def test_a_store_that_is_silent_holds_it_up_for_seconds_only(
    xfer: Run, place: Place, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as undo:
        silent = undo.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        alone = undo.enter_context(_alone(place, tmp_path))
        undo.enter_context(broker_process(alone, tmp_path / "log", XFER_S3_ENDPOINT=endpoint))
        await _with_a_broker(alone)
        found = await asyncio.to_thread(doctor(xfer, alone, tmp_path))
    assert found.code == 5
    assert found.states() | {"broker": "ok", "S3": "fail"} == found.states()
    assert found.took < 30


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a coturn on loopback, which is a STUN server as well."""
    if shutil.which("turnserver") is None:
        pytest.skip("there is no `turnserver` (coturn)")
    folder, port = tmp_path_factory.mktemp("coturn"), free_port()
    command = [
        "turnserver",
        "-n",
        "-L",
        "127.0.0.1",
        "-E",
        "127.0.0.1",
        "-p",
        str(port),
        "-a",
        "-u",
        "ann:hunter2",
    ]
    command += ["-r", "xfer.test", "--allow-loopback-peers", "--no-tls", "--no-dtls", "--no-cli"]
    command += ["--log-file", "stdout", "--pidfile", "pid", "--userdb", "db"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(("password", "exit_code"), [("hunter2", 0), ("wrong", 7)])
def test_stun_and_turn_servers_are_asked_for_real(
    xfer: Run, place: Place, client: Client, relay: int, tmp_path: Path, password: str, exit_code: int
) -> None:
    env = {**place.env, "XFER_HOME": str(tmp_path / "home")}
    (tmp_path / "password").write_text(password)
    made = ("--nats-url", place.nats_url, "--user", "alice", "--stun", f"stun:127.0.0.1:{relay}")
    turn = ("--turn", f"turn:127.0.0.1:{relay}", "--turn-user", "ann")
    assert (
        xfer(
            "context", "add", "met", *made, *turn, "--turn-password-file", tmp_path / "password", env=env
        ).returncode
        == 0
    )
    del env["NATS_URL"]
    found = Doctor(xfer, env)()
    assert found.code == exit_code
    assert found.checks["STUN"]["state"] == "ok"
    assert "127.0.0.1:" in found.checks["STUN"]["said"]
    assert found.checks["TURN"]["state"] == ("ok" if exit_code == 0 else "fail")
    assert "hunter2" not in json.dumps(found.checks)


# --- the verbs behind it

DATA = b"what a probe holds"


async def probe(client: Client, **changes: Any) -> api.ProbeUrls | api.ApiError:
    fields: dict[str, Any] = {"slot": 3, "length": len(DATA), "crc32c": crc(DATA), **changes}
    return await ask(client, "probe", api.Probe(**fields), api.ProbeUrls)


async def put(url: api.SignedUrl, body: bytes, **headers: str) -> int:
    answer = await asyncio.to_thread(
        HTTP.request, "PUT", url.url, body=body, headers={**url.headers, **headers}
    )
    return int(answer.status)


async def test_a_probe_is_put_read_and_gone_after_its_end(client: Client, store: Store) -> None:
    urls = await probe(client)
    assert isinstance(urls, api.ProbeUrls)
    assert await put(urls.put, DATA) == 200
    assert await got(urls.get.url) == (200, DATA)
    assert isinstance(await ask(client, "probe_end", api.ProbeEnd(slot=3), api.ProbeEnded), api.ProbeEnded)
    assert (await got(urls.get.url))[0] == 404
    assert isinstance(await ask(client, "probe_end", api.ProbeEnd(slot=3), api.ProbeEnded), api.ProbeEnded)


async def test_the_url_of_a_probe_takes_exactly_its_bytes(client: Client) -> None:
    urls = await probe(client)
    assert isinstance(urls, api.ProbeUrls)
    assert await put(urls.put, b"x" * len(DATA)) >= 400
    assert await put(urls.put, DATA + b"more", **{"Content-Length": str(len(DATA) + 4)}) == 403
    assert (await got(urls.put.url))[0] == 403
    await ask(client, "probe_end", api.ProbeEnd(slot=3), api.ProbeEnded)


@pytest.mark.parametrize(
    "changes", [{"slot": -1}, {"slot": 16}, {"length": 0}, {"length": 1025}, {"crc32c": "none"}]
)
async def test_a_probe_has_bounds(client: Client, changes: dict[str, object]) -> None:
    assert code(await probe(client, **changes)) is ErrorCode.BAD_REQUEST


def test_probes_of_two_users_never_meet_and_lie_outside_of_all_jobs() -> None:
    from transfer.broker.keys import place_of

    keys = {_key(user, slot) for user in ("alice", "bob", "../30d/realm/job") for slot in range(16)}
    assert len(keys) == 48
    assert all(place_of(key) is None and ".." not in key for key in keys)
