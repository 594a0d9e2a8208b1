"""Measure how the libraries and this project round single operations on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SIZE = 1 << 20

Operation = Callable[[Any, Any, Any], Any]
"""A function of two arrays of one library and of its square root."""

OPERATIONS: dict[str, Operation] = {
    "x / y": lambda x, y, sqrt: x / y,
    "x / c": lambda x, y, sqrt: x / 0.37,
    "c / x": lambda x, y, sqrt: 0.37 / x,
    "√x": lambda x, y, sqrt: sqrt(x),
    "x·y + x": lambda x, y, sqrt: x * y + x,
    "x·y − y·y": lambda x, y, sqrt: x * y - y * y,
    "(x / y) / x": lambda x, y, sqrt: (x / y) / x,
    "1 / √x": lambda x, y, sqrt: 1.0 / sqrt(x),
    "√x·√x": lambda x, y, sqrt: sqrt(x) * sqrt(x),
    "(x·c)·d": lambda x, y, sqrt: (x * 0.37) * 0.9,
    "(x + c) + d": lambda x, y, sqrt: (x + 0.37) + 0.9,
    "subnormal x·y": lambda x, y, sqrt: (x * 1e-30) * (y * 1e-12),
}

OPTIONS = {
    "eager_numerics.division_rounding": True,
    "eager_numerics.disable_ftz": True,
    "emulate_precision_casts": True,
}
"""Options with which Inductor rounds like the eager operations of torch."""


def values(dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays of positive values over six decades."""
    random = np.random.default_rng(0)
    x, y = 10.0 ** random.uniform(-3, 3, (2, SIZE))
    return x.astype(dtype), y.astype(dtype)


def _torch(compiled: dict[str, Any] | None) -> Callable[[Operation, Any, Any], np.ndarray]:
    import torch

    def run(operation: Operation, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        function: Any = lambda x, y: operation(x, y, torch.sqrt)  # noqa: E731
        if compiled is not None:
            known = torch._inductor.list_options()
            options = {k: v for k, v in compiled.items() if k in known}
            function = torch.compile(function, options=options or None)
        found: np.ndarray = function(torch.tensor(x).cuda(), torch.tensor(y).cuda()).cpu().numpy()
        return found

    return run


def _jax(ours: bool) -> Callable[[Operation, Any, Any], np.ndarray]:
    import jax
    import jax.numpy as jnp

    from optstudy_core.arrays.leaves import Leaves, namespace_of
    from optstudy_jax._backend import JAX
    from optstudy_jax._rounding import leaving, outside

    backend = JAX()

    def run(operation: Operation, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):

            def plain(x: Any, y: Any) -> Any:
                return operation(x, y, jnp.sqrt)

            def rounded(x: Any, y: Any) -> Any:
                trees = [Leaves([outside(v, v.dtype)], backend) for v in (x, y)]
                return leaving(operation(*trees, namespace_of(trees[0]).sqrt).values[0])

            return np.asarray(jax.jit(rounded if ours else plain)(x, y))

    return run


def _program(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return the results of the torch kernel of this project: one rule with all operations."""
    from optstudy_core import random_formulas as formulas
    from optstudy_torch._selfcheck import run

    def formula(operation: Operation) -> Any:
        def tree(x: Any) -> Any:
            return x.formula if isinstance(x, _Formula) else x

        return tree(operation(_Formula("p"), _Formula("g"), lambda x: _Formula(("sqrt", tree(x)))))

    rule = formulas.rule([formula(f) for f in OPERATIONS.values()])
    rows = run(rule, [x], [[y]], dict(formulas.HYPERPARAMETERS), compiled=True, device="cuda")
    return {name: rows[0][2 + i][0] for i, name in enumerate(OPERATIONS)}


class _Formula:
    """Records the operations applied to it (``optstudy_core.random_formulas``)."""

    def __init__(self, formula: Any) -> None:
        self.formula = formula


def _operator(name: str) -> tuple[Any, Any]:
    def forward(self: _Formula, other: Any) -> _Formula:
        return _Formula((name, self.formula, getattr(other, "formula", other)))

    def reflected(self: _Formula, other: Any) -> _Formula:
        return _Formula((name, getattr(other, "formula", other), self.formula))

    return forward, reflected


for _symbol, _name in (
    ("add", "add"),
    ("sub", "subtract"),
    ("mul", "multiply"),
    ("truediv", "divide"),
):
    _forward, _reflected = _operator(_name)
    setattr(_Formula, f"__{_symbol}__", _forward)
    setattr(_Formula, f"__r{_symbol}__", _reflected)


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """Return the share of results that differ from NumPy, by dtype and way of computing."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for dtype in (np.float32, np.float64):
        x, y = values(dtype)
        with np.errstate(all="ignore"):
            wanted = {name: f(x, y, np.sqrt) for name, f in OPERATIONS.items()}
        ways = {
            "torch": _torch(None),
            "torch.compile": _torch({}),
            "torch.compile, eager numerics": _torch(OPTIONS),
            "jax.jit": _jax(ours=False),
            "ours, jax.jit": _jax(ours=True),
        }
        rows: dict[str, dict[str, float]] = {}
        for way, run in ways.items():
            rows[way] = {}
            for name, operation in OPERATIONS.items():
                rows[way][name] = float(np.mean(run(operation, x, y) != wanted[name]))
        own = _program(x, y)
        rows["ours, torch compile=True"] = {
            name: float(np.mean(own[name] != wanted[name])) for name in OPERATIONS
        }
        found[np.dtype(dtype).name] = rows
    return found
