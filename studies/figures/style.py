"""The style of all figures: files, colours, axes and words."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from typing import Final

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from optstudy_core import ALGORITHMS
from studies.learners.methods import METHODS, PLAIN
from studies.records import Run
from studies.study import Study

FORMATS: Final = ("png", "svg", "pdf")
FRAMEWORKS: Final = {"torch": "PyTorch", "jax": "JAX"}
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
GREY: Final = "#666666"
MANY_COLOURS: Final = (
    BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D", GREY, "#66A61E",
)  # fmt: skip
"""The colours of Okabe and Ito, which colour-blind readers can distinguish, and some more."""
HALO: Final = [withStroke(linewidth=3.5, foreground="white")]
RIGHT_ANGLE: Final = 90.0
ANGLES: Final = (0, 45, 90, 135, 180)


def save(folder: pathlib.Path, name: str, draw: Callable[[Figure], None]) -> pathlib.Path:
    """Draw a figure in the style of the project, in all formats; return the PNG file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        as_file(files(__package__) / "studies.mplstyle") as style,
        matplotlib.style.context(["default", style]),
    ):
        figure = Figure()
        draw(figure)
        # One layout for all formats.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for form in FORMATS:
            # Without a date the same run gives the same file.
            notes = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
            figure.savefig(folder / f"{name}.{form}", metadata=notes)
    return folder / f"{name}.png"


def from_zero(ax: Axes) -> None:
    """Make the axis logarithmic above the smallest positive value, and linear down to 0."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    positive = drawn[np.isfinite(drawn) & (drawn > 0)]
    if not len(positive):
        ax.set_ylim(-0.05, 1.0)
        return
    # Decades from the smallest value on; 0 is one step below.
    smallest = 10.0 ** np.floor(np.log10(positive.min()))
    ax.set_yscale("symlog", linthresh=smallest, linscale=0.5)
    top = 10.0 ** np.ceil(np.log10(positive.max()) + 0.1)
    ax.set_ylim(-0.15 * smallest, top)
    decades = np.arange(np.log10(smallest), np.log10(top) + 0.5)
    ax.set_yticks([0.0, *10.0 ** decades[:: max(1, len(decades) // 4)]])
    ax.yaxis.set_minor_locator(NullLocator())


BELOW: Final = {"linewidth": 4.5, "alpha": 0.4}
ABOVE: Final = {"linewidth": 1.8, "linestyle": (0, (3, 2))}
ROW: Final = frozenset(
    {"epoch", "steps", "loss", "step_size", "angle", "layers", "method", "seconds"}
)
"""The entries of every row of a run; other entries are metrics of the study."""


def stacked(figure: Figure, study: Study, run: Run, count: int) -> list[Axes]:
    """Return vertically stacked panels over the epochs."""
    figure.set_size_inches(8.0, 2.2 + 2.5 * count)
    panels: list[Axes] = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    panels[0].set_title(heading_of(study, run))
    epoch_axis(panels[-1], [run])
    return panels


def epoch_axis(ax: Axes, runs: Sequence[Run]) -> None:
    """Format the axis for epochs."""
    ax.set_xlabel("epoch")
    ax.set_xlim(0.5, max([1, *(len(run.rows) for run in runs)]) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def loss_axis(ax: Axes, study: Study, runs: Sequence[Run]) -> None:
    """Format the axis for losses."""
    ax.set_ylabel(f"training loss per mini-batch\n{study.loss_label}")
    logarithmic(ax, [run.column("loss") for run in runs])


def size_axis(ax: Axes, sizes: Sequence[np.ndarray]) -> None:
    """Format the axis for epoch step sizes."""
    ax.set_ylabel("epoch step size\n‖Δ‖")
    logarithmic(ax, sizes)


def angle_axis(ax: Axes) -> None:
    """Format the axis for angles, with a mark at 90°."""
    ax.set_ylabel("angle to the previous\nepoch step (degrees)")
    ax.set_ylim(-5, 185)
    ax.set_yticks(ANGLES)
    ax.axhline(RIGHT_ANGLE, color=GREY, linewidth=1.0, linestyle=":", zorder=1)


def logarithmic(ax: Axes, columns: Sequence[np.ndarray]) -> None:
    """Make the axis logarithmic if there are finite values and all of them are positive."""
    values = np.concatenate([np.empty(0), *columns])
    values = values[np.isfinite(values)]
    if len(values) and (values > 0).all():
        ax.set_yscale("log")
        if values.max() < 1e3 * values.min():  # few decades: label within them
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())


def note_divergence(ax: Axes, run: Run) -> None:
    """Write above the panel from which epoch on the loss is not finite."""
    bad = ~np.isfinite(run.column("loss"))
    if bad.any():
        first = int(run.column("epoch")[bad][0])
        note = f"loss not finite from epoch {first} on"
        ax.set_title(note, loc="right", fontsize=11, fontweight="normal", color=VERMILION)


def title(algorithm: str) -> str:
    """Return the name of an algorithm for headings."""
    return ALGORITHMS[algorithm].title


def heading_of(study: Study, run: Run) -> str:
    """Return the heading of the figures of a run."""
    config = run.config
    return f"{study.title}, {trained_with(run)}, {FRAMEWORKS[config['backend']]}"


def trained_with(run: Run) -> str:
    """Return the algorithm and the method of a run."""
    name, method = title(run.config["algorithm"]), run.config["method"]
    return name if method == PLAIN else f"{name} with {METHODS[method].title}"


def joined(words: Sequence[str]) -> str:
    """Return words joined to an enumeration."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
