"""The path of an algorithm on three functions of two variables, as a picture."""

from __future__ import annotations

import ast
import hashlib
import os
import pathlib
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from rich.progress import track

from optstudy_core import ALGORITHMS, Algorithm
from studies import processes

STEPS = 300
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
CAPTION = (
    f"{STEPS} steps in float64 with the exact gradient: on a narrow bowl (x² + 30·y²)/2, on the "
    "Rosenbrock function {cite:p}`rosenbrock1960automatic` and on the Beale function "
    "{cite:p}`beale1958iterative`. Of nine learning rates from 1e-4 to 1, the picture has the one "
    "with the lowest end; other arguments are defaults. ○ start, ★ end, + minimum."
)
FOR_MATRICES = ("adafactor", "adamuon", "muon", "normuon", "soap")
"""Algorithms that use another algorithm for vectors."""
MATRIX = "Here (x, y) is a matrix of one row, because vectors would use another algorithm."
CHOSEN = {"shampoo": {"update_interval": 10.0}}
"""Arguments without which a picture takes minutes."""
_GOLDEN = pathlib.Path(__file__).parents[2] / "tests" / "golden"
STYLE = pathlib.Path(__file__).parents[2] / "studies" / "figures" / "studies.mplstyle"


@dataclass(frozen=True)
class Function:
    """A function of two variables to descend."""

    title: str
    value: Callable[[Any, Any], Any]
    gradient: Callable[[float, float], tuple[float, float]]
    start: tuple[float, float]
    minimum: tuple[float, float]
    window: tuple[float, float, float, float]


def _beale_parts(x: Any, y: Any) -> tuple[Any, Any, Any]:
    return 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3


def _beale_gradient(x: float, y: float) -> tuple[float, float]:
    a, b, c = _beale_parts(x, y)
    return (
        2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1),
        2 * a * x + 4 * b * x * y + 6 * c * x * y**2,
    )


FUNCTIONS = (
    Function(
        "Narrow bowl",
        lambda x, y: (x**2 + 30 * y**2) / 2,
        lambda x, y: (x, 30 * y),
        (-2.0, 0.8), (0.0, 0.0), (-2.5, 1.0, -1.2, 1.2),
    ),
    Function(
        "Rosenbrock",
        lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
        lambda x, y: (-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)),
        (-1.2, 1.0), (1.0, 1.0), (-1.8, 1.6, -0.7, 2.2),
    ),
    Function(
        "Beale",
        lambda x, y: sum(part**2 for part in _beale_parts(x, y)),
        _beale_gradient,
        (1.0, 1.6), (3.0, 0.5), (-0.5, 4.2, -1.2, 2.2),
    ),
)  # fmt: skip


def walk(algorithm: Algorithm, function: Function, lr: float, steps: int = STEPS) -> np.ndarray:
    """Return the points from the start on, shape (steps + 1, 2); fewer if the path diverges."""
    values = algorithm.defaults() | CHOSEN.get(algorithm.name, {}) | {"lr": lr}
    theta = np.array(function.start)
    shape = (1, 2) if algorithm.name in FOR_MATRICES else (2,)
    points = [theta]
    state = algorithm.start(theta.reshape(shape), values)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            gradient = np.array(function.gradient(*theta))
            given = {
                "value": np.array(function.value(*theta)),
                "hessian": _curvature(function, theta),
            }
            own = {name: given[name] for name in algorithm.inputs}
            state, step = algorithm.update(
                state, gradient.reshape(shape), theta.reshape(shape), **own, **values
            )
            theta = theta + step.reshape(2)
            if not (np.isfinite(theta).all() and np.abs(theta).max() < 1e3):
                break
            points.append(theta)
    return np.stack(points)


def _curvature(function: Function, theta: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """Return the diagonal of the Hessian, from differences of gradients."""
    ups, downs = ([function.gradient(*(theta + s * h * e)) for e in np.eye(2)] for s in (1, -1))
    return np.array([(ups[i][i] - downs[i][i]) / (2 * h) for i in range(2)])


def best(algorithm: Algorithm, function: Function) -> tuple[float, np.ndarray]:
    """Return the learning rate of the path with the lowest end, and the path."""
    found = [(lr, walk(algorithm, function, lr)) for lr in RATES]
    whole = [entry for entry in found if len(entry[1]) == STEPS + 1] or found[:1]
    return min(whole, key=lambda entry: float(function.value(*entry[1][-1])))


def caption(algorithm: Algorithm) -> str:
    """Return the text below the picture."""
    sentences = [CAPTION]
    if algorithm.name in FOR_MATRICES:
        sentences.append(MATRIX)
    chosen = CHOSEN.get(algorithm.name, {})
    sentences += [f"Here `{name}` is {value:g}." for name, value in chosen.items()]
    return " ".join(sentences)


def draw_all(folder: pathlib.Path) -> None:
    """Draw the pictures that a folder lacks, on all cores."""
    # Matrix products take longest: their pictures come first, so that no core waits at the end.
    slowest_first = sorted(ALGORITHMS, key=lambda name: not ALGORITHMS[name].has_matrices)
    missing = []
    for name in slowest_first:
        file, mark = folder / f"{name}.svg", _mark(name)
        if not (file.is_file() and file.read_text(encoding="utf-8").endswith(mark)):
            missing.append((name, file, mark))
    if not missing:
        return
    with processes.pool(min(len(missing), os.cpu_count() or 1)) as pool:
        drawn = as_completed([pool.submit(draw, *picture) for picture in missing])
        for future in track(drawn, "Pictures of paths", total=len(missing)):
            future.result()


def _mark(name: str) -> str:
    """Return a comment that changes with the rule and with this file."""
    # The golden bits change if and only if the rule changes.
    bits = sorted(_GOLDEN.glob(f"{name}-*.json"))
    text = _code(pathlib.Path(__file__)) + "".join(file.read_text("utf-8") for file in bits)
    return f"<!-- {hashlib.sha256((text + name).encode()).hexdigest()} -->"


def draw(name: str, file: pathlib.Path, mark: str) -> None:
    """Draw the picture of an algorithm; the mark ends the file."""
    algorithm = ALGORITHMS[name]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(11.0, 3.9))
        for ax, function in zip(figure.subplots(1, 3), FUNCTIONS, strict=True):
            _panel(ax, function, *best(algorithm, function))
        figure.savefig(file, format="svg", metadata={"Date": None})
    file.write_text(file.read_text(encoding="utf-8") + mark, encoding="utf-8")


def _code(file: pathlib.Path) -> str:
    """Return the syntax tree of a file, without comments and docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    return ast.dump(tree)


def _panel(ax: Any, function: Function, lr: float, points: np.ndarray) -> None:
    left, right, bottom, top = function.window
    x, y = np.meshgrid(np.linspace(left, right, 120), np.linspace(bottom, top, 120))
    heights = np.log10(function.value(x, y) + 1e-3)
    ax.grid(visible=False)
    filled = ax.contourf(x, y, heights, levels=18, cmap="viridis")
    filled.set_rasterized(True)
    halo = [withStroke(linewidth=3.2, foreground="white")]
    ax.plot(*points.T, color="#D55E00", linewidth=1.6, path_effects=halo, zorder=3)
    around = {"edgecolors": "black", "linewidths": 0.9, "zorder": 5}
    ax.scatter(*points[:1].T, s=70, color="white", **around)
    ax.scatter(*points[-1:].T, s=150, marker="*", color="#F0E442", **around)
    ax.plot(*function.minimum, "+", color="white", markersize=12, markeredgewidth=2.2, zorder=4)
    ax.set(xlim=(left, right), ylim=(bottom, top), xlabel="x", ylabel="y")
    ax.set_title(f"{function.title}, lr = {lr:g}", fontsize=11)
