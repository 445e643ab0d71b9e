"""What is sent, made once for many scenarios, and what is looked at on disk afterwards."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

from chaos import Source
from helpers import make_tree, write


def prepared(source: Source, folder: Path) -> Path:
    """What is sent; made once."""
    path = folder / source.name
    if path.exists():
        return path
    making = folder / f"making-{source.name}"
    if source.kind == "tree":
        make_tree(making, source.size)
    elif source.text:
        line = b'{"id": %d, "label": "%d", "box": [%d, %d, 640, 480], "score": 0.%d}\n'
        with open(making, "wb") as file:
            number = 0
            while file.tell() < source.size:
                number += 1
                file.write(
                    line
                    % (
                        number,
                        number * 7919 % 1000,
                        number * 31 % 640,
                        number * 17 % 480,
                        number * 104729 % 99991,
                    )
                )
            file.truncate(source.size)
    else:
        write(making, source.size)
    making.rename(path)
    return path


def same(one: Path, other: Path) -> bool:
    """`cmp` or `diff -r`: bytes, names and links."""
    if not os.path.lexists(other):
        return False
    command = ["diff", "-r", "--no-dereference"] if one.is_dir() else ["cmp"]
    return subprocess.run([*command, one, other], capture_output=True, check=False).returncode == 0


def rows_in(home: Path) -> dict[str, int]:
    """How many rows each table of a ledger has, of those that have any: only what is unfinished has rows.

    But for what the jobs were called, which `xfer ls` shows for a year.
    """
    path = home / "state" / "ledger.db"
    if not path.exists():
        return {}
    ledger = sqlite3.connect(path)
    try:
        tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = {table: ledger.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    finally:
        ledger.close()
    return {table: count for table, count in counts.items() if count and table != "labels"}


def clear(folder: Path) -> None:
    """Also folders of mode 0555."""
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)
    shutil.rmtree(folder)
