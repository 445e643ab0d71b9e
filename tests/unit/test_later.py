"""Imports that are made when somebody first looks into the module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from transfer.later import later


def test_a_module_is_there_at_once_and_runs_when_something_in_it_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "__init__.py").write_text("from . import inner\nprint('slow runs')\n")
    (tmp_path / "slow" / "inner.py").write_text("VALUE = 5\n")
    (tmp_path / "other.py").write_text("print('other runs')\n")
    script = (
        "from transfer.later import later\n"
        "with later('slow'):\n"
        "    import slow, other\n"
        "print('imported')\n"
        "from slow.inner import VALUE\n"
        "print(slow.inner.VALUE, VALUE)\n"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split("\n") == ["other runs", "imported", "slow runs", "5 5", ""]


def test_afterwards_imports_are_as_they_were() -> None:
    before = list(sys.meta_path)
    with later("nothing"):
        assert len(sys.meta_path) == len(before) + 1
    assert sys.meta_path == before


def test_a_client_does_not_load_the_library_of_jetstream() -> None:
    look = "print('nats.js.api' in sys.modules)"
    script = f"import sys, transfer.sturdy\n{look}\nimport transfer.broker.kv\n{look}"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]
