"""`python -P -m cli`: the same as the console script `xfer`, for where that is not on PATH."""

from __future__ import annotations

from cli.main import main

main()
