"""The problems that come with the package, by name, and those in a file of the user's."""

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
"""Those that take seconds."""


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
        seed: for everything that is drawn at random, ≥ 0.
        data: a file or folder with the user's data; ``None``: the study's own.
        events: how many events to generate; ``None``: the study's choice.
        epochs: how many to train; ``None``: the study's choice.
        pretrained: begin with the parameters that were trained before.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such study, if it takes no such option, or for data that are not
            what they should be.
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
        ValueError: for anything else.
    """
    if name not in STUDIES and not name.endswith(".py"):
        raise ValueError(f"study = {name!r}: {nearest(name, STUDIES)}; or a file *.py")
    return name
