"""Contexts: which one is in force, and that the file neither leaks nor loses anything."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from transfer import config
from transfer.config import Context, Turn
from transfer.errors import NotConfigured, UsageError, XferError

URL = "nats://bus.example:4222"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XFER_CONTEXT", "NATS_URL", "NATS_CREDS", "XFER_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XFER_HOME", str(tmp_path))
    return tmp_path


def a_context(name: str = "office", **fields: Any) -> Context:
    return Context(**{"name": name, "nats_url": URL, "user": "ann", **fields})


def creds_file(folder: Path, name: str) -> Path:
    claims = base64.urlsafe_b64encode(json.dumps({"name": name}).encode()).decode().rstrip("=")
    path = folder / "user.creds"
    path.write_text(f"-----BEGIN NATS USER JWT-----\neyJ0.{claims}.c2ln\n------END NATS USER JWT------\n")
    return path


def test_nothing_configured_is_said_in_one_sentence_that_names_xfer_up() -> None:
    with pytest.raises(NotConfigured) as caught:
        config.load()
    assert caught.value.exit_code == 2
    assert "xfer up" in caught.value.next_step


def test_what_was_saved_is_loaded_whole() -> None:
    saved = a_context(nats_creds=Path("/c"), stun=["stun:a:1"], turn=[Turn("turn:b:2", "u", "p")])
    config.add(saved)
    assert config.load() == saved
    assert config.contexts() == {"office": saved}


def test_the_first_context_becomes_current_and_later_ones_do_not() -> None:
    config.add(a_context("one"))
    config.add(a_context("two"))
    assert config.current() == "one"
    config.add(a_context("three"), make_current=True)
    assert config.current() == "three"
    config.use("two")
    assert config.load().name == "two"


def test_a_removed_current_context_leaves_none_current() -> None:
    config.add(a_context("one"))
    config.remove("one")
    assert config.current() is None
    config.add(a_context("two"))
    assert config.current() == "two"


def test_replacing_a_context_returns_the_old_one() -> None:
    old = a_context()
    assert config.add(old) is None
    assert config.add(a_context(user="bob")) == old


@pytest.mark.parametrize("call", [config.use, config.remove, config.load])
def test_an_unknown_name_is_misuse_that_says_where_to_look(call: object) -> None:
    assert callable(call)
    with pytest.raises(UsageError, match="no context 'nowhere'") as caught:
        call("nowhere")
    assert "xfer context ls" in caught.value.next_step


def test_an_explicit_name_wins_over_the_variable_and_that_over_the_current_one() -> None:
    for name in ("current", "variable", "explicit"):
        config.add(a_context(name))
    assert config.load(environ={}).name == "current"
    assert config.load(environ={"XFER_CONTEXT": "variable"}).name == "variable"
    assert config.load("explicit", environ={"XFER_CONTEXT": "variable"}).name == "explicit"


def test_nats_url_alone_is_a_context_without_the_current_ones_credentials(tmp_path: Path) -> None:
    config.add(a_context(nats_creds=tmp_path / "secret"))
    found = config.load(environ={"NATS_URL": "nats://other:1", "XFER_USER": "eve"})
    assert (found.nats_url, found.nats_creds, found.user) == ("nats://other:1", None, "eve")


def test_variables_override_the_fields_of_a_chosen_context(tmp_path: Path) -> None:
    config.add(a_context(nats_creds=tmp_path / "old", stun=["stun:a:1"]))
    creds = creds_file(tmp_path, "carol")
    found = config.load("office", environ={"NATS_URL": "tls://other:1", "NATS_CREDS": str(creds)})
    assert found == a_context(nats_url="tls://other:1", nats_creds=creds, user="carol", stun=["stun:a:1"])


def test_the_user_is_the_name_in_the_creds_file_made_fit_for_a_subject(tmp_path: Path) -> None:
    environ = {"NATS_URL": URL, "NATS_CREDS": str(creds_file(tmp_path, "Dr. Ann > *"))}
    assert config.load(environ=environ).user == "Dr__Ann____"


def test_a_bare_seed_does_not_say_who_we_are_and_an_address_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = tmp_path / "seed"
    seed.write_text("SUA")
    monkeypatch.setattr("getpass.getuser", lambda: "DOMAIN\\ann.b")
    with pytest.raises(UsageError, match="who you are") as told:
        config.load(environ={"NATS_URL": URL, "NATS_CREDS": str(seed)})
    assert "XFER_USER" in told.value.next_step
    told_by = {"NATS_URL": URL, "NATS_CREDS": str(seed), "XFER_USER": "ann"}
    assert config.load(environ=told_by).user == "ann"
    assert config.load(environ={"NATS_URL": "nats://eve:secret@bus:1"}).user == "eve"
    assert config.load(environ={"NATS_URL": URL}).user == "DOMAIN_ann_b"


def test_a_uid_without_an_account_still_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("no username set")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert config.load(environ={"NATS_URL": URL}).user == "user"


@pytest.mark.parametrize("damage", ["", "xx", base64.b64encode(b"[1]").decode()])
def test_a_damaged_creds_file_does_not_crash(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "creds"
    path.write_text(f"-----BEGIN NATS USER JWT-----\na.{damage}.b\n")
    with pytest.raises(UsageError, match="who you are"):
        config.user_of(path, URL)


def test_a_missing_creds_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone"):
        config.load(environ={"NATS_URL": URL, "NATS_CREDS": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a/b"},
        {"name": ""},
        {"nats_url": "bus.example"},
        {"nats_url": "http://bus.example"},
        {"nats_url": "nats://"},
        {"nats_url": "nats://bus:port"},
        {"nats_url": "nats://[::1"},
        {"user": "a.b"},
        {"user": "*"},
        {"user": ""},
        {"stun": ["bus.example:3478"]},
        {"stun": ["stuns:bus.example"]},
        {"turn": [Turn("stun:x:1")]},
        {"turn": [Turn("turn:x:99999")]},
    ],
)
def test_what_cannot_work_is_refused_before_it_is_saved(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        config.add(a_context(**wrong))
    assert config.contexts() == {}


def test_a_user_from_the_environment_is_checked_too() -> None:
    with pytest.raises(UsageError, match="user on the bus"):
        config.load(environ={"NATS_URL": URL, "XFER_USER": "a.>"})


def test_passwords_show_up_nowhere_but_in_the_file() -> None:
    context = a_context(nats_url="nats://ann:hunter2@bus:1", turn=[Turn("turn:b:2", "u", "hunter2")])
    assert "hunter2" not in repr(context.turn) + context.public_url
    with pytest.raises(UsageError) as caught:
        config.add(a_context(nats_url="nats://ann:hunter2@bus:port"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="modes are a POSIX thing")
def test_the_file_is_private_even_if_it_was_not(home: Path) -> None:
    os.umask(os.umask(0))
    config.add(a_context())
    path = home / "config" / "contexts.toml"
    path.chmod(0o644)
    config.add(a_context("two"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_half_written_stays_behind(home: Path) -> None:
    config.add(a_context())
    assert sorted(p.name for p in (home / "config").iterdir()) == ["contexts.lock", "contexts.toml"]


def test_writers_at_the_same_time_lose_nothing() -> None:
    names = [f"c{number}" for number in range(16)]
    start = threading.Barrier(len(names))

    def write(name: str) -> None:
        start.wait()
        config.add(a_context(name))

    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(config.contexts()) == sorted(names)


@pytest.mark.parametrize(
    "text", ["current = ", "contexts = 3", "[contexts.office]\nnats_url = 3\nuser = 'x'"]
)
def test_a_damaged_file_is_named_and_not_overwritten(home: Path, text: str) -> None:
    path = home / "config" / "contexts.toml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(XferError, match=r"contexts\.toml"):
        config.load("office")
    with pytest.raises(XferError, match=r"contexts\.toml"):
        config.add(a_context())
    assert path.read_text() == text


def test_without_xfer_home_the_platforms_folders_are_used(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    assert (config.config_dir(), config.state_dir()) == (home / "config", home / "state")
    monkeypatch.delenv("XFER_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "s"))
    assert "xfer" in config.config_dir().parts
    assert "xfer" in config.state_dir().parts


def test_several_servers_of_a_cluster_are_one_address() -> None:
    servers = "nats://ann:secret@a:1,nats://ann:secret@b:2,tls://c"
    found = config.load(environ={"NATS_URL": servers, "XFER_USER": "ann"})
    assert found.nats_url == servers
    assert found.public_url == "nats://a:1,nats://b:2,tls://c"


@pytest.mark.parametrize("servers", ["nats://a,", "nats://a,b", "nats://a,ws://b", "nats://a:1;nats://b:2"])
def test_servers_that_make_no_list_are_refused(servers: str) -> None:
    with pytest.raises(UsageError, match="is not the address"):
        config.load(environ={"NATS_URL": servers, "XFER_USER": "ann"})
