"""The tools that are compared: how each moves a file or a folder to the store and back, with its own defaults."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .servers import REGION, XFER, Servers, clean_environment

ENVIRONMENT = Path("bench-results/.peers-s3")
"""Made by scripts/bench from s3.peers.txt."""
CRT = Path(__file__).with_name("crt.py")
OURS = "xfer"


class Command(NamedTuple):
    argv: list[str]
    env: Mapping[str, str]


@dataclass
class Tool:
    """A tool. name: in tables. folder: for what it keeps.

    ticket: what ours said on the way up. turn: counts the ways up; what is stored has a new name each time, or a
    tool that compares before it copies would find its work done.
    """

    name: str
    servers: Servers
    folder: Path
    ticket: str = field(default="", init=False)
    turn: int = field(default=0, init=False)

    def up(self, source: Path) -> Command:
        """Brings a file or a folder to the store."""
        self.turn += 1
        return self._up(source)

    def down(self, source: Path, target: Path) -> Command:
        """Brings what the last `up` stored to the empty folder `target`, under its own name."""
        raise NotImplementedError

    def _up(self, source: Path) -> Command:
        raise NotImplementedError

    @property
    def version(self) -> str:
        """As it says, in a line, and what is set besides its command line."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Where it stores: bucket and prefix."""
        return f"{self.servers.bucket}/{self.name}-{self.turn}"


class Xfer(Tool):
    """Ours. Sender and receiver have a state of their own, as on two machines."""

    @property
    def version(self) -> str:
        return _said(XFER, "--version")

    def _up(self, source: Path) -> Command:
        argv = [XFER, "send", "--via", "s3", "--wait", "0", "--json", str(source)]
        return Command(argv, self.servers.client_environment(self.folder / "home-up"))

    def down(self, source: Path, target: Path) -> Command:
        env = self.servers.client_environment(self.folder / "home-down")
        return Command(
            [XFER, "fetch", "--json", "-o", f"{target}{os.sep}"], env | {"XFER_TICKET": self.ticket}
        )


class S5cmd(Tool):
    @property
    def version(self) -> str:
        return f"s5cmd {_said(program('s5cmd'), 'version')}"

    def _up(self, source: Path) -> Command:
        return self._copy(
            f"{source}/" if source.is_dir() else str(source), f"s3://{self.place}/{source.name}"
        )

    def down(self, source: Path, target: Path) -> Command:
        kept = f"s3://{self.place}/{source.name}"
        return (
            self._copy(f"{kept}/*", f"{target}/{source.name}/")
            if source.is_dir()
            else self._copy(kept, f"{target}/")
        )

    def _copy(self, source: str, target: str) -> Command:
        if source.endswith("/"):
            target += "/"
        argv = [
            str(program("s5cmd")),
            "--log",
            "error",
            "--endpoint-url",
            self.servers.endpoint,
            "cp",
            source,
            target,
        ]
        return Command(argv, _keys(self.servers))


class Rclone(Tool):
    @property
    def version(self) -> str:
        return f"{_said(program('rclone'), 'version')}, provider SeaweedFS"

    def _up(self, source: Path) -> Command:
        return self._copy(str(source), f"store:{self.place}/{source.name}", source.is_dir())

    def down(self, source: Path, target: Path) -> Command:
        kept = f"store:{self.place}/{source.name}"
        return self._copy(kept, str(target / source.name), source.is_dir())

    def _copy(self, source: str, target: str, folder: bool) -> Command:
        access, secret = self.servers.keys
        remote = {
            "TYPE": "s3",
            "PROVIDER": "SeaweedFS",
            "ACCESS_KEY_ID": access,
            "SECRET_ACCESS_KEY": secret,
            "ENDPOINT": self.servers.endpoint,
            "REGION": REGION,
        }
        env = clean_environment() | {f"RCLONE_CONFIG_STORE_{name}": value for name, value in remote.items()}
        argv = [
            str(program("rclone")),
            "copy" if folder else "copyto",
            "--s3-no-check-bucket",
            source,
            target,
        ]
        return Command(argv, env | {"RCLONE_CONFIG": os.devnull})


class AwsClassic(Tool):
    """AWS CLI 1: the classic client is the only one that it has."""

    @property
    def version(self) -> str:
        return _said(program("aws"), "--version").split()[0]

    def _up(self, source: Path) -> Command:
        return self._copy(str(source), f"s3://{self.place}/{source.name}", source.is_dir())

    def down(self, source: Path, target: Path) -> Command:
        return self._copy(f"s3://{self.place}/{source.name}", str(target / source.name), source.is_dir())

    def _copy(self, source: str, target: str, folder: bool) -> Command:
        argv = [
            str(program("aws")),
            "--endpoint-url",
            self.servers.endpoint,
            "s3",
            "cp",
            "--only-show-errors",
        ]
        return Command([*argv, *(["--recursive"] if folder else []), source, target], _keys(self.servers))


class AwsCrt(Tool):
    """AWS's transfer library over its C runtime, as AWS CLI 2 has it: see crt.py."""

    @property
    def version(self) -> str:
        told = "import awscrt, s3transfer; print('s3transfer', s3transfer.__version__, 'awscrt', awscrt.__version__)"
        return _said(program("python"), "-c", told)

    def _up(self, source: Path) -> Command:
        return self._copy(str(source), f"s3://{self.place}/{source.name}")

    def down(self, source: Path, target: Path) -> Command:
        return self._copy(f"s3://{self.place}/{source.name}", str(target / source.name))

    def _copy(self, source: str, target: str) -> Command:
        argv = [str(program("python")), str(CRT), self.servers.endpoint, REGION, source, target]
        return Command(argv, _keys(self.servers))


def tools(servers: Servers, folder: Path, only: Sequence[str] = ()) -> list[Tool]:
    """Those that are installed, ours first. folder: for what they keep. only: names; empty: all."""
    made: list[Tool] = []
    for name in only or NAMES:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if name == OURS:
            made.append(Xfer(name, servers, place))
        elif program(_PROGRAMS[name]).exists():
            made.append(_KINDS[name](name, servers, place))
    return made


def program(name: str) -> Path:
    """Absolute, whether it is there or not. s5cmd's package has a script of Python before the program: go past it."""
    inner = sorted(ENVIRONMENT.absolute().glob(f"lib/*/site-packages/{name}/bin/{name}"))
    return inner[0] if inner else ENVIRONMENT.absolute() / "bin" / name


def _said(*command: str | Path) -> str:
    """The first line of what it says."""
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    return said.stdout.splitlines()[0].strip()


def _keys(servers: Servers) -> dict[str, str]:
    access, secret = servers.keys
    keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": REGION}
    return clean_environment() | keys | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}


_KINDS: dict[str, type[Tool]] = {
    "s5cmd": S5cmd,
    "rclone": Rclone,
    "aws-classic": AwsClassic,
    "aws-crt": AwsCrt,
}
_PROGRAMS = {"s5cmd": "s5cmd", "rclone": "rclone", "aws-classic": "aws", "aws-crt": "python"}
NAMES = (OURS, *_KINDS)
