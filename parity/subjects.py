"""What the suite tests: algorithms, wrapped or not, and epoch methods, by name."""

from __future__ import annotations

import functools
from typing import Final

from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from optstudy_core.arrays.numbers import nearest
from optstudy_core.catalogue.table import find

from . import epochs as epoch_methods
from .epochs import EpochMethod

EPOCH: Final = "epoch."
"""What the name of an epoch method begins with."""

Subject = Algorithm | EpochMethod
"""The subjects that the suite tests."""


def find_subject(name: str | Subject) -> Subject:
    """Return an algorithm by its name, or an epoch method by ``epoch.NAME``.

    An algorithm may be wrapped, once or several times: ``averaged_lookahead_adam``.

    Raises:
        ValueError: if the name is unknown.
    """
    if isinstance(name, EpochMethod):
        return name
    if isinstance(name, str) and name.startswith(EPOCH):
        method = name.removeprefix(EPOCH)
        if method not in epoch_methods.METHODS:
            known = [EPOCH + m for m in epoch_methods.METHODS]
            raise ValueError(f"epoch method = {name!r}: {nearest(name, known)}")
        return epoch_methods.METHODS[method]
    return find(name) if isinstance(name, Algorithm) else _named(name)


@functools.cache
def _named(name: str) -> Algorithm:
    for outer in sorted(WRAPPERS, key=len, reverse=True):  # clipped_by_value is not clipped
        if name.startswith(f"{outer}_"):
            return WRAPPERS[outer](_named(name.removeprefix(f"{outer}_")))
    return find(name)


def everything() -> list[str]:
    """Return the names of all subjects that the command tests by default.

    These are all algorithms, all wrappers around Adam, nested wrappers, and all epoch methods.
    """
    wrapped = [f"{wrapper}_adam" for wrapper in WRAPPERS]
    return [*ALGORITHMS, *wrapped, *NESTED, *(EPOCH + method for method in epoch_methods.METHODS)]


NESTED = (
    "averaged_skipping_accumulated_clipped_adamw",
    "lookahead_clipped_by_value_cautious_clipped_by_unit_sgd",
    "mechanic_sam_lion",
)
"""Nested wrappers; each wrapper appears once."""


def subject_name(subject: Subject) -> str:
    """Return the name of a subject for :func:`find_subject`."""
    return EPOCH + subject.name if isinstance(subject, EpochMethod) else subject.name
