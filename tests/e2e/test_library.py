"""The README's library example runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Servers

README = Path(__file__).resolve().parent.parent.parent / "README.md"


def test_the_library_example_runs_as_it_stands(servers: Servers, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "report.pdf").write_bytes(b"a report")
    ran = subprocess.run(
        [sys.executable, "-c", found[1]],
        env=servers.env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("8 ")
    assert (tmp_path / "inbox/report.pdf").read_bytes() == b"a report"
