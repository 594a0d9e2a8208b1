"""An algorithm around another: the hyperparameters of both, and a state that holds the inner one.

Used by :mod:`~optstudy_core.cautious`, :mod:`~optstudy_core.lookahead` and
:mod:`~optstudy_core.averaged`; what they return goes wherever an :class:`Algorithm` goes:

    optstudy_torch.from_core(lookahead(ALGORITHMS["adam"]))(model.parameters(), lr=0.01)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .algorithm import Algorithm
from .terms import objective_gradient


def around(
    inner: Algorithm,
    name: str,
    init: Callable[[Any, Any], Any],
    update: Callable[..., tuple[Any, Any]],
    own: Mapping[str, Any],
    bibtex: tuple[str, ...],
) -> Algorithm:
    """Return an algorithm around ``inner``, with its dialects.

    Args:
        inner: what takes the steps.
        name: of what goes around it.
        init: the state from the inner state and the parameters.
        update: ``update(advance, state, g, params, **own)``, which returns the new state and step;
            ``advance(inner state)`` takes the inner step, and g is the gradient of what is
            minimized.
        own: its hyperparameters with their defaults.
        bibtex: its sources.

    Raises:
        TypeError: if both have a hyperparameter of the same name.
    """
    both = sorted(own.keys() & inner.defaults().keys())
    if both:
        raise TypeError(f"{name} of {inner.name!r}: both have {', '.join(both)}")

    def start(params: Any, **given: Any) -> Any:
        return init(inner.init(params, **given), params)

    def advance(state: Any, grad: Any, params: Any = None, **given: Any) -> tuple[Any, Any]:
        values = {k: given.pop(k, default) for k, default in own.items()}
        g = objective_gradient(grad, None, maximize=given.get("maximize", False))

        def take(state: Any) -> tuple[Any, Any]:
            return inner.update(state, grad, params, **given)

        return update(take, state, g, params, **values)

    def keywords(defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
        kind = inspect.Parameter.KEYWORD_ONLY
        return [inspect.Parameter(k, kind, default=x) for k, x in defaults.items()]

    start.__signature__ = inspect.signature(inner.init)  # type: ignore[attr-defined]
    theirs = inspect.signature(inner.update)
    advance.__signature__ = theirs.replace(  # type: ignore[attr-defined]
        parameters=[*theirs.parameters.values(), *keywords(own)]
    )
    advance.leafwise = inner.leafwise  # type: ignore[attr-defined]
    return Algorithm(
        f"{name}_{inner.name}",
        start,
        advance,
        inner.dialects,
        (*bibtex, *inner.bibtex),
        inner.check,
    )
