"""Random update rules, to search for operations that a library rounds differently.

A formula is a nested tuple ``(operation, operand, …)``. The innermost operands are names (``g`` the
gradient, ``p`` the parameters, ``previous`` the last gradient, ``weight`` a scalar for each leaf,
``h0`` and ``h1`` hyperparameters) and Python numbers. :func:`rule` makes an ``Algorithm`` from many
formulas, one for each field of its state, so that one compilation tests all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy

from .arrays.namespace import Array, namespace, scalar
from .catalogue.algorithm import Algorithm

Formula = Any

ARRAYS = ("g", "p", "previous", "weight")
HYPERPARAMETERS = {"h0": 0.9, "h1": 0.37}
CONSTANTS = (0.5, 2.0, 3.0, 0.1, 0.999, 1e-3, 1.0, 7.3, 0.3333)

_BINARY = ("add", "subtract", "multiply", "divide")
_SYMBOLS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "greater": ">"}


def random_formula(rng: np.random.Generator, depth: int = 6) -> Formula:
    """Return a formula of arrays, at most ``depth`` operations deep."""
    if depth == 0 or rng.random() < 0.08:
        return str(rng.choice(ARRAYS))
    kind = rng.random()
    if kind < 0.72:
        operation = str(rng.choice(_BINARY))
        operands = [random_formula(rng, depth - 1), _operand(rng, depth - 1)]
        if rng.random() < 0.5:
            operands.reverse()
        return (operation, *operands)
    if kind < 0.84:
        return ("sqrt", ("abs", random_formula(rng, depth - 1)))
    if kind < 0.89:
        return ("negative", random_formula(rng, depth - 1))
    if kind < 0.93:
        inner = random_formula(rng, depth - 1)
        return ("multiply", inner, inner)
    if kind < 0.97:
        name = str(rng.choice(("maximum", "minimum")))
        return (name, random_formula(rng, depth - 1), _operand(rng, depth - 1))
    condition = ("greater", random_formula(rng, 1), random_formula(rng, 1))
    return ("where", condition, random_formula(rng, depth - 1), _operand(rng, depth - 1))


def _operand(rng: np.random.Generator, depth: int) -> Formula:
    kind = rng.random()
    if kind < 0.2:
        return float(rng.choice(CONSTANTS))
    if kind < 0.35:
        return _number(rng)
    return random_formula(rng, depth)


def _number(rng: np.random.Generator) -> Formula:
    """Return a formula of hyperparameters alone."""
    name, other = map(str, rng.choice(list(HYPERPARAMETERS), 2))
    kind = rng.random()
    if kind < 0.5:
        return name
    return ("subtract", 1, name) if kind < 0.75 else ("divide", name, ("add", 1, other))


def evaluate(formula: Formula, values: dict[Formula, Any]) -> Any:
    """Return the value of a formula, from operators and the namespace of the arrays.

    Equal parts are evaluated once, like a variable (compilers rewrite ``root * root`` only then).
    The values of the parts are added to ``values``.
    """
    if isinstance(formula, int | float):
        return formula
    if formula not in values:
        operation, *operands = formula
        values[formula] = _apply(operation, [evaluate(x, values) for x in operands], values)
    return values[formula]


def _apply(operation: str, args: list[Any], values: dict[Formula, Any]) -> Any:
    match operation, args:
        case "add", (x, y):
            return x + y
        case "subtract", (x, y):
            return x - y
        case "multiply", (x, y):
            return x * y
        case "divide", (x, y):
            return x / y
        case "negative", (x,):
            return -x
        case "greater", (x, y):
            return x > y
        case "abs", (x,):
            return abs(x)
    return getattr(namespace(values["g"]), operation)(*args)


def rule(formulas: Sequence[Formula], name: str = "formulas") -> Algorithm:
    """Return an update rule with the value of each formula in its state (``f0``, ``f1``, …).

    The step is the last formula. The state also keeps the gradient of the last step
    (``previous``) and a scalar that changes at every step (``weight``).
    """
    fields = [f"f{i}" for i in range(len(formulas))]
    names = ["previous", "weight", *fields]
    make: Any = NamedTuple  # a type with fields that are known at run time only
    state_type = make("FormulasState", [(name, Array) for name in names])

    def init(params: Array) -> Any:
        zeros = namespace(params).zeros_like(params)
        # Do not start with zeros: the sign of a zero is arbitrary, and a division would show it.
        return state_type(params, scalar(params, 0.25), *(zeros for _ in fields))

    def update(
        state: Any,
        grad: Array,
        params: Array,
        *,
        h0: Any = HYPERPARAMETERS["h0"],
        h1: Any = HYPERPARAMETERS["h1"],
    ) -> tuple[Any, Array]:
        values = {
            "g": grad,
            "p": params,
            "previous": state.previous,
            "weight": state.weight,
            "h0": h0,
            "h1": h1,
        }
        where = namespace(grad).where  # makes every field like the parameters, scalars too
        results = [where(grad == grad, evaluate(f, values), grad) for f in formulas]
        weight = 0.75 * state.weight + 0.21
        return state_type(grad, weight, *results), results[-1]

    return Algorithm(name, init, update)


def show(formula: Formula) -> str:
    """Return a formula as text.

    >>> show(("add", ("multiply", 0.9, "p"), ("sqrt", "g")))
    '((0.9 * p) + sqrt(g))'
    """
    if not isinstance(formula, tuple):
        return str(formula)
    operation, *operands = formula
    shown = [show(x) for x in operands]
    if operation in _SYMBOLS:
        return f"({shown[0]} {_SYMBOLS[operation]} {shown[1]})"
    return f"{operation}({', '.join(shown)})"


def simpler(formula: Formula) -> Iterator[Formula]:
    """Yield formulas with one simplification: a part instead of the whole, or a name for a part."""
    if not isinstance(formula, tuple):
        return
    operation, *operands = formula
    for x in operands if operation != "greater" else ():  # a condition stays one
        if not _of_numbers(x) and x[0] != "greater":
            yield x
    for i, x in enumerate(operands):
        if isinstance(x, tuple) and not _of_numbers(x) and x[0] != "greater":
            yield from ((operation, *operands[:i], name, *operands[i + 1 :]) for name in ("g", "p"))
        for y in simpler(x):
            yield (operation, *operands[:i], y, *operands[i + 1 :])


def _of_numbers(formula: Formula) -> bool:
    if isinstance(formula, tuple):
        return all(map(_of_numbers, formula[1:]))
    return isinstance(formula, int | float) or formula in HYPERPARAMETERS


def inputs(
    rng: np.random.Generator, dtype: Any, steps: int = 3, size: int = 400
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Return parameters (a vector and a scalar) and their gradients for some steps.

    The magnitudes keep intermediates of six operations away from subnormal numbers.
    """

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        values = 10.0 ** rng.uniform(-2, 2, shape) * rng.choice([-1.0, 1.0], shape)
        return np.asarray(values).astype(dtype)

    shapes: list[tuple[int, ...]] = [(size,), ()]
    return [draw(s) for s in shapes], [[draw(s) for s in shapes] for _ in range(steps)]


Run = Callable[[Algorithm, list[np.ndarray], list[list[np.ndarray]], dict[str, Any]], Any]
"""``run(rule, params, grads, hyperparameters)`` returns, for each step, the values of the fields of
the state and the new parameters, each a list of leaves."""


def reference(
    rule: Algorithm,
    params: list[np.ndarray],
    grads: list[list[np.ndarray]],
    hyperparameters: dict[str, Any],
) -> list[list[list[np.ndarray]]]:
    """Run a rule in NumPy: the definition (a :data:`Run`)."""
    backend = NumPy()
    theta = Leaves(params, backend)
    state = rule.start(theta, hyperparameters)
    rows = []
    for g in grads:
        state, step = rule.update(state, Leaves(g, backend), theta, **hyperparameters)
        theta = theta + step
        rows.append([list(field.values) for field in (*state, theta)])
    return rows


def failing(
    run: Run, formulas: Sequence[Formula], dtype: Any, seed: int, traced: bool = False
) -> list[Formula]:
    """Return the formulas for which ``run`` gives other bits than NumPy.

    Args:
        run: a function that runs a rule with the tested backend.
        formulas: results of :func:`random_formula`.
        dtype: float32 or float64.
        seed: the seed of the values.
        traced: pass the hyperparameters as arrays instead of Python numbers.
    """
    params, grads = inputs(np.random.default_rng(seed), dtype)
    hyperparameters: dict[str, Any] = dict(HYPERPARAMETERS)
    if traced:
        hyperparameters = {k: dtype(v) for k, v in hyperparameters.items()}
    # All backends compute this formula of the step alike, so a difference stays in its field.
    everything = [*formulas, ("multiply", 0.7, "p")]
    tested = rule(everything)
    wanted = reference(tested, params, grads, hyperparameters)
    found = run(tested, params, grads, hyperparameters)
    bad = set()
    for want_row, got_row in zip(wanted, found, strict=True):
        fields = zip(want_row[2:-2], got_row[2:-2], strict=True)
        for i, (want, got) in enumerate(fields):
            if not all(identical(w, g) for w, g in zip(want, got, strict=True)):
                bad.add(i)
        if not all(identical(w, g) for w, g in zip(want_row[-1], got_row[-1], strict=True)):
            bad.add(len(formulas))
    return [everything[i] for i in sorted(bad)]


def identical(x: Any, y: Any) -> bool:
    """Return whether two arrays have the same bits; all NaN count as equal, and so do ±0.

    >>> identical(np.array([0.0, np.nan]), np.array([-0.0, np.nan]))
    True
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    with np.errstate(invalid="ignore"):
        return bool(np.all((x == y) | ((x != x) & (y != y))))


def shrink(run: Run, formula: Formula, dtype: Any, seed: int, traced: bool = False) -> Formula:
    """Return a formula as simple as possible that still fails."""
    while True:
        candidates = list(simpler(formula))
        bad = failing(run, candidates, dtype, seed, traced) if candidates else []
        smaller = [c for c in bad if c in candidates]
        if not smaller:
            return formula
        formula = min(smaller, key=lambda f: len(show(f)))


def search(
    run: Run,
    count: int,
    *,
    seed: int = 0,
    dtypes: Sequence[Any] = (np.float32, np.float64),
    batch: int = 40,
) -> list[str]:
    """Try ``count`` random formulas for each dtype; return those that fail, simplified, as text.

    Every second batch has its hyperparameters as arrays; there are at least two batches.
    """
    found = []
    batch = min(batch, -(-count // 2))
    for dtype in dtypes:
        for number, start in enumerate(range(0, count, batch)):
            rng = np.random.default_rng([seed, number])
            depths = rng.integers(2, 7, min(batch, count - start))
            formulas = [random_formula(rng, int(depth)) for depth in depths]
            traced = number % 2 == 1
            for formula in failing(run, formulas, dtype, seed, traced):
                small = shrink(run, formula, dtype, seed, traced)
                kind = "arrays" if traced else "numbers"
                found.append(f"{show(small)} in {dtype.__name__}, hyperparameters as {kind}")
    return found
