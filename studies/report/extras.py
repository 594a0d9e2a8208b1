"""The parts of the page that need the model of a run: the loss around the path, predictions."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from typing import Any, Final

import numpy as np

from studies import figures, records
from studies.learners import training
from studies.problems.pv_finder.drawing import vertex_histograms
from studies.problems.pv_finder.event import bin_centres
from studies.study import Study

from .runs import numbers
from .source import checked, study_of

FILE: Final = "report.npz"
"""The file in the folder of a run with computed results, which saves time in the next report."""
_ALONG: Final = ("path", "filters")


@dataclass(frozen=True)
class Extras:
    """The computed results of a run.

    Attributes:
        landscapes: the losses around the path, by the choice of directions.
        truth: true histograms of some held-out events, shape (events, bins), or empty.
        prediction: predicted histograms of the same events.
    """

    landscapes: dict[str, figures.Landscape]
    truth: np.ndarray
    prediction: np.ndarray

    def page(self) -> dict[str, Any]:
        """Return the results for the page, as JSON values."""
        return {
            "landscapes": {
                name: {
                    "labels": [" ".join(label.split("\n")) for label in shown.labels],
                    "u": numbers(shown.u),
                    "v": numbers(shown.v),
                    "losses": numbers(shown.losses),
                    "path": numbers(shown.path),
                    "heights": numbers(shown.heights),
                    "at_epochs": shown.at_epochs.tolist(),
                }
                for name, shown in self.landscapes.items()
            },
            "z": numbers(bin_centres()) if self.truth.size else [],
            "truth": numbers(self.truth),
            "prediction": numbers(self.prediction),
        }


def of(run: records.Run, files: Mapping[str, str] | None = None) -> Extras | None:
    """Return the computed results of a finished run; ``None`` for a run without a study.

    The results are computed once. Later calls read them from the folder of the run.

    Args:
        run: the run.
        files: files of studies that the user named, by name; other files are not executed.

    Raises:
        OSError, ValueError: if the study cannot be loaded.
    """
    file = run.folder / FILE
    newest = max(f.stat().st_mtime for f in (run.folder / "checkpoints").iterdir())
    if file.is_file() and file.stat().st_mtime > newest:
        try:
            return _read(file)
        except (OSError, ValueError, KeyError):
            pass  # another version, or incomplete: compute again
    made = _compute(run, files or {})
    if made is not None:
        with suppress(OSError):  # a read-only folder is fine
            _write(file, made)
    return made


def _compute(run: records.Run, files: Mapping[str, str]) -> Extras | None:
    if "source" not in run.config or run.path is None:
        return None
    config = checked(run.config)
    study = study_of(config, files)
    optimizer = training.Optimizer(
        config["algorithm"], config["lr"], config["dialect"], config["method"]
    )
    installed = training.installed_backends()
    backend = config["backend"] if config["backend"] in installed else installed[0]
    learner = training.make_learner(backend, study, optimizer)
    around: Callable[..., figures.Landscape] = figures.Landscape.around
    landscapes = {"path": around(study, learner, run)}
    if not landscapes["path"].exact:
        landscapes["filters"] = around(study, learner, run, "filters")
    truth, prediction = _histograms(study, learner, run)
    return Extras(landscapes, truth, prediction)


def _histograms(
    study: Study, learner: training.Learner, run: records.Run
) -> tuple[np.ndarray, np.ndarray]:
    none = np.empty((0, 0))
    if study.draw_predictions is not vertex_histograms or study.showcase is None:
        return none, none
    assert run.parameters is not None
    outputs = learner.outputs(run.parameters, study.showcase.inputs)
    return np.asarray(study.showcase.targets, np.float64), np.asarray(outputs, np.float64)


def _write(file: pathlib.Path, made: Extras) -> None:
    arrays: dict[str, Any] = {"truth": made.truth, "prediction": made.prediction}
    for name, landscape in made.landscapes.items():
        for field, value in zip(fields(landscape), astuple(landscape), strict=True):
            arrays[f"{name}/{field.name}"] = value
    # Rename a new file, because an existing file could be a link to another place.
    temporary = file.with_name(f"{FILE}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as stream:
            np.savez_compressed(stream, **arrays)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _read(file: pathlib.Path) -> Extras:
    with np.load(file, allow_pickle=False) as arrays:
        landscapes = {
            name: figures.Landscape(
                **{
                    field.name: _plain(field.name, arrays[f"{name}/{field.name}"])
                    for field in fields(figures.Landscape)
                }
            )
            for name in _ALONG
            if f"{name}/u" in arrays
        }
        return Extras(landscapes, arrays["truth"], arrays["prediction"])


def _plain(name: str, value: np.ndarray) -> Any:
    if name == "labels":
        return tuple(value.tolist())
    return value.item() if name in {"exact", "left"} else value
