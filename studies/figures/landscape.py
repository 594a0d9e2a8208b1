"""Figures of the loss around a path, and of paths on the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from studies.learners.training import Learner
from studies.records import Run
from studies.study import Parameters, Study, stream

from .style import HALO, VERMILION, heading_of

# Points are not shown once the loss exceeds this many times the first loss.
_CLIMB: Final = 1e2
_LEVELS: Final = 24


@dataclass(frozen=True)
class Landscape:
    """The training loss on a plane, and the path on it.

    Attributes:
        labels: the labels of the two axes.
        exact: whether the plane has all parameters (two), without projection.
        path: the coordinates of the shown points, shape (points, 2).
        heights: the losses at the points, before any projection.
        at_epochs: the indices of the start and of the ends of epochs.
        left: the number of points that are not shown because the loss explodes.
        u: the coordinates of the grid along the first axis.
        v: the coordinates of the grid along the second axis.
        losses: the losses on the grid, shape (v, u); NaN where not finite.
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
        """Evaluate the loss over the training data around the path of a finished run.

        Two parameters span the plane. With more parameters the plane goes through the last shown
        point, in directions as in Li et al. 2018, Visualizing the Loss Landscape of Neural Nets.

        Args:
            study: the study of the run.
            learner: a learner, for the losses.
            run: the record.
            along: ``path``: the first two principal directions of the path relative to its end
                (section 7 of Li et al.); ``filters``: two random directions with the filter norms
                of the network (section 4). The path is projected onto the plane.
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
        # Random directions are not exactly orthogonal: project by least squares.
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
        """The colour scale of the losses."""
        finite = self.losses[np.isfinite(self.losses) & (self.losses > 0)]
        if not len(finite):
            return LogNorm(0.5, 2.0)
        low, high = float(finite.min()), float(finite.max())
        return LogNorm(low, max(high, 1.001 * low))


def paths(figure: Figure, study: Study, learner: Learner, runs: Mapping[str, Run]) -> None:
    """Draw the paths of several runs of two parameters."""
    columns = min(6, len(runs))
    rows = -(-len(runs) // columns)
    figure.set_size_inches(max(6.0, 2.6 * columns), 1.2 + 2.6 * rows)
    figure.suptitle(f"{study.title}: the path with each, over the loss", x=0.01, ha="left")
    points = {label: _path_matrix(study, run) for label, run in runs.items()}
    ends = np.stack([next(iter(points.values()))[0], *_best_end(runs, points)])
    reach = np.full(2, 1.05 * np.ptp(ends, axis=0).max())
    u, v = _grid(ends.mean(axis=0), reach, 2 * study.grid + 1)
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
    """Return the legend of the ends of a path."""
    look: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black"}
    first = Line2D([], [], marker="o", markersize=7, color="white", **look)
    last = Line2D([], [], marker="*", markersize=12, color="#F0E442", **look)
    return [first, last], [start, end]


def _path_matrix(study: Study, run: Run) -> np.ndarray:
    assert run.path is not None
    return run.path.matrix(study.initial)


def _best_end(runs: Mapping[str, Run], points: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the end of the run with the lowest loss, if any loss is finite."""
    finite = {k: run.loss for k, run in runs.items() if run.loss is not None}
    finite = {k: loss for k, loss in finite.items() if np.isfinite(loss)}
    return [points[min(finite, key=finite.__getitem__)][-1]] if finite else []


def path_on_contours(figure: Figure, study: Study, run: Run, landscape: Landscape) -> None:
    """Draw the path of the parameters over contours of the training loss."""
    figure.set_size_inches(8.0, 6.6)
    ax = figure.subplots()
    ax.set_title(heading_of(study, run))
    ax.grid(visible=False)
    norm = landscape.norm
    assert norm.vmin is not None
    assert norm.vmax is not None
    levels = np.geomspace(norm.vmin, norm.vmax, _LEVELS)
    field = np.ma.masked_invalid(landscape.losses)
    filled = ax.contourf(
        landscape.u, landscape.v, field, levels=levels, norm=norm, cmap="viridis", zorder=0
    )
    filled.set_rasterized(True)  # otherwise the SVG shows seams between the levels
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
    """Draw the loss as a surface over two parameters, with the path."""
    figure.set_size_inches(8.0, 6.4)
    figure.suptitle(heading_of(study, run), x=0.02, ha="left")
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
    """Return the first two principal directions of points relative to 0, and their shares.

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
    # The sign is arbitrary; choose a path that starts on the positive side.
    signs = np.where(directions[:2] @ rows[0] < 0, -1.0, 1.0)
    energy = lengths**2
    shares = energy[:2] / energy.sum() if energy.sum() > 0 else np.zeros(2)
    return directions[:2] * signs[:, None], shares


def filter_normalised(study: Study, parameters: Parameters) -> np.ndarray:
    """Return two random directions with the filter norms of the parameters.

    d ← d/‖d‖·‖θ‖ for each filter (the weights of one output of a layer); 0 for biases.

    Args:
        study: the study, for the seed of the directions.
        parameters: θ.

    Returns:
        an array of shape (2, all parameters), float64.
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
    """Return the number of leading points with a finite loss not far above the first, ≥ 1."""
    with np.errstate(invalid="ignore"):
        fine = np.isfinite(heights) & (heights <= _CLIMB * heights[0])
    return max(1, len(fine) if fine.all() else int(np.argmin(fine)))


def _window(path: np.ndarray, *, equal: bool, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of the grid around a path."""
    low, high = path.min(axis=0), path.max(axis=0)
    spread = high - low
    spread = np.maximum(spread, (1.0 if equal else 0.25) * spread.max())
    spread = np.where(spread > 0, spread, 1.0)  # a path without movement
    return _grid((low + high) / 2, 0.65 * spread, grid)


def _grid(middle: np.ndarray, reach: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of a grid along its two axes."""
    u, v = (np.linspace(m - r, m + r, points) for m, r in zip(middle, reach, strict=True))
    return u, v


def _direction(ordinal: str, share: float) -> str:
    if share == 0:
        return "a direction across the path"
    return f"{ordinal} principal direction of the path\n({share:.0%} of its variation)"


def is_plane(study: Study) -> bool:
    """Return whether a study has two parameters, so that a plane shows the whole training."""
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
