"""The studies in the package, by name, and studies in files of the user."""

from __future__ import annotations

import inspect
import pathlib
import runpy
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Final

from optstudy_core.arrays.numbers import nearest
from studies.study import Study

STUDIES: Final = (
    "linear_regression",
    "digits",
    "digits_cnn",
    "allcnn",
    "allcnn_xy",
    "ddplus_kernel",
    "ddplus",
)
"""The studies; each is the module of this package with that name."""
QUICK: Final = ("linear_regression", "digits")
"""The studies that take seconds."""


def load(
    name: str,
    seed: int,
    data: pathlib.Path | None = None,
    events: int | None = None,
    *,
    epochs: int | None = None,
    pretrained: bool = False,
) -> Study:
    """Return a study.

    Args:
        name: one of :data:`STUDIES`, or a file ``*.py`` with a function ``study(seed)`` that
            returns a :class:`Study`.
        seed: the seed of all random numbers, ≥ 0.
        data: a file or folder with data of the user; ``None``: the data of the study.
        events: the number of events to generate; ``None``: the choice of the study.
        epochs: the number of epochs; ``None``: the choice of the study.
        pretrained: start from the trained parameters in the package.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the study is unknown, if it does not have an option, or if the data are
            damaged.
    """
    make = _maker(name)
    asked = {"data": data, "events": events, "pretrained": pretrained or None}
    options = {k: v for k, v in asked.items() if v is not None}
    for option, value in options.items():
        if option not in inspect.signature(make).parameters:
            raise ValueError(f"{option} = {str(value)!r}: {name} has no such option")
    made = make(seed, **options)
    if not isinstance(made, Study):
        raise ValueError(f"study = {name!r}: its function study returned {made!r}, not a Study")
    return made if epochs is None else replace(made, epochs=epochs)


def _maker(name: str) -> Callable[..., Study]:
    if not name.endswith(".py"):
        check_name(name)
        make: Callable[..., Study] = import_module(f"{__package__}.{name}").study
        return make
    if not pathlib.Path(name).is_file():
        raise FileNotFoundError(f"study = {name!r}: there is no such file")
    found = runpy.run_path(name).get("study")
    if not callable(found):
        raise ValueError(f"study = {name!r}: the file has no function study(seed)")
    return found


def check_name(name: str) -> str:
    """Return the name of a study, or the path of a file with one.

    Raises:
        ValueError: if the name is neither.
    """
    if name not in STUDIES and not name.endswith(".py"):
        raise ValueError(f"study = {name!r}: {nearest(name, STUDIES)}; or a file *.py")
    return name
