"""Figures of predictions over the training: lines and classes, with helpers for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studies.learners.training import Learner
from studies.records import Run
from studies.study import Batch, Parameters, Study

from .style import GREY, VERMILION, heading_of


def fitted_lines(figure: Figure, study: Study, run: Run, learner: Learner) -> None:
    """Draw data with one input and the lines of the model, coloured by epoch."""
    figure.set_size_inches(8.0, 5.6)
    ax = figure.subplots()
    ax.set_title(heading_of(study, run))
    x, y, _ = shown(study)
    ax.scatter(x, y, s=22, color=GREY, alpha=0.7, linewidths=0, label="data", zorder=2)
    ends = np.array([x.min(), x.max()], x.dtype)
    points = at_epochs(study, run)
    colours, bar = _epoch_colours(len(points))
    for epoch, parameters in enumerate(points):
        line = learner.outputs(parameters, ends)
        if np.isfinite(line).all():
            last = epoch == len(points) - 1
            ax.plot(
                ends,
                line,
                color=VERMILION if last else colours(epoch),
                linewidth=2.8 if last else 1.6,
                linestyle=(0, (4, 2)) if last else "-",
                label=f"after epoch {epoch}" if last else None,
                zorder=4 if last else 3,
            )
    margin = 0.25 * float(np.ptp(y))
    ax.set(xlabel="x", ylabel="y", ylim=(y.min() - margin, y.max() + margin))
    figure.colorbar(bar, ax=ax, label="epoch", ticks=MaxNLocator(integer=True)).minorticks_off()
    figure.legend(loc="outside lower center", ncols=2)


def class_probabilities(figure: Figure, study: Study, run: Run, learner: Learner) -> None:
    """Draw some held-out images, each with the class probabilities over the training."""
    images, targets, _ = shown(study)
    points = at_epochs(study, run)
    probabilities = np.stack([softmax(learner.outputs(p, images)) for p in points])
    columns = 2
    rows = -(-len(images) // columns)
    figure.set_size_inches(10.5, 1.2 + 1.95 * rows)
    figure.suptitle(f"{heading_of(study, run)}: held-out images", x=0.01, ha="left")
    grid = figure.add_gridspec(rows, 2 * columns, width_ratios=[1.0, 2.6] * columns)
    side = round(images.shape[1] ** 0.5)
    norm = Normalize(0.0, 1.0)
    maps: list[Axes] = []
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        row, column = divmod(i, columns)
        picture = figure.add_subplot(grid[row, 2 * column])
        picture.imshow(image.reshape(side, side), cmap="gray_r", interpolation="nearest")
        picture.set(xticks=[], yticks=[], ylabel=f"true: {target}")
        picture.grid(visible=False)
        picture.spines[:].set_visible(True)
        strip = figure.add_subplot(grid[row, 2 * column + 1])
        maps.append(strip)
        strip.grid(visible=False)
        classes = probabilities.shape[2]
        strip.imshow(
            probabilities[:, i].T,
            cmap="viridis",
            norm=norm,
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, len(points) - 0.5, classes - 0.5, -0.5),
        )
        strip.set_yticks(range(0, classes, 3))
        strip.plot(
            1.025,
            target,
            marker="<",
            markersize=8,
            linestyle="none",
            color=VERMILION,
            label="the true class",
            transform=strip.get_yaxis_transform(),
            clip_on=False,
        )
        verdict = _verdict(probabilities[-1, i], int(target))
        strip.set_title(verdict, fontsize=11, fontweight="normal", pad=4)
        strip.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        strip.set_ylabel("class")
        if row == rows - 1:
            strip.set_xlabel("epoch")
        else:
            strip.tick_params(labelbottom=False)
    figure.colorbar(
        ScalarMappable(norm, "viridis"), ax=maps, label="predicted probability", aspect=40
    )
    figure.legend(
        *(entries[:1] for entries in maps[0].get_legend_handles_labels()),
        loc="outside lower center",
    )


def softmax(outputs: np.ndarray) -> np.ndarray:
    """Return the class probabilities from the outputs of a model, in float64."""
    with np.errstate(all="ignore"):
        shifted = outputs.astype(np.float64) - outputs.max(axis=-1, keepdims=True)
        weights = np.exp(shifted)
        result: np.ndarray = weights / weights.sum(axis=-1, keepdims=True)
    return result


def _verdict(probabilities: np.ndarray, target: int) -> str:
    if not np.isfinite(probabilities).all():
        return "no prediction (not finite)"
    guess = int(np.argmax(probabilities))
    word = "right" if guess == target else "wrong"
    return f"prediction {guess} ({probabilities[guess]:.0%}): {word}"


def shown(study: Study) -> Batch:
    """Return the examples for the figure of predictions."""
    assert study.showcase is not None, "the study has no showcase"
    return study.showcase


def at_epochs(study: Study, run: Run) -> list[Parameters]:
    """Return the parameters at the start and after each epoch."""
    assert run.path is not None
    path = run.path.at_epochs(study.steps_per_epoch)
    return [path[i] for i in range(len(path))]


def _epoch_colours(count: int) -> tuple[Callable[[int], Any], ScalarMappable]:
    bounds = np.arange(-0.5, max(count, 2))
    norm = BoundaryNorm(bounds, 256)
    mappable = ScalarMappable(norm, "viridis")
    return lambda epoch: mappable.to_rgba(epoch), mappable
