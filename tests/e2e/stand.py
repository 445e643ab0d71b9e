"""Machines as bare as cron's, with `xfer`, a room and little else: where examples run as they stand."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import SOON, XFER

if TYPE_CHECKING:
    from tests.conftest import Servers

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PG_DUMP = '#!/bin/sh\necho "dump of $1"\n'


@dataclass
class Stand:
    """Machines with little on them but `xfer`, and a room. bin: where programs can be put. ticket: the room's, in a file."""

    tmp: Path
    servers: Servers
    bin: Path
    ticket: Path

    @classmethod
    def set_up(cls, tmp: Path, servers: Servers) -> Stand:
        stand = cls(tmp, servers, tmp / "bin", tmp / "room")
        stand.bin.mkdir()
        xfer = f'PYTHONPATH={ROOT}\nexport PYTHONPATH\nexec {shlex.join(XFER)} "$@"\n'
        stand.program("xfer", f"#!/bin/sh\n{xfer}")
        stand.well(f"xfer room new examples --ticket-file {stand.ticket} 2>&1", stand.env("maker"))
        return stand

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def env(self, home: str, **more: object) -> dict[str, str]:
        """As bare as cron's, but for where programs and the machine's contexts are."""
        folder = self.tmp / home
        if not folder.exists():
            shutil.copytree(Path(self.servers.env["XFER_HOME"], "config"), folder / "config")
        bare = {"HOME": str(folder), "LOGNAME": "ann", "SHELL": "/bin/sh"}
        ours = {"PATH": f"{self.bin}:/usr/bin:/bin", "XFER_HOME": str(folder)}
        return {**bare, **ours, **{name: str(value) for name, value in more.items()}}

    def run(
        self, command: str, env: Mapping[str, str], cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """By the shell, as cron and make do."""
        return subprocess.run(
            ["/bin/sh", "-c", command],
            env=dict(env),
            cwd=cwd or self.tmp,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * SOON,
        )

    def well(self, command: str, env: Mapping[str, str], cwd: Path | None = None) -> str:
        """Its stdout; it must be all that is said."""
        ended = self.run(command, env, cwd)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
        return ended.stdout

    def shown(self) -> Any:
        """What lies in the room, and who has had what."""
        env = self.env("anybody", XFER_ROOM=self.ticket.read_text().strip())
        return json.loads(self.well("xfer room show --json", env))

    def file(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path
