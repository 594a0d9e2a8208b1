"""Figures that compare several settings with the first setting."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from studies.records import Run
from studies.study import Study

from .style import (
    ABOVE,
    BELOW,
    BLUE,
    FRAMEWORKS,
    GREY,
    MANY_COLOURS,
    angle_axis,
    epoch_axis,
    logarithmic,
    loss_axis,
    save,
    size_axis,
)


def draw_comparison(
    study: Study, heading: str, runs: Mapping[str, Sequence[Run]], folder: pathlib.Path
) -> list[pathlib.Path]:
    """Draw each setting with the first setting, and all settings in small panels.

    Args:
        study: the study of the runs.
        heading: the settings that all trainings share.
        runs: the runs of all frameworks and seeds, by label.
        folder: the folder for the figures.

    Returns:
        the PNG files.
    """
    others = list(runs)[1:]
    if not others:
        return []
    words: dict[str, Any] = {"study": study, "heading": heading, "runs": runs}
    drawings = {
        "together": partial(together, **words),
        "overview": partial(small_multiples, **words),
        "evaluations": partial(small_multiples, **words, over="evaluations"),
    }
    if all("seconds" in run.rows[0] for several in runs.values() for run in several):
        drawings["seconds"] = partial(small_multiples, **words, over="seconds")
    if len(others) <= _MANY:
        for label in others:
            drawings[_file_name(label)] = partial(against_first, **words, label=label)
    return [save(folder, name, draw) for name, draw in drawings.items()]


_MANY: Final = 12
"""The largest number of settings that get a figure each, besides the small panels."""


def against_first(
    figure: Figure, study: Study, heading: str, runs: Mapping[str, Sequence[Run]], label: str
) -> None:
    """Draw loss, rate factor, angle and step size of a setting and of the first setting."""
    figure.set_size_inches(8.0, 11.5)
    loss, factor, turn, size = figure.subplots(4, 1, sharex=True)
    loss.set_title(f"{heading}\n{label}")
    first = next(iter(runs))
    shown = [*runs[first], *runs[label]]
    for name, colour in ((first, GREY), (label, BLUE)):
        for several, look in _looks(runs[name], colour, name):
            _band(loss, several, _epochs_of, "loss", look)
            _band(factor, several, _epochs_of, "method/lr_factor", look)
            _band(turn, several, _epochs_of, "angle", look)
            _band(size, several, _epochs_of, "step_size", look)
    for run in runs[label]:
        _mark_undone(loss, run, BLUE, label=True)
    loss_axis(loss, study, shown)
    factor.set_ylabel("factor on the\nlearning rate")
    factors = [run.column("method/lr_factor").max(initial=1.0) for run in shown]
    factor.set_ylim(0.0, 1.1 * max(factors))
    angle_axis(turn)
    size_axis(size, [run.column("step_size") for run in shown])
    epoch_axis(size, shown)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, title=_of_seeds(shown))


def together(figure: Figure, study: Study, heading: str, runs: Mapping[str, Sequence[Run]]) -> None:
    """Draw the losses of all settings in one panel; the legend starts with the lowest final loss.

    Args:
        figure: the figure to draw on.
        study: the study of the runs.
        heading: the settings that all trainings share.
        runs: the runs by label.
    """
    shown = [run for several in runs.values() for run in several]
    both = len({run.config["backend"] for run in shown}) > 1
    order = sorted(runs, key=lambda label: _final(runs[label]))
    figure.set_size_inches(9.5, max(5.0, 1.4 + 0.24 * len(order)))
    loss = figure.subplots()
    loss.set_title(heading)
    for i, label in enumerate(order):
        colour = MANY_COLOURS[i % len(MANY_COLOURS)]
        dashes = _DASHES[i // len(MANY_COLOURS) % len(_DASHES)]
        for several, look in _looks(runs[label], colour, label):
            if not both:
                look["label"] = label
            _band(loss, several, _epochs_of, "loss", {"linestyle": dashes, **look})
    loss_axis(loss, study, shown)
    epoch_axis(loss, shown)
    title = _of_seeds(shown)
    wrapped = None if title is None else title.replace("; ", "\n")
    figure.legend(loc="outside right upper", title=wrapped, fontsize=9, title_fontsize=9)


_DASHES: Final = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))


def _final(runs: Sequence[Run]) -> float:
    """Return the median of the last losses; NaN counts as the largest."""
    return float(np.median(np.nan_to_num([r.column("loss")[-1] for r in runs], nan=np.inf)))


def small_multiples(
    figure: Figure,
    study: Study,
    heading: str,
    runs: Mapping[str, Sequence[Run]],
    over: Literal["epochs", "evaluations", "seconds"] = "epochs",
) -> None:
    """Draw the loss of each setting in a small panel, with the loss of the first setting.

    Args:
        figure: the figure to draw on.
        study: the study of the runs.
        heading: the settings that all trainings share.
        runs: the runs by label.
        over: ``epochs``; or ``evaluations``, the sum of evaluations of the gradient (one an epoch)
            and of the loss over all training data; or ``seconds`` of the training alone.
    """
    first, *others = runs
    columns = min(3, len(others))
    rows = -(-len(others) // columns)
    figure.set_size_inches(max(6.5, 4.0 * columns), 2.2 + 2.5 * rows)
    figure.suptitle(f"{heading}: compared with {first}", x=0.01, ha="left")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shown = [run for several in runs.values() for run in several]
    across = _COUNTS[over]
    for i, ax in enumerate(panels.flat):
        if i >= len(others):
            ax.set_visible(False)
            continue
        name = others[i]
        ax.set_title(name, fontsize=12)
        for label, colour in ((first, GREY), (name, BLUE)):
            word = "the setting above the panel" if label != first and len(others) > 1 else label
            for several, look in _looks(runs[label], colour, word):
                _band(ax, several, across, "loss", look)
            for run in runs[label]:
                _mark_undone(ax, run, colour, label=False, across=across)
        logarithmic(ax, [run.column("loss") for run in shown])
        last_row = i + columns >= len(others)
        if last_row:
            ax.tick_params(labelbottom=True)
        ax.set_xlabel(_ACROSS[over] if last_row else "")
        ax.xaxis.set_major_locator(MaxNLocator(integer=over != "seconds", min_n_ticks=1))
    figure.supylabel(
        f"training loss per mini-batch\n{study.loss_label}", fontsize=12, multialignment="center"
    )
    handles, labels = panels.flat[0].get_legend_handles_labels()
    if any(run.column("method/undone").any() for run in shown):
        handles.append(_undone_marker(BLUE))
        labels.append(_UNDONE)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=(2, 3, 5)[columns - 1],
        title=_of_seeds(shown),
    )  # fmt: skip


def evaluations(run: Run) -> np.ndarray:
    """Return the evaluations over all training data of a run, up to the loss of each epoch.

    Each epoch counts one evaluation of the gradient, and the evaluations of the loss by the method
    at the end of the previous epochs.
    """
    asked = run.column("method/evaluations")
    result: np.ndarray = run.column("epoch") + np.cumsum(asked) - asked
    return result


def _epochs_of(run: Run) -> np.ndarray:
    return run.column("epoch")


def seconds(run: Run) -> np.ndarray:
    """Return the seconds of training up to the end of each epoch, with the method."""
    return np.cumsum(run.column("seconds"))


_COUNTS: Final[Mapping[str, Callable[[Run], np.ndarray]]] = {
    "epochs": _epochs_of,
    "evaluations": evaluations,
    "seconds": seconds,
}
_ACROSS: Final = {
    "epochs": "epoch",
    "evaluations": "evaluations of the gradient and the loss",
    "seconds": "seconds of training",
}


def _band(
    ax: Axes, runs: Sequence[Run], across: Callable[[Run], np.ndarray], column: str, look: Any
) -> None:
    """Draw the median of several seeds, and a band from the smallest to the largest."""
    x = np.median([across(run) for run in runs], axis=0)
    with np.errstate(invalid="ignore"):
        y = np.stack([run.column(column) for run in runs])
        ax.plot(x, np.median(y, axis=0), **look)
        if len(runs) > 1:
            ax.fill_between(
                x, y.min(axis=0), y.max(axis=0), color=look["color"], alpha=0.15, linewidth=0
            )


def _of_seeds(runs: Sequence[Run]) -> str | None:
    seeds = {run.config["seed"] for run in runs}
    return f"median of {len(seeds)} seeds; band: smallest to largest" if len(seeds) > 1 else None


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.]+", "_", label.casefold()).strip("_")


def _looks(
    runs: Sequence[Run], colour: str, word: str
) -> Iterator[tuple[list[Run], dict[str, Any]]]:
    """Yield the runs of each framework with their line styles, so that both are visible."""
    by_framework: dict[str, list[Run]] = {}
    for run in runs:
        by_framework.setdefault(run.config["backend"], []).append(run)
    for backend, several in by_framework.items():
        look: dict[str, Any] = {"color": colour, "label": f"{word}, {FRAMEWORKS[backend]}"}
        if len(by_framework) > 1:
            look |= BELOW if backend == "torch" else ABOVE
        yield several, look


_UNDONE: Final = "epoch undone"


def _mark_undone(
    ax: Axes,
    run: Run,
    colour: str,
    *,
    label: bool,
    across: Callable[[Run], np.ndarray] = _epochs_of,
) -> None:
    undone = run.column("method/undone") > 0
    if undone.any():
        known = ax.get_legend_handles_labels()[1]
        marker = _undone_marker(colour)
        ax.plot(
            across(run)[undone],
            run.column("loss")[undone],
            linestyle="none",
            color=colour,
            marker=marker.get_marker(),
            markersize=marker.get_markersize(),
            label=_UNDONE if label and _UNDONE not in known else None,
        )


def _undone_marker(colour: str) -> Line2D:
    return Line2D([], [], linestyle="none", marker="x", markersize=7, color=colour)
