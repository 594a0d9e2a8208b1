"""JAX, eager and under ``jit``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from optstudy_core import Algorithm
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numbers import is_number
from parity.case import Case
from parity.structures import STRUCTURES, at, nest

from .backend import Backend, Run, measure


class JAXBackend(Backend):
    """A transformation of ``optstudy_jax`` with ``optax.apply_updates``, eager or in ``jit``."""

    def __init__(self, jitted: bool, device: str) -> None:
        self.name = "jax-jit" if jitted else "jax"
        self.jitted = jitted
        self.device = device

    @contextmanager
    def here(self) -> Iterator[None]:
        """Compute on the device, with float64 enabled."""
        import jax

        platform = "gpu" if self.device == "cuda" else "cpu"
        with jax.enable_x64(True), jax.default_device(jax.devices(platform)[0]):
            yield

    def run(self, algorithm: Algorithm, case: Case) -> Run:
        import jax
        import jax.numpy as jnp
        import optax

        import optstudy_jax.geometry as jax_geometry
        from optstudy_core.arrays.geometry import angle_from_chords
        from optstudy_jax import by_leaf

        leaves = STRUCTURES[case.structure]
        paths = [leaf.path for leaf in leaves]
        with self.here():
            params, grads = case.values()

            def as_arrays(values: dict[str, Any]) -> dict[str, Any]:
                return {k: jnp.asarray(case.array_dtype().type(v)) for k, v in values.items()}

            arrays: list[dict[str, Any]] = []
            numbers: list[dict[str, Any]] = []
            for values in case.resolved(algorithm):
                given = {k: v for k, v in values.items() if case.arrays and is_number(v)}
                given |= case.moved(values, 0)
                arrays.append(as_arrays(given))
                own = values | case.schedules(values)
                numbers.append({k: v for k, v in own.items() if k not in given})
            rules = tuple(case.rules(algorithm))
            key = rules, case.structure, case.membership, _Frozen(numbers), self.jitted
            make, advance = made(algorithm, _functions, *key)
            run = Run()
            theta = nest(paths, [jnp.asarray(p) for p in params])
            start = before = theta
            state = make(theta, arrays)
            resolved = case.resolved(algorithm)
            for step, (row, given) in enumerate(zip(grads, case.inputs(algorithm), strict=True)):
                before = theta
                inputs = {k: nest(paths, x) if isinstance(x, list) else x for k, x in given.items()}
                now = [
                    own | as_arrays(case.moved(values, step))
                    for own, values in zip(arrays, resolved, strict=True)
                ]
                theta, state = advance(theta, state, nest(paths, list(row)), now, inputs)
                run.trajectory.append([_copy(at(theta, path)) for path in paths])
            for number, masked in enumerate(state):
                mine = [
                    p if m == number else optax.MaskedNode()
                    for p, m in zip(params, case.membership, strict=True)
                ]
                inner = by_leaf(masked.inner_state.inner, nest(paths, mine))
                values, (rule, _) = numbers[number] | arrays[number], rules[number]
                for name, tree in _fields(rule, values, inner):
                    for path, member in zip(paths, case.membership, strict=True):
                        if member == number and at(tree, path) is not None:
                            run.state[f"{path}.{name}"] = _copy(at(tree, path))
            difference = jax.tree.map(jnp.subtract, theta, before)
            whole = jax.tree.map(jnp.subtract, theta, start)
            measure(
                run,
                jax_geometry.norm,
                jax_geometry.cosine,
                lambda u, v: angle_from_chords(*map(float, jax_geometry.chords(u, v))),
                [start, difference, whole],
                [(path, at(whole, path)) for path in paths],
            )
        return run


def _copy(x: Any) -> np.ndarray:
    return np.array(x)


class _Frozen:
    """Hyperparameters as a key of a cache."""

    def __init__(self, values: list[dict[str, Any]]) -> None:
        self.values = values
        self._key = repr([sorted(v.items()) for v in values])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def made(subject: Hashable, make: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``make(*arguments)``, made once for the cases of a subject.

    Programs of the subject before are freed: a process may map 65,530 pieces of memory, and each
    program of XLA takes about fifty.

    Args:
        subject: the algorithm or the name of the epoch method.
        make: returns functions that JAX compiles.
        arguments: of ``make``; hashable.
    """
    kept = _kept(subject)
    if arguments not in kept:
        kept[arguments] = make(*arguments)
    return kept[arguments]


@lru_cache(maxsize=1)
def _kept(subject: Hashable) -> dict[Any, Any]:
    return {}


def _functions(
    rules: tuple[tuple[Algorithm, str | None], ...],
    structure: str,
    membership: tuple[int, ...],
    numbers: _Frozen,
    jitted: bool,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions of the start and of a step."""
    import jax
    import optax

    from optstudy_jax import from_core

    paths = [leaf.path for leaf in STRUCTURES[structure]]
    masks = {
        number: nest(paths, [m == number for m in membership])
        for number in range(len(numbers.values))
    }

    def transformations(arrays: list[dict[str, Any]]) -> list[Any]:
        made = []
        groups = zip(rules, numbers.values, arrays, strict=True)
        for number, ((rule, dialect), fixed, given) in enumerate(groups):
            values = fixed | given
            if "lr" in values:
                values["learning_rate"] = values.pop("lr")
            tx = from_core(rule)(dialect=dialect, **values)
            made.append(optax.masked(tx, masks[number], mask_compatible_extra_args=True))
        return made

    def make(params: Any, arrays: list[dict[str, Any]]) -> list[Any]:
        return [tx.init(params) for tx in transformations(arrays)]

    def advance(
        params: Any,
        states: list[Any],
        grads: Any,
        arrays: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> tuple[Any, list[Any]]:
        new, updates = [], grads
        for tx, state in zip(transformations(arrays), states, strict=True):
            updates, following = tx.update(updates, state, params, **inputs)
            new.append(following)
        return optax.apply_updates(params, updates), new

    return (jax.jit(make), jax.jit(advance)) if jitted else (make, advance)


def _fields(algorithm: Algorithm, values: dict[str, Any], inner: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields of the state of a transformation by name, each a tree."""
    template = algorithm.skeleton(values)

    def walk(skeleton: Any, part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name in skeleton._fields:
            own, value = getattr(skeleton, name), getattr(part, name)
            if isinstance(own, Leaves):
                yield prefix + name, value
            elif own is not None:
                yield from walk(own, value, f"{prefix}{name}.")

    yield from walk(template, inner, "")
