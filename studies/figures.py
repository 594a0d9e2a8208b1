"""The figures of a run, drawn from its record; they know no framework and no study by name.

Losses and outputs away from the recorded points come from a learner. What is not finite (a run
that diverged) is left out of a figure, never an error.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any, Final, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from optstudy_core import ALGORITHMS

from .methods import METHODS, PLAIN
from .pv_finder.efficiency import peaks
from .pv_finder.event import bin_centres
from .records import Run
from .study import Batch, Parameters, Study, stream

if TYPE_CHECKING:
    from .training import Learner
    from .twins import Twins

FORMATS: Final = ("png", "svg", "pdf")
FRAMEWORKS: Final = {"torch": "PyTorch", "jax": "JAX"}

BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
GREY: Final = "#666666"
HALO: Final = [withStroke(linewidth=3.5, foreground="white")]
RIGHT_ANGLE: Final = 90.0

# A path that climbs above this many times its first loss has left what one wants to see.
_CLIMB: Final = 1e2
_LEVELS: Final = 24


# All figures of a run, and of several.


def draw_run(
    study: Study,
    learner: Learner,
    run: Run,
    *,
    after_each: Callable[[], None] = lambda: None,
) -> list[pathlib.Path]:
    """Draw every figure of a run that ended into ``figures/`` of its folder.

    Args:
        study: what was trained.
        learner: of the run's framework, for losses and outputs.
        run: the record.
        after_each: called after each figure, for a progress bar.

    Returns:
        the PNG files.
    """
    landscape = Landscape.around(study, learner, run)
    drawings: dict[str, Callable[[Figure], None]] = {}
    if study.draw_predictions is not None:
        drawings["predictions"] = partial(
            study.draw_predictions, study=study, run=run, learner=learner
        )
    drawings |= {
        "parameters": lambda figure: path_on_contours(figure, study, run, landscape),
        "epoch_steps": lambda figure: epoch_steps(figure, study, run),
        "training_loss": lambda figure: training_loss(figure, study, run),
        "layers": lambda figure: layers(figure, study, run),
    }
    if landscape.exact:
        drawings["surface"] = lambda figure: surface(figure, study, run, landscape)
    drawn = []
    for name, draw in drawings.items():
        drawn.append(_save(run.folder / "figures", name, draw))
        after_each()
    return drawn


def number_of_figures(study: Study) -> int:
    """Return how many figures :func:`draw_run` makes."""
    return 4 + (study.draw_predictions is not None) + is_plane(study)


def draw_overview(study: Study, runs: Sequence[Run], folder: pathlib.Path) -> pathlib.Path:
    """Draw loss, step size and angle of several runs of a study; return the PNG file."""
    return _save(folder, "overview", lambda figure: overview(figure, study, runs))


def draw_twins(study: Study, pair: Twins, folder: pathlib.Path) -> pathlib.Path:
    """Draw where a training parts between the frameworks; return the PNG file."""
    return _save(folder, "twins", lambda figure: parting(figure, study, pair))


def _save(folder: pathlib.Path, name: str, draw: Callable[[Figure], None]) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        as_file(files(__package__) / "studies.mplstyle") as style,
        matplotlib.style.context(["default", style]),
    ):
        figure = Figure()
        draw(figure)
        # Laid out once, not for each format anew.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for form in FORMATS:
            # Without a date the same run gives the same file.
            notes = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
            figure.savefig(folder / f"{name}.{form}", metadata=notes)
    return folder / f"{name}.png"


# Epochs.


def training_loss(figure: Figure, study: Study, run: Run) -> None:
    """Draw the training loss over the epochs, and the metrics below it."""
    metrics = [n for n in run.rows[0] if n not in ROW] if run.rows else []
    panels = _stacked(figure, study, run, 1 + len(metrics))
    panels[0].plot(run.column("epoch"), run.column("loss"), marker="o", markersize=4)
    _loss_axis(panels[0], study, [run])
    for ax, name in zip(panels[1:], metrics, strict=True):
        ax.plot(run.column("epoch"), run.column(name), color=GREEN, marker="o", markersize=4)
        ax.set_ylabel(name.replace("_", " "))
    _note_divergence(panels[0], run)


def epoch_steps(figure: Figure, study: Study, run: Run) -> None:
    """Draw the size and the angle of the epoch steps, of all parameters and of each array."""
    size, turn = _stacked(figure, study, run, 2)
    epochs = run.column("epoch")
    layers = list(study.initial)
    few = ["C1", "C2", "C3", "C4", "C5"][: len(layers)]
    many = matplotlib.colormaps["cividis"](np.linspace(0.1, 0.85, len(layers)))
    shades: Any = few if len(few) == len(layers) else many
    for layer, shade in zip(layers, shades, strict=True):
        thin: dict[str, Any] = {"color": shade, "linewidth": 1.3, "label": layer}
        size.plot(epochs, run.layer_column(layer, "step_size"), **thin)
        if study.initial[layer].size > 1:  # a single number has no direction but its sign
            turn.plot(epochs, run.layer_column(layer, "angle"), **thin)
    thick: dict[str, Any] = {
        "color": BLUE,
        "marker": "o",
        "markersize": 4,
        "label": "all parameters",
    }
    size.plot(epochs, run.column("step_size"), **thick)
    turn.plot(epochs, run.column("angle"), **thick)
    _size_axis(size, [run])
    _angle_axis(turn)
    handles, labels = size.get_legend_handles_labels()
    first = [handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]]
    figure.legend(*first, loc="outside lower center", ncols=min(3, len(labels)))
    _note_divergence(size, run)


def parting(figure: Figure, study: Study, pair: Twins) -> None:
    """Draw distance, angle and difference of loss of two trainings, and whose they are."""
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
    loss.set_ylabel("training losses\ndiffer by")
    gradients = [e.gradients.relative for e in pair.epochs]
    part.plot(epochs, gradients, **line | {"color": VERMILION, "label":
        "gradients at the same parameters, relative to their length"})  # fmt: skip
    part.plot(epochs, [e.optimizer.ulp for e in pair.epochs], **line | {"color": GREEN, "label":
        "optimizers fed the same gradients, largest difference in ulp"})  # fmt: skip
    part.set_ylabel("of it, whose?")
    for ax in (distance, turn, loss, part):
        _from_zero(ax)
    part.set_xlabel("epoch")
    part.set_xlim(0.5, max([1, *epochs]) + 0.5)
    part.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(*part.get_legend_handles_labels(), loc="outside lower center", ncols=1)


def _from_zero(ax: Axes) -> None:
    """Make the axis logarithmic above the smallest positive number drawn, and linear to 0."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    positive = drawn[np.isfinite(drawn) & (drawn > 0)]
    if not len(positive):
        ax.set_ylim(-0.05, 1.0)
        return
    # Decades from the smallest number on; 0 one step below them.
    smallest = 10.0 ** np.floor(np.log10(positive.min()))
    ax.set_yscale("symlog", linthresh=smallest, linscale=0.5)
    top = 10.0 ** np.ceil(np.log10(positive.max()) + 0.1)
    ax.set_ylim(-0.15 * smallest, top)
    decades = np.arange(np.log10(smallest), np.log10(top) + 0.5)
    ax.set_yticks([0.0, *10.0 ** decades[:: max(1, len(decades) // 4)]])
    ax.yaxis.set_minor_locator(NullLocator())


def layers(figure: Figure, study: Study, run: Run) -> None:
    """Draw step size and angle of each array of parameters over the epochs, as heat maps."""
    names = list(study.initial)
    figure.set_size_inches(9.0, 2.4 + 2 * max(1.2, 0.32 * len(names)))
    panels = figure.subplots(2, 1, sharex=True)
    panels[0].set_title(_heading(study, run))
    with np.errstate(invalid="ignore"):
        sizes = np.stack([run.layer_column(name, "step_size") for name in names])
        sizes = np.ma.masked_invalid(np.where(sizes > 0, sizes, np.nan))
    turns = np.ma.masked_invalid(np.stack([run.layer_column(name, "angle") for name in names]))
    epochs = len(run.rows)
    whole = sizes.count() > 0
    shown: list[tuple[Any, Any, str]] = [
        (sizes, LogNorm(sizes.min(), max(sizes.max(), 1.001 * sizes.min())) if whole else None,
         "epoch step size ‖Δ‖"),
        (turns, Normalize(0.0, 180.0), "angle to the previous\nepoch step (degrees)"),
    ]  # fmt: skip
    for ax, (values, norm, label) in zip(panels, shown, strict=True):
        ax.grid(visible=False)
        drawn = ax.imshow(
            values, aspect="auto", interpolation="nearest", norm=norm, cmap="viridis",
            extent=(0.5, epochs + 0.5, len(names) - 0.5, -0.5),
        )  # fmt: skip
        ax.set_yticks(range(len(names)), names, fontsize=9)
        figure.colorbar(drawn, ax=ax, label=label)
    _epoch_axis(panels[-1], [run])


def overview(figure: Figure, study: Study, runs: Sequence[Run]) -> None:
    """Draw loss, step size and angle of several runs above each other."""
    figure.set_size_inches(8.0, 9.5)
    loss, size, turn = figure.subplots(3, 1, sharex=True)
    names = list(dict.fromkeys(map(_trained_with, runs)))
    loss.set_title(f"{study.title}: {_joined(names)}")
    both = len({run.config["backend"] for run in runs}) > 1
    for run in runs:
        backend = run.config["backend"]
        look: dict[str, Any] = {
            "color": f"C{names.index(_trained_with(run))}",
            "label": f"{_trained_with(run)}, {FRAMEWORKS[backend]}",
        }
        if both:  # dashes above a wider pale line: both stay visible where they coincide
            look |= _BELOW if backend == "torch" else _ABOVE
        epochs = run.column("epoch")
        loss.plot(epochs, run.column("loss"), **look)
        size.plot(epochs, run.column("step_size"), **look)
        turn.plot(epochs, run.column("angle"), **look)
    _loss_axis(loss, study, runs)
    _size_axis(size, runs)
    _angle_axis(turn)
    _epoch_axis(turn, runs)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))


def draw_comparison(
    study: Study, heading: str, runs: Mapping[str, Sequence[Run]], folder: pathlib.Path
) -> list[pathlib.Path]:
    """Draw each kind of training against the first, and all of them small beside each other.

    Args:
        study: what was trained.
        heading: what the trainings have in common.
        runs: by label, of all frameworks and seeds.
        folder: for the figures.

    Returns:
        the PNG files.
    """
    others = list(runs)[1:]
    if not others:
        return []
    words: dict[str, Any] = {"study": study, "heading": heading, "runs": runs}
    drawings = {
        "overview": partial(small_multiples, **words),
        "evaluations": partial(small_multiples, **words, over="evaluations"),
    }
    if len(others) <= _MANY:
        for label in others:
            drawings[_file_name(label)] = partial(against_first, **words, label=label)
    return [_save(folder, name, draw) for name, draw in drawings.items()]


_MANY: Final = 12
"""Up to so many kinds of training have a figure each, beside the small ones of all."""


def against_first(
    figure: Figure, study: Study, heading: str, runs: Mapping[str, Sequence[Run]], label: str
) -> None:
    """Draw loss, rate factor, angle and step size of a training, and those of the first."""
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
    _loss_axis(loss, study, shown)
    factor.set_ylabel("factor on the\nlearning rate")
    factors = [run.column("method/lr_factor").max(initial=1.0) for run in shown]
    factor.set_ylim(0.0, 1.1 * max(factors))
    _angle_axis(turn)
    _size_axis(size, shown)
    _epoch_axis(size, shown)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, title=_of_seeds(shown))


def small_multiples(
    figure: Figure,
    study: Study,
    heading: str,
    runs: Mapping[str, Sequence[Run]],
    over: Literal["epochs", "evaluations"] = "epochs",
) -> None:
    """Draw the loss of every kind of training, each in a small panel with that of the first.

    Args:
        figure: is drawn on.
        study: what was trained.
        heading: what the trainings have in common.
        runs: by label.
        over: ``epochs``, or the evaluations that the training took: of the gradient over all
            training data (one an epoch) and of the loss over all training data, counted alike.
    """
    first, *others = runs
    columns = min(3, len(others))
    rows = -(-len(others) // columns)
    figure.set_size_inches(max(6.5, 4.0 * columns), 2.2 + 2.5 * rows)
    figure.suptitle(f"{heading}: beside {first}", x=0.01, ha="left")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shown = [run for several in runs.values() for run in several]
    across = _epochs_of if over == "epochs" else evaluations
    for i, ax in enumerate(panels.flat):
        if i >= len(others):
            ax.set_visible(False)
            continue
        name = others[i]
        ax.set_title(name, fontsize=12)
        for label, colour in ((first, GREY), (name, BLUE)):
            word = first if label == first else "the panel's"
            for several, look in _looks(runs[label], colour, word):
                _band(ax, several, across, "loss", look)
            for run in runs[label]:
                _mark_undone(ax, run, colour, label=False, across=across)
        _logarithmic(ax, [run.column("loss") for run in shown])
        last_row = i + columns >= len(others)
        if last_row:
            ax.tick_params(labelbottom=True)
        ax.set_xlabel(_ACROSS[over] if last_row else "")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
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
    """Return how many evaluations over all training data a run took, up to each epoch's loss.

    One of the gradient an epoch, and those of the loss that the method asked for at the end of the
    epochs before.
    """
    asked = run.column("method/evaluations")
    result: np.ndarray = run.column("epoch") + np.cumsum(asked) - asked
    return result


def _epochs_of(run: Run) -> np.ndarray:
    return run.column("epoch")


_ACROSS: Final = {
    "epochs": "epoch",
    "evaluations": "evaluations of the gradient and the loss",
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
    return f"median of {len(seeds)} seeds, and all between the extremes" if len(seeds) > 1 else None


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.]+", "_", label.casefold()).strip("_")


def _looks(
    runs: Sequence[Run], colour: str, word: str
) -> Iterator[tuple[list[Run], dict[str, Any]]]:
    """Yield the runs of each framework with how they are drawn; two both stay visible."""
    by_framework: dict[str, list[Run]] = {}
    for run in runs:
        by_framework.setdefault(run.config["backend"], []).append(run)
    for backend, several in by_framework.items():
        look: dict[str, Any] = {"color": colour, "label": f"{word}, {FRAMEWORKS[backend]}"}
        if len(by_framework) > 1:
            look |= _BELOW if backend == "torch" else _ABOVE
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


_BELOW: Final = {"linewidth": 4.5, "alpha": 0.4}
_ABOVE: Final = {"linewidth": 1.8, "linestyle": (0, (3, 2))}
ROW: Final = frozenset({"epoch", "steps", "loss", "step_size", "angle", "layers", "method"})
"""What every row of a run has; everything else is a metric of the study."""


def _stacked(figure: Figure, study: Study, run: Run, count: int) -> list[Axes]:
    """Return panels above each other over the epochs."""
    figure.set_size_inches(8.0, 2.2 + 2.5 * count)
    panels: list[Axes] = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    panels[0].set_title(_heading(study, run))
    _epoch_axis(panels[-1], [run])
    return panels


def _epoch_axis(ax: Axes, runs: Sequence[Run]) -> None:
    ax.set_xlabel("epoch")
    ax.set_xlim(0.5, max([1, *(len(run.rows) for run in runs)]) + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _loss_axis(ax: Axes, study: Study, runs: Sequence[Run]) -> None:
    ax.set_ylabel(f"training loss per mini-batch\n{study.loss_label}")
    _logarithmic(ax, [run.column("loss") for run in runs])


def _size_axis(ax: Axes, runs: Sequence[Run]) -> None:
    ax.set_ylabel("epoch step size\n‖Δ‖")
    _logarithmic(ax, [run.column("step_size") for run in runs])


def _angle_axis(ax: Axes) -> None:
    ax.set_ylabel("angle to the previous\nepoch step (degrees)")
    ax.set_ylim(-5, 185)
    ax.set_yticks([0, 45, 90, 135, 180])
    ax.axhline(RIGHT_ANGLE, color=GREY, linewidth=1.0, linestyle=":", zorder=1)


def _logarithmic(ax: Axes, columns: Sequence[np.ndarray]) -> None:
    """Make the axis logarithmic if the finite values are positive and there are any."""
    values = np.concatenate([np.empty(0), *columns])
    values = values[np.isfinite(values)]
    if len(values) and (values > 0).all():
        ax.set_yscale("log")
        if values.max() < 1e3 * values.min():  # few decades: label within them
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())


def _note_divergence(ax: Axes, run: Run) -> None:
    bad = ~np.isfinite(run.column("loss"))
    if bad.any():
        first = int(run.column("epoch")[bad][0])
        note = f"loss not finite from epoch {first} on"
        ax.set_title(note, loc="right", fontsize=11, fontweight="normal", color=VERMILION)


# Predictions over training: one function for each kind of study.


def fitted_lines(figure: Figure, study: Study, run: Run, learner: Learner) -> None:
    """Draw data of one input and the model's lines, coloured by epoch."""
    figure.set_size_inches(8.0, 5.6)
    ax = figure.subplots()
    ax.set_title(_heading(study, run))
    x, y, _ = _shown(study)
    ax.scatter(x, y, s=22, color=GREY, alpha=0.7, linewidths=0, label="data", zorder=2)
    ends = np.array([x.min(), x.max()], x.dtype)
    points = _epochs(study, run)
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
    """Draw some held-out images, and beside each what the model takes it for over training."""
    images, targets, _ = _shown(study)
    points = _epochs(study, run)
    probabilities = np.stack([softmax(learner.outputs(p, images)) for p in points])
    columns = 2
    rows = -(-len(images) // columns)
    figure.set_size_inches(10.5, 1.2 + 1.95 * rows)
    figure.suptitle(f"{_heading(study, run)}: held-out images", x=0.01, ha="left")
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
    """Return the probabilities of classes from a model's outputs, in float64."""
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
    return f"takes it for {guess} ({probabilities[guess]:.0%}): {word}"


def vertex_histograms(figure: Figure, study: Study, run: Run, learner: Learner) -> None:
    """Draw the true and the predicted histograms of vertices of some events, and a part enlarged.

    The truth points up and the prediction down, so that both can be seen where they agree.
    """
    inputs, targets, _ = _shown(study)
    outputs = learner.outputs(_epochs(study, run)[-1], inputs)
    z = bin_centres()
    figure.set_size_inches(11.0, 1.3 + 2.5 * len(targets))
    figure.suptitle(f"{_heading(study, run)}: held-out events", x=0.01, ha="left")
    grid = figure.subplots(len(targets), 2, width_ratios=[2.6, 1.0], squeeze=False, sharey="row")
    for i, (wide, near) in enumerate(grid):
        truth, guess = np.nan_to_num(targets[i]), np.nan_to_num(outputs[i])
        top = 1.15 * max(truth.max(), 0.05)
        middle = z[int(truth.argmax())]
        for ax in (wide, near):
            if inputs.shape[1:] == (1, len(z)):
                shape = inputs[i, 0] / max(inputs[i, 0].max(), 1e-9) * top
                ax.fill_between(z, shape, color="0.85", linewidth=0, label="kernel (its own scale)")
            ax.fill_between(z, truth, step="mid", color=GREEN, linewidth=0.6, label="truth")
            ax.fill_between(z, -guess, step="mid", color=BLUE, linewidth=0.6, label="prediction")
            places = peaks(outputs[i])
            ax.plot(places, np.full(len(places), -0.97 * top), "^", color=VERMILION,
                    markersize=6, linestyle="none", label="found peaks")  # fmt: skip
            ax.axhline(0.0, color="black", linewidth=0.6)
            ax.set_ylim(-top, top)
            ax.yaxis.set_major_locator(MaxNLocator(5))
            ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        wide.set(xlim=(z[0], z[-1]), ylabel="vertices a bin")
        near.set_xlim(middle - 8.0, middle + 8.0)
        if i == 0:
            near.set_title("enlarged", fontsize=12)
        if i == len(targets) - 1:
            wide.set_xlabel("z (mm)")
            near.set_xlabel("z (mm)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


# The loss around a path.


@dataclass(frozen=True)
class Landscape:
    """The training loss on a plane, and the path on it.

    Attributes:
        labels: of the two axes.
        exact: whether the plane is all there is (two parameters), no projection.
        path: coordinates of the points that are shown, shape (points, 2).
        heights: their losses; on a projection, those of the points themselves.
        at_epochs: which of them are the ends of epochs (and the start).
        left: the number of points not shown because the path climbs away.
        u: coordinates of the grid along the first axis.
        v: along the second.
        losses: on the grid, shape (v, u); NaN where not finite.
    """

    labels: tuple[str, str]
    exact: bool
    path: np.ndarray
    heights: np.ndarray
    at_epochs: np.ndarray
    left: int
    u: np.ndarray
    v: np.ndarray
    losses: np.ndarray

    @classmethod
    def around(
        cls,
        study: Study,
        learner: Learner,
        run: Run,
        along: Literal["path", "filters"] = "path",
    ) -> Landscape:
        """Evaluate the loss over the training data around the path of a run that ended.

        With two parameters the plane is theirs. With more it goes through the last point shown,
        in directions as in Li et al. 2018, Visualizing the Loss Landscape of Neural Nets.

        Args:
            study: what was trained.
            learner: for the losses.
            run: the record.
            along: ``path``: the first two principal directions of the path seen from its end
                (section 7 there); ``filters``: two random directions, each filter as long as the
                network's (section 4), onto which the path is projected.
        """
        assert run.path is not None
        steps = study.steps_per_epoch if run.path.every == "step" else 1
        examples = study.train if study.landscape is None else study.landscape
        heights = np.array([learner.loss(run.path[i], examples) for i in range(len(run.path))])
        shown = _leading(heights)
        heights = heights[:shown]
        points = run.path.matrix(study.initial)[:shown]
        exact = is_plane(study)
        if exact:
            names = list(study.initial)
            labels = (names[0], names[1])
            origin, directions = np.zeros(2), np.eye(2)
        elif along == "filters":
            origin = points[-1]
            directions = filter_normalised(study, _unflatten(origin, study.initial))
            labels = ("a filter-normalised direction", "another")
        else:
            origin = points[-1]
            directions, shares = principal_directions(points - origin)
            labels = (_direction("first", shares[0]), _direction("second", shares[1]))
        # Random directions are all but orthogonal: the projection is that of least squares.
        path = (points - origin) @ np.linalg.pinv(directions)
        whole = np.array([[-1.0, -1.0], [1.0, 1.0]]) if along == "filters" and not exact else path
        u, v = _window(whole, equal=exact, grid=study.grid)

        def loss_at(a: float, b: float) -> float:
            vector = origin + a * directions[0] + b * directions[1]
            return learner.loss(_unflatten(vector, study.initial), examples)

        losses = np.array([[loss_at(a, b) for a in u] for b in v])
        losses[~np.isfinite(losses)] = np.nan
        return cls(
            labels=labels,
            exact=exact,
            path=path,
            heights=heights,
            at_epochs=np.arange(0, shown, steps),
            left=len(run.path) - shown,
            u=u,
            v=v,
            losses=losses,
        )

    @property
    def norm(self) -> LogNorm:
        """The colours of the losses."""
        finite = self.losses[np.isfinite(self.losses) & (self.losses > 0)]
        if not len(finite):
            return LogNorm(0.5, 2.0)
        low, high = float(finite.min()), float(finite.max())
        return LogNorm(low, max(high, 1.001 * low))


def draw_paths(
    study: Study, learner: Learner, runs: Mapping[str, Run], folder: pathlib.Path
) -> pathlib.Path:
    """Draw the paths of runs of two parameters, each small on the same contours; return the PNG."""
    return _save(folder, "paths", lambda figure: paths(figure, study, learner, runs))


def paths(figure: Figure, study: Study, learner: Learner, runs: Mapping[str, Run]) -> None:
    """Draw the paths of several runs of two parameters."""
    columns = min(6, len(runs))
    rows = -(-len(runs) // columns)
    figure.set_size_inches(max(6.0, 2.6 * columns), 1.2 + 2.6 * rows)
    figure.suptitle(f"{study.title}: the path with each, over the loss", x=0.01, ha="left")
    points = {label: _path_matrix(study, run) for label, run in runs.items()}
    ends = np.stack([next(iter(points.values()))[0], *_best_end(runs, points)])
    middle, reach = ends.mean(axis=0), 1.05 * np.ptp(ends, axis=0).max()
    u, v = (np.linspace(m - reach, m + reach, 2 * study.grid + 1) for m in middle)
    examples = study.train if study.landscape is None else study.landscape
    heights = np.array(
        [
            [learner.loss(_unflatten(np.array([a, b]), study.initial), examples) for a in u]
            for b in v
        ]
    )
    levels = np.geomspace(heights.min(), heights.max(), _LEVELS)
    names = list(study.initial)
    for i, (label, path) in enumerate(points.items()):
        ax = figure.add_subplot(rows, columns, i + 1)
        ax.set_title(label, fontsize=10, pad=4)
        ax.grid(visible=False)
        filled = ax.contourf(u, v, heights, levels=levels, norm=LogNorm(), cmap="viridis")
        filled.set_rasterized(True)
        ax.plot(*path.T, color=VERMILION, linewidth=1.3, path_effects=HALO, zorder=3)
        ax.scatter(
            path[:1, 0],
            path[:1, 1],
            s=40,
            color="white",
            edgecolors="black",
            linewidths=0.8,
            zorder=5,
        )
        ax.scatter(
            path[-1:, 0], path[-1:, 1], s=90, marker="*", color="#F0E442", edgecolors="black",
            linewidths=0.8, zorder=5,
        )  # fmt: skip
        ax.set(xlim=(u[0], u[-1]), ylim=(v[0], v[-1]))
        ax.tick_params(labelsize=8)
        ax.set_xlabel(names[0] if i + columns >= len(runs) else "", fontsize=10)
        ax.set_ylabel(names[1] if i % columns == 0 else "", fontsize=10)
    figure.legend(*_dots("start", "end"), loc="outside lower center", ncols=2)


def _dots(start: str, end: str) -> tuple[list[Line2D], list[str]]:
    """Return the legend of a path's ends."""
    look: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black"}
    first = Line2D([], [], marker="o", markersize=7, color="white", **look)
    last = Line2D([], [], marker="*", markersize=12, color="#F0E442", **look)
    return [first, last], [start, end]


def _path_matrix(study: Study, run: Run) -> np.ndarray:
    assert run.path is not None
    return run.path.matrix(study.initial)


def _best_end(runs: Mapping[str, Run], points: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the end of the run with the lowest loss, if one is finite."""
    finite = {k: run.loss for k, run in runs.items() if run.loss is not None}
    finite = {k: loss for k, loss in finite.items() if np.isfinite(loss)}
    return [points[min(finite, key=finite.__getitem__)][-1]] if finite else []


def path_on_contours(figure: Figure, study: Study, run: Run, landscape: Landscape) -> None:
    """Draw the path of the parameters over contours of the training loss."""
    figure.set_size_inches(8.0, 6.6)
    ax = figure.subplots()
    ax.set_title(_heading(study, run))
    ax.grid(visible=False)
    norm = landscape.norm
    assert norm.vmin is not None
    assert norm.vmax is not None
    levels = np.geomspace(norm.vmin, norm.vmax, _LEVELS)
    field = np.ma.masked_invalid(landscape.losses)
    filled = ax.contourf(
        landscape.u, landscape.v, field, levels=levels, norm=norm, cmap="viridis", zorder=0
    )
    filled.set_rasterized(True)  # else the SVG shows seams between the levels
    ax.contour(
        landscape.u, landscape.v, field, levels=levels[::2], colors="white", linewidths=0.5,
        alpha=0.6, zorder=1,
    )  # fmt: skip
    x, y = landscape.path.T
    ax.plot(x, y, color=VERMILION, linewidth=1.8, path_effects=HALO, zorder=3)
    at = landscape.at_epochs
    ax.scatter(
        x[at], y[at], s=20, color=VERMILION, edgecolors="white", linewidths=0.7, zorder=4,
        label="ends of epochs",
    )  # fmt: skip
    ends: dict[str, Any] = {"s": 130, "edgecolors": "black", "linewidths": 1.0, "zorder": 5}
    ax.scatter(x[:1], y[:1], marker="o", color="white", label="start", **ends)
    if not landscape.left:
        ax.scatter(x[-1:], y[-1:], marker="*", color="#F0E442", label="end", **ends | {"s": 260})
    ax.set(xlabel=landscape.labels[0], ylabel=landscape.labels[1])
    bar = figure.colorbar(filled, ax=ax, label=f"loss over all training data, {study.loss_label}")
    _tidy_bar(bar, norm)
    note = (
        f"The loss explodes: {landscape.left} later points are outside." if landscape.left else None
    )
    figure.legend(loc="outside lower center", ncols=3, title=note)


def surface(figure: Figure, study: Study, run: Run, landscape: Landscape) -> None:
    """Draw the loss as a surface over two parameters, with the path on it."""
    figure.set_size_inches(8.0, 6.4)
    figure.suptitle(_heading(study, run), x=0.02, ha="left")
    ax: Any = figure.add_subplot(projection="3d", computed_zorder=False)
    u, v = np.meshgrid(landscape.u, landscape.v)
    height = np.nan_to_num(landscape.losses, nan=float(np.nanmax(landscape.losses, initial=1.0)))
    drawn = ax.plot_surface(
        u, v, height, cmap="viridis", norm=landscape.norm, rcount=study.grid, ccount=study.grid,
        linewidth=0, antialiased=False, alpha=0.9, zorder=0,
    )  # fmt: skip
    drawn.set_rasterized(True)
    x, y = landscape.path.T
    at = landscape.at_epochs
    z = landscape.heights
    ax.plot(x, y, z, color=VERMILION, linewidth=2.2, path_effects=HALO, zorder=2)
    ax.scatter(
        x[:1], y[:1], z[:1], s=110, color="white", edgecolors="black", depthshade=False, zorder=4,
        label="start",
    )  # fmt: skip
    ax.scatter(
        x[at], y[at], z[at], s=20, color=VERMILION, edgecolors="white", linewidths=0.6,
        depthshade=False, zorder=3, label="ends of epochs",
    )  # fmt: skip
    ax.set_xlabel(landscape.labels[0], labelpad=8)
    ax.set_ylabel(landscape.labels[1], labelpad=8)
    ax.set_zlabel(f"loss over all training data, {study.loss_label}", labelpad=18)
    ax.tick_params(axis="z", pad=6)
    ax.view_init(elev=32, azim=-55)
    ax.set_box_aspect((1.0, 1.0, 0.75), zoom=0.95)
    figure.legend(loc="outside lower center", ncols=2)


def principal_directions(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal directions of points seen from 0, and their shares.

    Args:
        points: shape (n, d), finite, d ≥ 2.

    Returns:
        directions of shape (2, d), orthonormal, and the share of Σ‖point‖² along each.

    >>> directions, shares = principal_directions(np.array([[0.0, 3.0, 0.0], [0.0, 1.0, 0.0]]))
    >>> abs(directions[0]).round(6).tolist(), shares.round(6).tolist()
    ([0.0, 1.0, 0.0], [1.0, 0.0])
    """
    rows = np.zeros((max(2, len(points)), points.shape[1]))
    rows[: len(points)] = points
    _, lengths, directions = np.linalg.svd(rows, full_matrices=False)
    # The sign is arbitrary: the path starts on the positive side.
    signs = np.where(directions[:2] @ rows[0] < 0, -1.0, 1.0)
    energy = lengths**2
    shares = energy[:2] / energy.sum() if energy.sum() > 0 else np.zeros(2)
    return directions[:2] * signs[:, None], shares


def filter_normalised(study: Study, parameters: Parameters) -> np.ndarray:
    """Return two random directions whose filters are as long as the parameters'.

    d ← d/‖d‖·‖θ‖ for each filter (the weights of one output of a layer); 0 for biases.

    Args:
        study: whose seed the directions are drawn from.
        parameters: θ.

    Returns:
        shape (2, all parameters), float64.
    """
    random = stream(study.seed, "directions")
    directions = []
    for _ in range(2):
        parts = []
        for name in study.initial:
            value = parameters[name].astype(np.float64)
            drawn = random.standard_normal(value.shape)
            if value.ndim < 2:
                parts.append(np.zeros(value.size))
                continue
            rows, random_rows = value.reshape(len(value), -1), drawn.reshape(len(value), -1)
            lengths = (np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, random_rows))
            parts.append((random_rows * np.divide(*lengths)).ravel())
        directions.append(np.concatenate(parts))
    return np.stack(directions)


def _leading(heights: np.ndarray) -> int:
    """Return how many points from the start are finite and not far above the first; at least 1."""
    with np.errstate(invalid="ignore"):
        fine = np.isfinite(heights) & (heights <= _CLIMB * heights[0])
    return max(1, len(fine) if fine.all() else int(np.argmin(fine)))


def _window(path: np.ndarray, *, equal: bool, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the grid's coordinates around a path."""
    low, high = path.min(axis=0), path.max(axis=0)
    spread = high - low
    spread = np.maximum(spread, (1.0 if equal else 0.25) * spread.max())
    spread = np.where(spread > 0, spread, 1.0)  # a path that stands still
    middle, reach = (low + high) / 2, 0.65 * spread
    u, v = (np.linspace(m - r, m + r, grid) for m, r in zip(middle, reach, strict=True))
    return u, v


def _direction(ordinal: str, share: float) -> str:
    if share == 0:
        return "a direction across the path"
    return f"{ordinal} principal direction of the path\n({share:.0%} of its variation)"


def is_plane(study: Study) -> bool:
    """Return whether a study has two parameters, so that its whole training can be seen."""
    return sum(value.size for value in study.initial.values()) == 2


def _unflatten(vector: np.ndarray, like: Any) -> Parameters:
    parts: Parameters = {}
    begin = 0
    with np.errstate(over="ignore"):
        for name, value in like.items():
            part = vector[begin : begin + value.size]
            parts[name] = part.reshape(value.shape).astype(value.dtype)
            begin += value.size
    return parts


def _tidy_bar(bar: Any, norm: LogNorm) -> None:
    assert norm.vmin is not None
    assert norm.vmax is not None
    decades = np.log10(norm.vmax / norm.vmin)
    bar.locator = LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,))
    bar.formatter = "{x:g}"
    bar.minorticks_off()
    bar.update_ticks()


# Words and colours.


def _shown(study: Study) -> Batch:
    assert study.showcase is not None, "nothing to show predictions of"
    return study.showcase


def _epochs(study: Study, run: Run) -> list[Parameters]:
    """Return the parameters at the start and after each epoch."""
    assert run.path is not None
    path = run.path.at_epochs(study.steps_per_epoch)
    return [path[i] for i in range(len(path))]


def _epoch_colours(count: int) -> tuple[Callable[[int], Any], ScalarMappable]:
    bounds = np.arange(-0.5, max(count, 2))
    norm = BoundaryNorm(bounds, 256)
    mappable = ScalarMappable(norm, "viridis")
    return lambda epoch: mappable.to_rgba(epoch), mappable


def title(algorithm: str) -> str:
    """Return the name of an algorithm for headings."""
    return ALGORITHMS[algorithm].title


def _heading(study: Study, run: Run) -> str:
    config = run.config
    return f"{study.title}, {_trained_with(run)}, {FRAMEWORKS[config['backend']]}"


def _trained_with(run: Run) -> str:
    name, method = title(run.config["algorithm"]), run.config["method"]
    return name if method == PLAIN else f"{name} with {METHODS[method].title}"


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
