"""The demonstration behind scripts/demo; it talks to `xfer` as scripts do: processes, NDJSON, exit codes."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import NoReturn

SMALL = 3_000_000
LARGE = 128_000_000
"""Bytes; above the 100 MB from which on S3 is taken."""
PATIENCE = 300.0
"""Seconds for each command; a demonstration that hangs is worse than one that fails."""
XFER = [sys.executable, "-P", "-m", "cli"]


class Failed(Exception):
    """A step of the demonstration did not do what it shows."""


class Command:
    """A running `xfer` command whose stdout is read as it comes, so that it never waits for us."""

    def __init__(self, env: dict[str, str], args: Sequence[str | Path]) -> None:
        self.name = f"xfer {args[0]}"
        self.process = subprocess.Popen(
            [*XFER, *map(str, args)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._objects: Queue[dict[str, object] | None] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._objects.put(json.loads(line))
        self._objects.put(None)

    def next_object(self) -> dict[str, object]:
        try:
            found = self._objects.get(timeout=PATIENCE)
        except Empty:
            raise Failed(f"`{self.name}` says nothing") from None
        if found is None:
            raise Failed(f"`{self.name}` ended with exit code {self.process.wait()}")
        return found

    def summary(self) -> dict[str, object]:
        """The last event of a transfer, once the process ended well."""
        while (event := self.next_object()).get("event") != "summary":
            pass
        if code := self.process.wait(PATIENCE):
            raise Failed(f"`{self.name}` ended with exit code {code}")
        return event

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Demo:
    """Everything lives in one temporary folder and one list of processes; `close` ends both."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="xfer-demo-"))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("XFER_", "NATS_", "AWS_"))}
        self.env["XFER_HOME"] = str(self.folder / "home")
        self.commands: list[Command] = []

    def close(self) -> None:
        for command in reversed(self.commands):  # the servers were first to start, and end last
            command.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, *args: str | Path, **more: str) -> Command:
        command = Command(self.env | more, args)
        self.commands.append(command)
        return command

    def up(self) -> None:
        said = self.start("up", "--dir", self.folder / "servers", "--json").next_object()
        print(f"servers   NATS {said['nats_url']}, S3 {said['s3_endpoint']}/{said['bucket']}, broker")

    def transfer(self, title: str, source: Path, *, at_once: bool) -> None:
        """Send `source` in one process, fetch it in another, compare, print a line.

        at_once: the receiver starts while the sender still runs, not after it ended.
        """
        started = time.monotonic()
        sender = self.start("send", "--json", source)
        while (ticket := sender.next_object()).get("event") != "ticket":
            pass
        sent = None if at_once else sender.summary()
        target = self.folder / "received" / title
        target.mkdir(parents=True)
        receiver = self.start("fetch", "--json", "-o", f"{target}{os.sep}", XFER_TICKET=str(ticket["ticket"]))
        fetched = receiver.summary()
        sent = sent or sender.summary()
        if not filecmp.cmp(source, target / source.name, shallow=False):
            raise Failed(f"{title}: the bytes differ")
        size = f"{source.stat().st_size:,} bytes"
        print(
            f"{title:9} {size:>17} in {time.monotonic() - started:.1f} s: sent by {sent['route']} "
            f"({sent['outcome']}, {sent['seconds']:.1f} s), fetched by {fetched['route']} "
            f"({fetched['seconds']:.1f} s), bytes identical"
        )


def main() -> None:
    signal.signal(signal.SIGTERM, _stop)
    demo = Demo()
    try:
        demo.up()
        if len(sys.argv) > 1:
            demo.transfer("your file", Path(sys.argv[1]).resolve(), at_once=True)
        else:
            demo.transfer("small", _random_file(demo.folder / "small.bin", SMALL), at_once=True)
        demo.transfer("large", _random_file(demo.folder / "large.bin", LARGE), at_once=False)
    except Failed as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        demo.close()
        print("stopped   everything that was started; what stays is .venv-demo, which you may remove")


def _stop(_signum: int, _frame: object) -> NoReturn:
    sys.exit(143)


def _random_file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for _ in range(0, size, 1_000_000):
            file.write(os.urandom(1_000_000))
    return path


if __name__ == "__main__":
    main()
