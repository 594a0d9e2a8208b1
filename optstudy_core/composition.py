"""An algorithm around another: the hyperparameters of both, and a state that holds the inner one.

Used by :mod:`~optstudy_core.cautious`, :mod:`~optstudy_core.lookahead`,
:mod:`~optstudy_core.averaged`, :mod:`~optstudy_core.sam` and :mod:`~optstudy_core.mechanic`; what
they return goes wherever an :class:`Algorithm` goes::

    optstudy_torch.from_core(lookahead(ALGORITHMS["adam"]))(model.parameters(), lr=0.01)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ._namespace import Array, namespace
from .algorithm import Algorithm
from .terms import objective_gradient


def around(
    inner: Algorithm,
    name: str,
    init: Callable[..., Any],
    update: Callable[..., tuple[Any, Any]],
    own: Mapping[str, Any],
    bibtex: tuple[str, ...],
) -> Algorithm:
    """Return an algorithm around ``inner``, with its dialects.

    Args:
        inner: what takes the steps.
        name: of what goes around it.
        init: the state from the inner state, the parameters and those of its own hyperparameters
            that it asks for.
        update: ``update(advance, state, g, params, **own)``, which returns the new state and step;
            ``advance(inner state)`` takes the inner step (``advance(inner state, elsewhere)`` from
            other parameters), and g is the gradient of what is minimized.
        own: its hyperparameters with their defaults.
        bibtex: its sources.

    Raises:
        TypeError: if both have a hyperparameter of the same name.
    """
    both = sorted(own.keys() & inner.defaults().keys())
    if both:
        raise TypeError(f"{name} of {inner.name!r}: both have {', '.join(both)}")

    def start(params: Any, **given: Any) -> Any:
        values = {k: given.pop(k, own[k]) for k in begins}
        return init(inner.init(params, **given), params, **values)

    def advance(state: Any, grad: Any, params: Any = None, **given: Any) -> tuple[Any, Any]:
        values = {k: given.pop(k, default) for k, default in own.items()}
        g = objective_gradient(grad, None, maximize=given.get("maximize", False))

        def take(state: Any, theta: Any = params) -> tuple[Any, Any]:
            return inner.update(state, grad, theta, **given)

        return update(take, state, g, params, **values)

    def keywords(defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
        kind = inspect.Parameter.KEYWORD_ONLY
        return [inspect.Parameter(k, kind, default=x) for k, x in defaults.items()]

    def with_keywords(function: Callable[..., Any], values: Mapping[str, Any]) -> inspect.Signature:
        theirs = inspect.signature(function)
        return theirs.replace(parameters=[*theirs.parameters.values(), *keywords(values)])

    begins = {k: own[k] for k in inspect.signature(init).parameters if k in own}
    start.__signature__ = with_keywords(inner.init, begins)  # type: ignore[attr-defined]
    advance.__signature__ = with_keywords(inner.update, own)  # type: ignore[attr-defined]
    advance.leafwise = inner.leafwise  # type: ignore[attr-defined]
    return Algorithm(
        f"{name}_{inner.name}",
        start,
        advance,
        inner.dialects,
        (*bibtex, *inner.bibtex),
        inner.check,
    )


def chosen(condition: Array, new: Any, old: Any) -> Any:
    """Return the fields of one state where ``condition``, a truth for each leaf, else the other's.

    A field that the old state has not (a term that comes late) is 0 there.

    >>> import numpy as np
    >>> chosen(np.bool_(False), (np.ones(2), None), (np.zeros(2), None))
    (array([0., 0.]), None)
    """
    if new is None:
        return None
    if isinstance(new, tuple):
        pairs = zip(new, [None] * len(new) if old is None else old, strict=True)
        fields = [chosen(condition, *pair) for pair in pairs]
        return type(new)(*fields) if hasattr(new, "_fields") else tuple(fields)
    xp = namespace(new)
    return xp.where(condition, new, xp.zeros_like(new) if old is None else old)
