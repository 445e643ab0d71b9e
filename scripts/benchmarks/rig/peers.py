"""The tools that are compared: how each moves a file or a folder to the store and back, with its own defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .servers import REGION, XFER, Servers, clean_environment

ENVIRONMENT = Path("bench-results/.peers")
"""Made by scripts/bench from s3.peers.txt."""
OURS = "xfer"


class Command(NamedTuple):
    argv: list[str]
    env: Mapping[str, str]


@dataclass
class Tool:
    """name: in tables. up: brings `source` to the store. down: brings what `up` stored to the empty folder `target`.

    Both are asked for anew each time; `ticket` is what ours had to say on the way up.
    """

    name: str
    servers: Servers
    folder: Path
    ticket: str = field(default="", init=False)

    def up(self, source: Path) -> Command:
        raise NotImplementedError

    def down(self, source: Path, target: Path) -> Command:
        raise NotImplementedError

    @property
    def bucket(self) -> str:
        return f"s3://{self.servers.bucket}/bench"


class Xfer(Tool):
    """Ours. Sender and receiver have a state of their own, as on two machines."""

    def up(self, source: Path) -> Command:
        argv = [XFER, "send", "--via", "s3", "--wait", "0", "--json", str(source)]
        return Command(argv, self.servers.client_environment(self.folder / "home-up"))

    def down(self, source: Path, target: Path) -> Command:
        env = self.servers.client_environment(self.folder / "home-down")
        return Command(
            [XFER, "fetch", "--json", "-o", f"{target}{os.sep}"], env | {"XFER_TICKET": self.ticket}
        )


class S5cmd(Tool):
    def up(self, source: Path) -> Command:
        return self._copy(f"{source}/" if source.is_dir() else str(source), f"{self.bucket}/{source.name}")

    def down(self, source: Path, target: Path) -> Command:
        kept = f"{self.bucket}/{source.name}"
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
    def up(self, source: Path) -> Command:
        return self._copy(str(source), f"store:{self.servers.bucket}/bench/{source.name}", source.is_dir())

    def down(self, source: Path, target: Path) -> Command:
        kept = f"store:{self.servers.bucket}/bench/{source.name}"
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


@dataclass
class Aws(Tool):
    """client: `classic`, or `crt` for Amazon's C runtime."""

    client: str = "classic"

    def up(self, source: Path) -> Command:
        return self._copy(str(source), f"{self.bucket}/{source.name}", source.is_dir())

    def down(self, source: Path, target: Path) -> Command:
        return self._copy(f"{self.bucket}/{source.name}", str(target / source.name), source.is_dir())

    def _copy(self, source: str, target: str, folder: bool) -> Command:
        config = self.folder / "config"
        if not config.exists():
            config.write_text(f"[default]\ns3 =\n    preferred_transfer_client = {self.client}\n")
        argv = [
            str(program("aws")),
            "--endpoint-url",
            self.servers.endpoint,
            "s3",
            "cp",
            "--only-show-errors",
        ]
        argv += [*(["--recursive"] if folder else []), source, target]
        return Command(argv, _keys(self.servers) | {"AWS_CONFIG_FILE": str(config)})


def tools(servers: Servers, folder: Path, only: Sequence[str] = ()) -> list[Tool]:
    """Those that are installed, ours first. folder: for what they keep. only: names; empty: all."""
    made: list[Tool] = []
    for name in only or NAMES:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if name == OURS:
            made.append(Xfer(name, servers, place))
        elif program(_PROGRAMS[name]).exists():
            kind = _KINDS[name]
            made.append(
                Aws(name, servers, place, name.removeprefix("aws-"))
                if kind is Aws
                else kind(name, servers, place)
            )
    return made


def program(name: str) -> Path:
    """Absolute, whether it is there or not. s5cmd's package has a script of Python before the program: go past it."""
    inner = sorted(ENVIRONMENT.absolute().glob(f"lib/*/site-packages/{name}/bin/{name}"))
    return inner[0] if inner else ENVIRONMENT.absolute() / "bin" / name


def _keys(servers: Servers) -> dict[str, str]:
    access, secret = servers.keys
    keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": REGION}
    return clean_environment() | keys | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}


_KINDS: dict[str, type[Tool]] = {"s5cmd": S5cmd, "rclone": Rclone, "aws-classic": Aws, "aws-crt": Aws}
_PROGRAMS = {"s5cmd": "s5cmd", "rclone": "rclone", "aws-classic": "aws", "aws-crt": "aws"}
NAMES = (OURS, *_KINDS)
