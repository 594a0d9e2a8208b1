"""An algorithm around another, with the hyperparameters of both and a state with the inner state.

A wrapper takes an :class:`~optstudy_core.Algorithm` and returns another, for use wherever an
algorithm is allowed::

    optstudy_torch.from_core(lookahead(ALGORITHMS["adam"]))(model.parameters(), lr=0.01)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from optstudy_core.parts.terms import objective_gradient


class Wrappable(Protocol):
    """The interface of algorithms for wrappers: a dataclass with these fields."""

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
    @property
    def dialects(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def inputs(self) -> Mapping[str, bool]: ...
    def defaults(self) -> dict[str, Any]: ...


Rule = TypeVar("Rule", bound=Wrappable)


def around(
    inner: Rule,
    name: str,
    init: Callable[..., Any],
    update: Callable[..., tuple[Any, Any]],
    own: Mapping[str, Any],
    bibtex: tuple[str, ...],
    *,
    dialects: Mapping[str, Mapping[str, Any]] | None = None,
    looks_at: tuple[str, ...] = (),
    leafwise: bool = False,
) -> Rule:
    """Return an algorithm around ``inner``, with its dialects.

    Args:
        inner: the algorithm that takes the steps.
        name: the name of the wrapper.
        init: a function of the inner state, the parameters and, as needed, hyperparameters of the
            wrapper, which returns the state.
        update: ``update(advance, state, g, params, **own)``, which returns the new state and the
            step. ``advance(inner state)`` takes the inner step, ``advance(inner state, elsewhere)``
            from other parameters, ``advance(inner state, gradient=other)`` with another gradient.
            g is the gradient of the minimized function.
        own: the hyperparameters of the wrapper with defaults.
        bibtex: the sources of the wrapper.
        dialects: hyperparameters of the wrapper in dialects of the inner algorithm, if not ``own``.
        leafwise: whether the wrapper reads the shapes of leaves.
        looks_at: other inputs of ``update`` besides the gradient; ``None`` if there are none.

    Raises:
        TypeError: if both have a hyperparameter with the same name.
    """
    both = sorted(own.keys() & inner.defaults().keys())
    if both:
        raise TypeError(f"{name} of {inner.name!r}: both have {', '.join(both)}")

    def start(params: Any, **given: Any) -> Any:
        values = {k: given.pop(k, own[k]) for k in begins}
        return init(inner.init(params, **given), params, **values)

    def advance(state: Any, grad: Any, params: Any = None, **given: Any) -> tuple[Any, Any]:
        values = {k: given.pop(k, default) for k, default in own.items()}
        values |= {k: given.get(k) for k in looks_at}
        given = {k: x for k, x in given.items() if k in inner.inputs or k not in looks_at}
        maximize = given.get("maximize", False)

        def take(state: Any, theta: Any = params, gradient: Any = None) -> tuple[Any, Any]:
            changed = None if gradient is None else objective(gradient)
            return inner.update(state, grad if changed is None else changed, theta, **given)

        def objective(x: Any) -> Any:
            return objective_gradient(x, None, maximize=maximize)

        return update(take, state, objective(grad), params, **values)

    def keywords(defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
        kind = inspect.Parameter.KEYWORD_ONLY
        return [inspect.Parameter(k, kind, default=x) for k, x in defaults.items()]

    def with_keywords(function: Callable[..., Any], values: Mapping[str, Any]) -> inspect.Signature:
        theirs = inspect.signature(function)
        return theirs.replace(parameters=[*theirs.parameters.values(), *keywords(values)])

    begins = {k: own[k] for k in inspect.signature(init).parameters if k in own}
    start.__signature__ = with_keywords(inner.init, begins)  # type: ignore[attr-defined]
    more = dict.fromkeys(k for k in looks_at if k not in inner.inputs)
    advance.__signature__ = with_keywords(inner.update, {**own, **more})  # type: ignore[attr-defined]
    advance.leafwise = leafwise or inner.leafwise  # type: ignore[attr-defined]
    advance.one_by_one = inner.one_by_one  # type: ignore[attr-defined]
    return replace(  # type: ignore[type-var]
        inner,
        name=f"{name}_{inner.name}",
        init=start,
        update=advance,
        bibtex=(*bibtex, *inner.bibtex),
        dialects={k: {**x, **(dialects or {}).get(k, {})} for k, x in inner.dialects.items()},
        elsewhere={},
    )
