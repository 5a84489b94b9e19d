"""A picture of the ratios: how many times better Shoal is than Ray, line by line.

.venv-ray/bin/python benches/side_by_side/plot.py benches/results/latest.json ratios.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REACHED, MISSED, NO_TARGET = "#2a7f62", "#c0504d", "#7f8c8d"


def draw(document: dict[str, Any], path: Path) -> bool:
    """Write the picture; returns False when no line was measured on both systems."""
    lines = [line for line in document["lines"] if line["ratio"] is not None]
    if not lines:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 1.5 + 0.28 * len(lines)))
    positions = range(len(lines), 0, -1)
    colours = [{True: REACHED, False: MISSED, None: NO_TARGET}[line["reached"]] for line in lines]
    axes.barh(positions, [line["ratio"] for line in lines], color=colours, height=0.7)
    for position, line in zip(positions, lines, strict=True):
        axes.annotate(
            f"{line['ratio']:.3g}x", (line["ratio"], position), (4, 0),
            textcoords="offset points", va="center", fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
        if line["target"] and line["target"].endswith("x Ray"):
            wanted = float(line["target"].split()[1].rstrip("x"))
            axes.plot([wanted, wanted], [position - 0.4, position + 0.4], color="black", linewidth=1.5)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.01)
    axes.set_yticks(list(positions), [line["name"] for line in lines], fontsize=8)
    versions, machine = document["versions"], document["machine"]
    axes.set_xlabel("times better than Ray (log scale); black mark: target ratio; green: target reached; red: missed")
    axes.set_title(
        f"Shoal {versions.get('shoal', '')} and Ray {versions.get('ray', '')}, "
        f"{machine['processors']} processors, {machine['memory GB']:g} GB",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    if not draw(json.loads(source.read_text()), target):
        sys.exit("no line was measured on both systems")
