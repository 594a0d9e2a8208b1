"""Sinks: objects that receive the rows of a recorder, besides a run.

A sink is called with one row. The row of an epoch has its number as ``epoch``; the row of a step
also has ``step``.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from optstudy_core._extras import extra

from ._extra import need_tensorboard
from ._rows import scalars_of
from ._tensorboard import Mirror

Sink = Callable[[dict[str, Any]], object]

NAMED: Final = ("wandb",)


def sink_of(sink: Any, config: Mapping[str, Any]) -> Sink:
    """Return the function to call with each row.

    Args:
        sink: a function; an object with ``log_metrics`` (a logger of Lightning) or ``log`` (an
            ``Accelerator``, one of its trackers, a run of Weights & Biases); or ``"wandb"``.
        config: the configuration of the run, for Weights & Biases.

    Raises:
        TypeError: for another object.
        ValueError: for another name.
        ModuleNotFoundError: if the package of a name is not installed.
    """
    if isinstance(sink, str):
        if sink not in NAMED:
            allowed = "callables, loggers and " + ", ".join(map(repr, NAMED))
            raise ValueError(f"sinks with {sink!r}: allowed are {allowed}")
        return WandB(config=config)
    if hasattr(sink, "define_metric"):
        return WandB(sink)
    for method in ("log_metrics", "log"):
        if callable(getattr(sink, method, None)):
            return _Logger(getattr(sink, method))
    if not callable(sink):
        raise TypeError(
            f"sinks with {sink!r}: allowed are callables of a row, loggers with log_metrics or "
            "log, and names"
        )
    found: Sink = sink
    return found


def kind_of(row: Mapping[str, Any]) -> str:
    """Return the kind of a row, ``"step"`` or ``"epoch"``."""
    return "step" if "step" in row else "epoch"


class _Logger:
    """Calls a logger with the numbers of a row.

    Loggers have one axis that only grows: the number of the step. The row of an epoch is logged at
    the last step with a row; without recorded steps, at the number of the epoch.
    """

    def __init__(self, log: Callable[..., object]) -> None:
        self._log = log
        self._last_step: int | None = None

    def __call__(self, row: dict[str, Any]) -> None:
        kind = kind_of(row)
        if kind == "step":
            self._last_step = row["step"]
        at = row["epoch"] if self._last_step is None else self._last_step
        self._log({"epoch": row["epoch"], **scalars_of(row, kind)}, step=at)


class WandB:
    """A sink for Weights & Biases, with one axis for epochs and one for steps.

    Args:
        run: a run of ``wandb.init``, which stays open; ``None``: start a run, and finish it when
            the recorder is closed. Environment variables configure it (``WANDB_PROJECT``,
            ``WANDB_MODE=offline``).
        config: the configuration of the new run.

    Raises:
        ModuleNotFoundError: if ``wandb`` is not installed.
    """

    def __init__(self, run: Any = None, *, config: Mapping[str, Any] | None = None) -> None:
        self._run, self._own = run, run is None
        if self._own:
            with extra("wandb"):
                import wandb

            self._run = wandb.init(config=dict(config or {}))
        for kind in ("epoch", "step"):
            self._run.define_metric(kind)
            self._run.define_metric(f"{kind}/*", step_metric=kind)

    def __call__(self, row: dict[str, Any]) -> None:
        kind = kind_of(row)
        self._run.log({kind: row[kind], **scalars_of(row, kind)})

    def close(self) -> None:
        """Finish the run, if it was started here."""
        if self._own:
            self._own = False
            self._run.finish()


class TensorBoard:
    """A sink that writes event files for TensorBoard, without a run (a run writes its own).

    Args:
        folder: the folder for the files; files of steps are in its subfolder ``steps``.

    Raises:
        ImportError: if ``tensorboard`` is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        need_tensorboard("")
        places = {"epoch": pathlib.Path(folder), "step": pathlib.Path(folder) / "steps"}
        self._mirrors = {
            kind: Mirror(place, kind, lambda _: [], None) for kind, place in places.items()
        }

    def __call__(self, row: dict[str, Any]) -> None:
        kind = kind_of(row)
        self._mirrors[kind].add([(row[kind], row)])

    def close(self) -> None:
        """Close the files; a later row starts a new file."""
        for mirror in self._mirrors.values():
            mirror.close()
