"""Figures of predicted vertices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies.figures.predictions import at_epochs, shown
from studies.figures.style import BLUE, GREEN, VERMILION, heading_of
from studies.learners.training import Learner
from studies.records import Run
from studies.study import Study

from .efficiency import peaks
from .event import bin_centres


def vertex_histograms(figure: Figure, study: Study, run: Run, learner: Learner) -> None:
    """Draw the predictions of the network of a run for some held-out events."""
    inputs, targets, _ = shown(study)
    outputs = learner.outputs(at_epochs(study, run)[-1], inputs)
    heading = f"{heading_of(study, run)}: held-out events"
    histograms(figure, inputs=inputs, targets=targets, outputs=outputs, heading=heading)


def kernels(figure: Figure, study: Study, run: Run, learner: Learner) -> None:
    """Draw the true and the predicted kernels of some held-out events, with an enlarged part."""
    inputs, targets, _ = shown(study)
    outputs = learner.outputs(at_epochs(study, run)[-1], inputs)
    heading = f"{heading_of(study, run)}: held-out events"
    _mirrored(figure, inputs, targets, outputs, heading, "kernel (2500 mm⁻²)", None)


def histograms(
    figure: Figure, *, inputs: np.ndarray, targets: np.ndarray, outputs: np.ndarray, heading: str
) -> None:
    """Draw true and predicted histograms of the vertices of some events, with an enlarged part."""
    _mirrored(figure, inputs, targets, outputs, heading, "vertices a bin", peaks)


def _mirrored(
    figure: Figure,
    inputs: np.ndarray,
    targets: np.ndarray,
    outputs: np.ndarray,
    heading: str,
    unit: str,
    places_of: Callable[[np.ndarray], np.ndarray] | None,
) -> None:
    """Draw the truth upwards and the prediction downwards, so that both are visible."""
    z = bin_centres()
    figure.set_size_inches(11.0, 1.3 + 2.5 * len(targets))
    figure.suptitle(heading, x=0.01, ha="left")
    grid = figure.subplots(len(targets), 2, width_ratios=[2.6, 1.0], squeeze=False, sharey="row")
    for i, (wide, near) in enumerate(grid):
        truth, guess = np.nan_to_num(targets[i]), np.nan_to_num(outputs[i])
        top = 1.15 * max(truth.max(), 0.05)
        middle = z[int(truth.argmax())]
        for ax in (wide, near):
            if inputs.shape[-1] == len(z):
                shape = inputs[i, 0] / max(inputs[i, 0].max(), 1e-9) * top
                ax.fill_between(z, shape, color="0.85", linewidth=0, label="kernel (its own scale)")
            ax.fill_between(z, truth, step="mid", color=GREEN, linewidth=0.6, label="truth")
            ax.fill_between(z, -guess, step="mid", color=BLUE, linewidth=0.6, label="prediction")
            if places_of is not None:
                places = places_of(outputs[i])
                ax.plot(places, np.full(len(places), -0.97 * top), "^", color=VERMILION,
                        markersize=6, linestyle="none", label="found peaks")  # fmt: skip
            ax.axhline(0.0, color="black", linewidth=0.6)
            ax.set_ylim(-top, top)
            ax.yaxis.set_major_locator(MaxNLocator(5))
            ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        wide.set(xlim=(z[0], z[-1]), ylabel=unit)
        near.set_xlim(middle - 8.0, middle + 8.0)
        if i == 0:
            near.set_title("enlarged", fontsize=12)
        if i == len(targets) - 1:
            wide.set_xlabel("z (mm)")
            near.set_xlabel("z (mm)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
