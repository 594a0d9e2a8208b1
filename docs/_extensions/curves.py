"""The picture of the schedules."""

from __future__ import annotations

import pathlib

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from optstudy_core import schedules

from .paths import STYLE

CURVES = (
    "Linear(0, 1, 60)",
    "Cosine(1, 0, 60)",
    "Polynomial(1, 0, 100, 2)",
    "Exponential(1, 0.5, 20)",
    "Steps(1, 0.5, 20)",
    "InverseRoot(1, 10)",
    "joined(Linear(0, 1, 20), Cosine(1, 0, 80), at=[20])",
    "warmup_stable_decay(1, warmup=10, stable=60, decay=30)",
    "one_cycle(1, 100)",
    "one_cycle_momentum(0.85, 0.95, 100)",
    "Restarts(Cosine(1, 0, 15), 15, growth=2)",
    "Chained((Linear(0, 1, 20), Exponential(1, 0.5, 20)))",
)
COUNTS = np.arange(101)


def draw(file: pathlib.Path) -> None:
    """Draw all curves."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(11.0, 8.4))
        for ax, text in zip(figure.subplots(4, 3).flat, CURVES, strict=True):
            curve = eval(text, vars(schedules))
            values = [curve(count) for count in COUNTS]
            ax.plot(COUNTS, values, ".", markersize=3.5)
            low = 0.8 if "momentum" in text else 0.0
            ax.set(xlim=(0, 100), ylim=(low - 0.05 * (1 - low), 1 + 0.05 * (1 - low)))
            name, _, rest = text.partition("(")
            shown = text if len(text) < 40 else f"{name}(\n{rest}"
            ax.set_title(shown, fontsize=9, family="monospace")
        figure.savefig(file, format="svg", metadata={"Date": None})
