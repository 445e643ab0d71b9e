"""Draws what `scripts/bench s3` measured: plot.py RESULTS.json PICTURE.png, in an environment with matplotlib.

One panel a file and link, one pair of bars a tool: seconds up and down, medians. Each panel has its own scale.
What another tool moved in other sizes than ours, in an earlier run, is left out.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

OURS = "xfer"
COLOURS = {True: ("#0b6e4f", "#7bc4a4"), False: ("#6b7280", "#c3c8d0")}
"""Of us and of others: up, down."""
NAMES = {"random": "random", "json": "JSON labels", "tree": "small files", "tar": "system tar"}
INK = "#1f2937"


def main() -> None:
    results, picture = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    cells: dict[tuple[str, str, str, str], dict[str, Any]] = {
        (c["link"], c["file"], c["way"], c["tool"]): c for c in results["cells"]
    }
    ours = {key[:3]: cell["size"] for key, cell in cells.items() if key[3] == OURS}
    cells = {key: cell for key, cell in cells.items() if ours.get(key[:3], cell["size"]) == cell["size"]}
    links = [name for name in results["links"] if any(key[0] == name for key in cells)]
    files = [name for name in NAMES if any(key[1] == name for key in cells)]
    tools = list(dict.fromkeys(key[3] for key in cells))
    if not cells:
        sys.exit("nothing was measured")
    mpl.rcParams.update(
        {"font.size": 8, "text.color": INK, "axes.edgecolor": "#d1d5db", "font.family": "sans-serif"}
    )
    figure, axes = pyplot.subplots(
        len(files),
        len(links),
        figsize=(1.95 * len(links) + 0.9, 1.2 * len(files) + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for row, file in enumerate(files):
        for column, link in enumerate(links):
            panel = axes[row][column]
            here = {key: cell for key, cell in cells.items() if key[:2] == (link, file)}
            _panel(panel, here, tools, names=column == 0)
            if row == 0:
                panel.set_title(
                    results["links"][link]["shape"].replace(" each way", ""), fontsize=8.5, color=INK
                )
            if column == 0:
                panel.set_ylabel(NAMES[file], fontsize=8.5, color=INK, labelpad=8)
    figure.suptitle(
        f"Seconds up (dark) and down (light), medians, {results['cores']} cores, TCP {results['congestion']}: less is better",
        fontsize=9,
        color=INK,
    )
    figure.savefig(picture, dpi=180, facecolor="white")


def _panel(
    panel: Any, cells: dict[tuple[str, str, str, str], dict[str, Any]], tools: list[str], *, names: bool
) -> None:
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.set_xticks([])
    panel.set_yticks(range(len(tools)), tools if names else [""] * len(tools))
    panel.tick_params(length=0, labelcolor=INK)
    panel.set_ylim(len(tools) - 0.45, -0.55)
    if not any(cell["seconds"] for cell in cells.values()):
        panel.text(
            0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", va="center", color="#9ca3af"
        )
        return
    size = next(iter(cells.values()))["size"] / 1e6
    panel.set_xlabel(f"{size:,.0f} MB", loc="right", fontsize=6.5, color="#9ca3af", labelpad=1)
    medians = {
        (tool, way): statistics.median(c["seconds"]) for (_, _, way, tool), c in cells.items() if c["seconds"]
    }
    longest = max(medians.values(), default=1.0)
    panel.set_xlim(0, longest * 1.3)
    for place, tool in enumerate(tools):
        for offset, way, colour in zip((-0.2, 0.2), ("up", "down"), COLOURS[tool == OURS], strict=True):
            seconds = medians.get((tool, way))
            if seconds is None:
                panel.text(longest * 0.02, place + offset, "–", va="center", fontsize=7, color="#9ca3af")
                continue
            panel.barh(place + offset, seconds, height=0.36, color=colour)
            label = f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"
            panel.text(seconds + longest * 0.02, place + offset, label, va="center", fontsize=7, color=INK)


if __name__ == "__main__":
    main()
