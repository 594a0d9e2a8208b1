"""The optimizer of a training: update rule, hyperparameters and epoch method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optstudy_core import ALGORITHMS
from optstudy_core.arrays.numbers import nearest
from optstudy_core.catalogue.table import find
from studies.study import Study

from .methods import METHODS, PLAIN, Method


@dataclass(frozen=True)
class Optimizer:
    """An update rule with the same hyperparameters in both frameworks.

    Attributes:
        algorithm: a name in ``optstudy_core.ALGORITHMS``.
        lr: learning rate.
        dialect: the library of the formulas; ``None``: the default of the algorithm.
        method: a name in :data:`studies.learners.methods.METHODS`.
    """

    algorithm: str
    lr: float
    dialect: str | None = None
    method: str = PLAIN

    @classmethod
    def of(
        cls,
        study: Study,
        algorithm: str,
        lr: float | None,
        dialect: str | None,
        method: str = PLAIN,
        *,
        lr_factor: float = 1.0,
    ) -> Optimizer:
        """Return the optimizer, with the learning rate of the study if ``lr`` is ``None``.

        The rate is multiplied by ``lr_factor``.

        Raises:
            ValueError: for an unknown algorithm, dialect or method, or a rate that is not allowed.
        """
        if method not in METHODS:
            raise ValueError(f"method = {method!r}: {nearest(method, METHODS)}")
        rule = find(algorithm)
        default = rule.defaults(dialect)["lr"]
        if lr is None:
            lr = study.learning_rates.get(algorithm, default)
        lr = lr_factor * lr
        rule.resolve(dialect, {"lr": lr})
        return cls(algorithm, float(lr), dialect, method)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All hyperparameters, by the names of ``optstudy_core``."""
        return ALGORITHMS[self.algorithm].resolve(self.dialect, {"lr": self.lr})

    @property
    def at_the_end(self) -> Method:
        """The method at the end of an epoch."""
        return METHODS[self.method]

    @property
    def name(self) -> str:
        """The algorithm and, if there is one, the method."""
        return self.algorithm if self.method == PLAIN else f"{self.algorithm}_{self.method}"
