"""The class of algorithms, for the adapters, the parity suite and the documentation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from optstudy_core.arrays.numbers import nearest

from .hyperparameters import check_value

INPUTS: Mapping[str, bool] = {"value": False, "hessian": True}
"""The inputs that a rule may need besides the gradient, and whether each is like the parameters.

``value`` is the loss at the point of the gradient, a scalar. ``hessian`` is an estimate of the
diagonal of the Hessian. Both are keyword arguments of ``update``. A required input has no default;
an optional one has the default ``None``.
"""


@dataclass(frozen=True, eq=False)
class Algorithm:
    """An update rule as a pure function, with the information that the adapters need.

    Args:
        name: the name of the algorithm, in lower case.
        init: ``init(params, **some of the hyperparameters) -> state``, a NamedTuple.
        update: ``update(state, grad, params, *, hyperparameters) -> (state, step)``; every
            hyperparameter is a keyword argument with a default, except for :data:`INPUTS`.
        dialects: for each dialect, a mapping of the values that differ from the defaults.
        bibtex: keys of the sources in ``references.bib``.
        check: ``check(hyperparameters, dialect)`` refuses combinations of hyperparameters. Single
            values are checked by their names.
        check_shape: ``check_shape(shape, dialect)`` raises ``ValueError`` if the library of the
            dialect does not accept parameters of this shape. The classes call it.
        elsewhere: the names of the fields of the state in other libraries, by the class of the
            optimizer (``torch.optim.Adam``) or of its state (``optax.ScaleByAdamState``).

    Raises:
        TypeError: if the functions do not have this form.
        ValueError: if the name is no identifier.

    >>> from typing import NamedTuple
    >>> class State(NamedTuple):
    ...     b: object
    >>> def init(params):
    ...     return State(b=0 * params)
    >>> def update(state, grad, params=None, *, lr=0.1, momentum=0.9):
    ...     b = momentum * state.b + grad
    ...     return State(b), -lr * b
    >>> Algorithm("heavy_ball", init, update).defaults()
    {'lr': 0.1, 'momentum': 0.9}
    """

    name: str
    init: Callable[..., Any]
    update: Callable[..., tuple[Any, Any]]
    dialects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bibtex: tuple[str, ...] = ()
    check: Callable[[dict[str, Any], str | None], None] | None = None
    check_shape: Callable[[tuple[int, ...], str | None], None] | None = None
    elsewhere: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"name = {self.name!r}: allowed are Python identifiers")
        keywords = self._hyperparameters
        without = [p.name for p in keywords if p.default is p.empty]
        if without:
            raise TypeError(
                f"update of {self.name!r} has hyperparameters without a default: "
                f"{', '.join(without)}"
            )
        known = {p.name for p in keywords}
        for dialect, values in self.dialects.items():
            for key in values:
                if key not in known:
                    raise TypeError(
                        f"dialect {dialect!r} of {self.name!r} sets {key!r}; {nearest(key, known)}"
                    )

    @staticmethod
    def _keywords(function: Callable[..., Any]) -> list[inspect.Parameter]:
        parameters = inspect.signature(function).parameters.values()
        return [p for p in parameters if p.kind is p.KEYWORD_ONLY]

    @cached_property
    def _hyperparameters(self) -> list[inspect.Parameter]:
        return [p for p in self._keywords(self.update) if p.name not in INPUTS]

    @cached_property
    def inputs(self) -> Mapping[str, bool]:
        """The :data:`INPUTS` that an update takes, and whether each is required."""
        keywords = self._keywords(self.update)
        return {p.name: p.default is p.empty for p in keywords if p.name in INPUTS}

    @cached_property
    def _update_defaults(self) -> dict[str, Any]:
        return {p.name: p.default for p in self._hyperparameters}

    @cached_property
    def _init_arguments(self) -> frozenset[str]:
        return frozenset(p.name for p in self._keywords(self.init))

    @property
    def title(self) -> str:
        """The name of the class, from the name of the state (``AMSGrad`` of ``AMSGradState``)."""
        name = self.state_type.__name__
        return name.removesuffix("State") or self.name.replace("_", " ").title().replace(" ", "")

    @cached_property
    def state_type(self) -> type:
        """The type of the state, found by a call of ``init`` for a small matrix."""
        return type(self.skeleton(self.defaults()))

    @property
    def leafwise(self) -> bool:
        """Whether the formula depends on the shape of a leaf (:mod:`optstudy_core.leafwise`)."""
        return getattr(self.update, "leafwise", False)

    @property
    def one_by_one(self) -> bool:
        """Whether the formula has a condition on a leaf, and so gets one leaf at a time."""
        return getattr(self.update, "one_by_one", False)

    @property
    def has_sums(self) -> bool:
        """Whether elements depend on each other, through norms or means of a leaf or of all."""
        return bool(self._uses.sums)

    @property
    def has_global_sums(self) -> bool:
        """Whether leaves depend on each other."""
        return True in self._uses.sums

    @property
    def has_matrices(self) -> bool:
        """Whether the rule has products, roots or eigenvectors of whole matrices."""
        return bool(self._uses.matrices)

    @cached_property
    def _uses(self) -> Any:
        from . import trial  # loaded at first use, for a short start-up

        return trial.uses(self)

    def check_formula(self) -> None:
        """Refuse common mistakes in a rule of one's own, with what to write instead.

        Raises:
            TypeError: if the update calls a function of a library on arrays, or does not return a
                state like that of ``init`` and a step.
        """
        from . import trial

        trial.check(self)

    def skeleton(self, hyperparameters: Mapping[str, Any]) -> Any:
        """Return the state for a small matrix, which shows the structure of the state.

        Args:
            hyperparameters: of :meth:`resolve`.
        """
        from . import trial

        return trial.first_state(self, hyperparameters)

    def defaults(self, dialect: str | None = None) -> dict[str, Any]:
        """Return the hyperparameters of a dialect.

        Args:
            dialect: the name of the dialect; ``None`` for the defaults of ``update``.

        Raises:
            ValueError: if the dialect is unknown.
        """
        if dialect is None:
            return dict(self._update_defaults)
        if dialect not in self.dialects:
            raise ValueError(
                f"dialect = {dialect!r} for {self.name!r}: {nearest(str(dialect), self.dialects)}"
            )
        return self._update_defaults | dict(self.dialects[dialect])

    @property
    def default_dialect(self) -> str | None:
        """The dialect of the defaults: ``"torch"`` if torch has the algorithm, else the first."""
        return "torch" if "torch" in self.dialects else next(iter(self.dialects), None)

    def differing(self) -> set[str]:
        """Return the hyperparameters whose default depends on the dialect."""
        return {key for values in self.dialects.values() for key in values}

    def resolve(self, dialect: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all hyperparameters: given values, and defaults of the dialect for the others.

        Args:
            dialect: as for :meth:`defaults`.
            given: a mapping of values by name; a value of ``None`` stands for the default.

        Raises:
            TypeError: for an unknown name or a value of the wrong kind.
            ValueError: for a value out of range or an unknown dialect.
        """
        values = self.defaults(dialect)
        for name, value in given.items():
            if name not in values:
                raise TypeError(f"{self.name} has no argument {name!r}; {nearest(name, values)}")
            if value is not None:
                check_value(name, value, values[name], dialect)
                values[name] = _plain(value)
        if values.get("cautious_decay") and values.get("decoupled_weight_decay") is False:
            raise ValueError("cautious_decay = True: allowed with decoupled_weight_decay = True")
        if self.check is not None:
            self.check(values, dialect)
        return values

    def check_inputs(self, given: Iterable[str], how: str = "") -> None:
        """Refuse unknown and missing inputs.

        Args:
            given: the names of the given inputs.
            how: the end of the message, which tells how to pass the inputs.

        Raises:
            TypeError: if a required input of :attr:`inputs` is missing, or if one is unknown.
        """
        known = set(given)
        for name in sorted(known - self.inputs.keys()):
            allowed = nearest(name, self.inputs) if self.inputs else "it takes the gradient only"
            raise TypeError(f"{self.name} has no input {name!r}; {allowed}")
        missing = [name for name, required in self.inputs.items() if required and name not in known]
        if missing:
            raise TypeError(f"{self.name} without {', '.join(missing)}{how}")

    def start(self, params: Any, hyperparameters: Mapping[str, Any]) -> Any:
        """Return the first state: call ``init`` with the hyperparameters that it takes.

        Args:
            params: an array, or the ``Leaves`` of an adapter.
            hyperparameters: of :meth:`resolve`.
        """
        wanted = {k: v for k, v in hyperparameters.items() if k in self._init_arguments}
        return self.init(params, **wanted)


def _plain(value: Any) -> Any:
    """Return a value as formulas expect it: a list (a tuple that was read from a file) as tuple."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
