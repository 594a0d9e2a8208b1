"""Figures of measurements over the epochs, and of the divergence of two frameworks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import matplotlib.style
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies.pairs import LEGS, Journey, Twins
from studies.records import Run
from studies.study import Study

from .style import (
    ABOVE,
    ANGLES,
    BELOW,
    BLUE,
    FRAMEWORKS,
    GREEN,
    GREY,
    ROW,
    VERMILION,
    angle_axis,
    epoch_axis,
    from_zero,
    heading_of,
    joined,
    loss_axis,
    note_divergence,
    size_axis,
    stacked,
    title,
    trained_with,
)


def training_loss(figure: Figure, study: Study, run: Run) -> None:
    """Draw the training loss over the epochs, with the metrics below."""
    metrics = [n for n in run.rows[0] if n not in ROW] if run.rows else []
    panels = stacked(figure, study, run, 1 + len(metrics))
    panels[0].plot(run.column("epoch"), run.column("loss"), marker="o", markersize=4)
    loss_axis(panels[0], study, [run])
    for ax, name in zip(panels[1:], metrics, strict=True):
        ax.plot(run.column("epoch"), run.column(name), color=GREEN, marker="o", markersize=4)
        ax.set_ylabel(name.replace("_", " "))
    note_divergence(panels[0], run)


NAMED: Final = 14
"""The largest number of arrays with names in the legend; the figure of layers names all."""


def epoch_steps(figure: Figure, study: Study, run: Run) -> None:
    """Draw the size and the angle of the epoch steps, for all parameters and for each array."""
    size, turn = stacked(figure, study, run, 2)
    epochs = run.column("epoch")
    layers = list(study.initial)
    few = ["C1", "C2", "C3", "C4", "C5"][: len(layers)]
    many = matplotlib.colormaps["cividis"](np.linspace(0.1, 0.85, len(layers)))
    shades: Any = few if len(few) == len(layers) else many
    labels = layers if len(layers) <= NAMED else ["each of the arrays", *[None] * len(layers)]
    sizes = [run.column("step_size"), *(run.layer_column(layer, "step_size") for layer in layers)]
    for layer, shade, label in zip(layers, shades, labels, strict=False):
        thin: dict[str, Any] = {"color": shade, "linewidth": 1.3, "label": label}
        size.plot(epochs, run.layer_column(layer, "step_size"), **thin)
        if study.initial[layer].size > 1:  # a scalar only has a sign, not a direction
            turn.plot(epochs, run.layer_column(layer, "angle"), **thin)
    thick: dict[str, Any] = {
        "color": BLUE,
        "marker": "o",
        "markersize": 4,
        "label": "all parameters",
    }
    size.plot(epochs, run.column("step_size"), **thick)
    turn.plot(epochs, run.column("angle"), **thick)
    size_axis(size, sizes)
    angle_axis(turn)
    handles, labels = size.get_legend_handles_labels()
    first = [handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]]
    figure.legend(*first, loc="outside lower center", ncols=min(3, len(labels)))
    note_divergence(size, run)


def parting(figure: Figure, study: Study, pair: Twins) -> None:
    """Draw distance, angle and loss difference of two trainings, and the cause of each."""
    figure.set_size_inches(8.0, 10.5)
    distance, turn, loss, part = figure.subplots(4, 1, sharex=True)
    distance.set_title(f"{study.title}, {title(pair.algorithm)}: PyTorch and JAX")
    epochs = [e.epoch for e in pair.epochs]
    line: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 4}
    distance.plot(epochs, [e.distance for e in pair.epochs], **line)
    distance.set_ylabel("distance of parameters\n‖θ_torch − θ_jax‖")
    turn.plot(epochs, [e.angle for e in pair.epochs], **line)
    turn.set_ylabel("angle between the\nepoch steps (degrees)")
    loss.plot(epochs, [abs(e.loss_difference) for e in pair.epochs], **line)
    loss.set_ylabel("difference of\ntraining losses")
    gradients = [e.gradients.relative for e in pair.epochs]
    part.plot(epochs, gradients, **line | {"color": VERMILION, "label":
        "gradients at the same parameters, relative to their norm"})  # fmt: skip
    part.plot(epochs, [e.optimizer.ulp for e in pair.epochs], **line | {"color": GREEN, "label":
        "optimizers given the same gradients, largest difference in ulp"})  # fmt: skip
    part.set_ylabel("difference of\ngradients and optimizers")
    for ax in (distance, turn, loss, part):
        from_zero(ax)
    part.set_xlabel("epoch")
    part.set_xlim(0.5, max([1, *epochs]) + 0.5)
    part.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(*part.get_legend_handles_labels(), loc="outside lower center", ncols=1)


def moving(figure: Figure, study: Study, journeys: Sequence[Journey]) -> None:
    """Draw the distances of moving trainings, and of their twins, from staying trainings."""
    figure.set_size_inches(8.0, 1.6 + 3.0 * len(journeys))
    panels = figure.subplots(len(journeys), 1, sharex=True, squeeze=False)[:, 0]
    for ax, journey in zip(panels, journeys, strict=True):
        epochs = range(1, journey.epochs + 1)
        whole = "in JAX from the start"
        ax.plot(epochs, journey.twin, color=VERMILION, label=whole, **ABOVE)
        ax.plot(epochs, journey.moved, color=BLUE, marker="o", markersize=4, label="moving")
        ax.set_ylabel(f"{journey.dtype}: distance to\nthe run that stayed\n‖θ − θ′‖ / ‖θ′‖")
        from_zero(ax)
        length = journey.epochs / len(LEGS)
        for i, leg in enumerate(LEGS):
            if i:
                ax.axvline(i * length + 0.5, color=GREY, linewidth=1.0, linestyle=":")
            ax.text((i + 0.5) * length + 0.5, 1.01, leg, ha="center", va="bottom", fontsize=9,
                    transform=ax.get_xaxis_transform())  # fmt: skip
    first = journeys[0]
    heading = f"{study.title}, {title(first.algorithm)}: a training that moves"
    panels[0].set_title(heading, pad=18)
    panels[-1].set_xlabel("epoch")
    panels[-1].set_xlim(0.5, first.epochs + 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def layers(figure: Figure, study: Study, run: Run) -> None:
    """Draw step size and angle of each array of parameters over the epochs, as heat maps.

    Arrays with one element have no angle here, because the angle would be 0° or 180°.
    """
    names = list(study.initial)
    with np.errstate(invalid="ignore"):
        sizes = np.stack([run.layer_column(name, "step_size") for name in names])
        sizes = np.ma.masked_invalid(np.where(sizes > 0, sizes, np.nan))
    turns = np.stack([run.layer_column(name, "angle") for name in names])
    turns[[value.size == 1 for value in study.initial.values()]] = np.nan
    turns = np.ma.masked_invalid(turns)
    whole = sizes.count() > 0
    shown: list[tuple[Any, Any, str, Any]] = [
        (sizes, LogNorm(sizes.min(), max(sizes.max(), 1.001 * sizes.min())) if whole else None,
         "epoch step size ‖Δ‖", None),
    ]  # fmt: skip
    if turns.count():
        label = "angle to the previous\nepoch step (degrees)"
        shown.append((turns, Normalize(0.0, 180.0), label, ANGLES))
    side_by_side = len(names) > _MANY
    rows, columns = (1, len(shown)) if side_by_side else (len(shown), 1)
    figure.set_size_inches(
        9.0, 2.4 + rows * max(1.2, (0.24 if side_by_side else 0.32) * len(names))
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(heading_of(study, run), x=0.01, ha="left")
    for ax, (values, norm, label, ticks) in zip(panels.flat, shown, strict=True):
        ax.grid(visible=False)
        drawn = ax.imshow(
            values, aspect="auto", interpolation="nearest", norm=norm, cmap="viridis",
            extent=(0.5, len(run.rows) + 0.5, len(names) - 0.5, -0.5),
        )  # fmt: skip
        ax.set_yticks(range(len(names)), names, fontsize=9)
        figure.colorbar(drawn, ax=ax, label=label, ticks=ticks)
    for ax in panels[-1]:
        epoch_axis(ax, [run])


_MANY: Final = 16
"""The number of arrays up to which the two panels are side by side."""


def overview(figure: Figure, study: Study, runs: Sequence[Run]) -> None:
    """Draw loss, step size and angle of several runs above each other."""
    figure.set_size_inches(8.0, 9.5)
    loss, size, turn = figure.subplots(3, 1, sharex=True)
    names = list(dict.fromkeys(map(trained_with, runs)))
    loss.set_title(f"{study.title}: {joined(names)}")
    both = len({run.config["backend"] for run in runs}) > 1
    for run in runs:
        backend = run.config["backend"]
        look: dict[str, Any] = {
            "color": f"C{names.index(trained_with(run))}",
            "label": f"{trained_with(run)}, {FRAMEWORKS[backend]}",
        }
        if both:  # dashes above a wider pale line: both are visible where they coincide
            look |= BELOW if backend == "torch" else ABOVE
        epochs = run.column("epoch")
        loss.plot(epochs, run.column("loss"), **look)
        size.plot(epochs, run.column("step_size"), **look)
        turn.plot(epochs, run.column("angle"), **look)
    loss_axis(loss, study, runs)
    size_axis(size, [run.column("step_size") for run in runs])
    angle_axis(turn)
    epoch_axis(turn, runs)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
