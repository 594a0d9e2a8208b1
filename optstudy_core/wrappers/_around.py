"""An algorithm around another: the hyperparameters of both, and a state that holds the inner one.

A wrapper takes an :class:`~optstudy_core.Algorithm` and returns one, which goes wherever an
algorithm goes::

    optstudy_torch.from_core(lookahead(ALGORITHMS["adam"]))(model.parameters(), lr=0.01)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from optstudy_core.parts.terms import objective_gradient


class Wrappable(Protocol):
    """What a wrapper needs of an algorithm: a dataclass with these fields."""

    __dataclass_fields__: Any

    @property
    def name(self) -> str: ...
    @property
    def init(self) -> Callable[..., Any]: ...
    @property
    def update(self) -> Callable[..., tuple[Any, Any]]: ...
    @property
    def bibtex(self) -> tuple[str, ...]: ...
    @property
    def leafwise(self) -> bool: ...
    def defaults(self) -> dict[str, Any]: ...


Rule = TypeVar("Rule", bound=Wrappable)


def around(
    inner: Rule,
    name: str,
    init: Callable[..., Any],
    update: Callable[..., tuple[Any, Any]],
    own: Mapping[str, Any],
    bibtex: tuple[str, ...],
    evaluate: Callable[..., Any] | None = None,
) -> Rule:
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
        evaluate: an average of the weights in its own state; one of ``inner`` is of other steps.

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
    advance.one_by_one = inner.one_by_one  # type: ignore[attr-defined]
    return replace(  # type: ignore[type-var]
        inner,
        name=f"{name}_{inner.name}",
        init=start,
        update=advance,
        bibtex=(*bibtex, *inner.bibtex),
        elsewhere={},
        evaluate=evaluate,
    )
