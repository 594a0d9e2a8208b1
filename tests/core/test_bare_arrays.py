"""The core: on bare arrays of any library, without any framework, and its table."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from harness import ROOT, inputs_for

import optstudy_core
from optstudy_core import (
    ALGORITHMS,
    WRAPPERS,
    Algorithm,
    adam,
    citation,
    defaults,
    doubles,
    namespace,
)
from optstudy_core.arrays.leaves import Leaves, map_leaves
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.catalogue.citation import entries

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_importing_the_core_imports_no_framework() -> None:
    code = (
        "import sys, json; from optstudy_core import *; list(ALGORITHMS.values()); "
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    modules = set(json.loads(result.stdout))
    assert not modules & {"torch", "jax", "jaxlib", "optax", "flax", "scipy", "matplotlib"}


@pytest.mark.parametrize(
    ("adapter", "other"), [("optstudy_torch", "jax"), ("optstudy_jax", "torch")]
)
def test_an_adapter_works_alone_and_loads_no_algorithm(adapter: str, other: str) -> None:
    """The other framework is absent."""
    code = f"""
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {other!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hide())
import {adapter}

for module in "optstudy_core.algorithms.adam", "{adapter}.recorder", "{adapter}.geometry":
    assert module not in sys.modules, module
from {adapter} import *
assert from_core("adam")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_import_of_the_core_loads_no_algorithm() -> None:
    code = """
import sys, optstudy_core

for module in "optstudy_core.algorithms.adam", "optstudy_core.records", "optstudy_core.geometry":
    assert module not in sys.modules, module
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["optstudy_core", "optstudy_torch", "optstudy_jax"])
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is getattr(module, name), name
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'geometri'.*"):
        getattr(module, "geometri")  # noqa: B009
    assert not hasattr(module, "__wrapped__")
    submodule = {"optstudy_core": "random_formulas"}.get(package, "checkpoint")
    assert getattr(module, submodule) is importlib.import_module(f"{package}.{submodule}")


def test_the_folders_are_the_tables() -> None:
    core = Path(optstudy_core.__file__).parent
    for folder, table in {"algorithms": ALGORITHMS, "wrappers": WRAPPERS}.items():
        assert [*table] == sorted(file.stem for file in core.joinpath(folder).glob("[!_]*.py"))
    assert optstudy_core.adam is importlib.import_module("optstudy_core.algorithms.adam")
    assert optstudy_core.lookahead is WRAPPERS["lookahead"]
    assert repr(ALGORITHMS).startswith(f"<{len(ALGORITHMS)} files of optstudy_core.algorithms: ac")
    with pytest.raises(AttributeError):
        getattr(optstudy_core, "adem")  # noqa: B009


# Bare arrays.


def _gradients(steps: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [10.0 ** rng.uniform(-3, 3, 7) * rng.choice([-1.0, 1.0], 7) for _ in range(steps)]


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_bare_arrays_of_every_library_work(name: str, library: str) -> None:
    algorithm = ALGORITHMS[name]

    def train(convert: Any) -> np.ndarray:
        theta = convert(np.linspace(-1, 1, 7))
        state = algorithm.init(theta)
        for g in _gradients(3):
            more = inputs_for(algorithm, theta)
            state, step = algorithm.update(state, convert(g), theta, **more)
            theta = theta + step
        return np.asarray(theta)

    if library == "torch":
        import torch

        found = train(torch.tensor)
    else:
        import jax
        import jax.numpy as jnp

        with jax.enable_x64(True):
            found = train(jnp.asarray)
    # Bare arrays round as their library does: a few units in the last place a step.
    np.testing.assert_allclose(found, train(np.asarray), rtol=1e-13)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_an_update_writes_to_nothing(name: str) -> None:
    algorithm = ALGORITHMS[name]
    theta, grad = np.linspace(-1, 1, 7), _gradients()[0]
    more = inputs_for(algorithm, theta)
    state, _ = algorithm.update(algorithm.init(theta), grad, theta, **more)
    fields: list[np.ndarray] = []

    def freeze(x: Any) -> None:
        if hasattr(x, "setflags"):
            fields.append(x)
            x.setflags(write=False)
        elif isinstance(x, tuple):
            for field in x:
                freeze(field)

    freeze((state, theta, grad, *more.values()))
    before = [x.copy() for x in fields]
    algorithm.update(state, grad, theta, **more)
    for x, was in zip(fields, before, strict=True):
        np.testing.assert_array_equal(x, was)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_working_dtype_is_kept(name: str, dtype: Any) -> None:
    algorithm = ALGORITHMS[name]
    theta = np.linspace(-1, 1, 7).astype(dtype)
    state = algorithm.init(theta)
    for g in _gradients():
        more = inputs_for(algorithm, theta)
        state, step = algorithm.update(state, g.astype(dtype), theta, **more)
        assert step.dtype == dtype
    one = theta[0]  # of NumPy; float64 is a Python float, too
    more = inputs_for(algorithm, one)
    state, step = algorithm.update(algorithm.init(one), one, one, **more)
    assert step.dtype == dtype
    tree: list[Any] = []
    work = Leaves([theta], NumPy())
    trees = {name: Leaves([x], NumPy()) for name, x in inputs_for(algorithm, theta).items()}
    map_leaves(tree.append, algorithm.update(algorithm.init(work), work, work, **trees)[0])
    kinds = {np.asarray(x).dtype for field in tree for x in field.values if x is not None}
    assert kinds <= {np.dtype(dtype), np.dtype(np.int32)}


def test_a_tree_computes_like_its_leaves() -> None:
    leaves = [np.float32([1.0, -2.0]), np.float32(3.0), np.zeros((0, 2), np.float32)]
    tree = Leaves(leaves, NumPy())
    step = adam.update(adam.init(tree), tree)[1]
    for leaf, found in zip(leaves, step.values, strict=True):
        alone = adam.update(adam.init(leaf), leaf)[1]
        np.testing.assert_array_equal(found, alone)
        assert np.asarray(found).dtype == np.float32


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (lambda x: x**2, "powers round differently"),
        (lambda x: x.__array_namespace__().exp(x), "may not use xp.exp"),
        (lambda x: x if x > 0 else -x, "may not branch on the values"),
        (lambda x: x.sum(), "no 'sum': use .* sums and norms of optstudy_core.reductions"),
        (lambda x: x + Leaves([np.ones(1)] * 3, NumPy()), "same structure"),
    ],
)
def test_what_a_formula_may_not_do(formula: Any, message: str) -> None:
    with pytest.raises((TypeError, AttributeError, ValueError), match=message):
        formula(Leaves([np.ones(2), np.ones(2)], NumPy()))


def test_a_function_of_numbers_alone_is_a_number() -> None:
    tree = Leaves([np.ones(2, np.float32)], NumPy())
    found = namespace(tree).maximum(0.1, 2)
    assert isinstance(found, doubles.Doubles)
    assert found.value == 2.0


# Counts of steps, and numbers in double.


@pytest.mark.parametrize("b", [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999, 1 - 2**-30])
def test_one_minus_a_power(b: float) -> None:
    with localcontext(prec=60):
        for t in (0, 1, 2, 3, 5, 10, 31, 100, 1000, 65_535, 131_071, 10**6, 2**24 - 1, 10**7):
            exact = 1 - (1 - Decimal(1 - b)) ** t if t else Decimal(0)
            found = doubles.one_minus_power(1 - b, np.int32(t))
            # Measured: 4 units in the last place of float64 at most.
            assert abs(Decimal(found) - exact) <= 6 * Decimal(math.ulp(float(exact))), t


@pytest.mark.parametrize("b", [0.0, 0.37, 0.9, 0.99999])
def test_one_minus_a_power_is_the_same_in_every_form(b: float) -> None:
    counts = np.array([0, 1, 2, 3, 7, 1000, 123_456_789], np.int32)
    wanted = [doubles.one_minus_power(1 - b, t) for t in counts]
    tree = Leaves(list(counts), NumPy())
    of_number = doubles.one_minus_power(1 - b, tree)
    of_array = doubles.one_minus_power(doubles.Doubles(np.float64(1 - b), NumPy()), tree)
    assert of_number.value.tolist() == of_array.value.tolist() == wanted
    with jax.enable_x64(True):
        traced = jax.jit(lambda t: doubles.one_minus_power(1 - b, t))
        # XLA contracts a product and a sum.
        assert [float(traced(t)) for t in counts] == pytest.approx(wanted, rel=1e-14)


def test_a_count_is_bounded_by_int32() -> None:
    state = adam.init(np.zeros(2))._replace(t=np.int32(2**31 - 2))
    new, _ = adam.update(state, np.ones(2))
    assert new.t == 2**31 - 1


def test_a_negative_count_comes_to_an_end() -> None:
    """A damaged state may hold one: its shifts to the right never come to 0."""
    assert doubles.one_minus_power(0.5, np.int32(-1)) == 0.0


def test_numbers_in_double_are_rounded_where_they_meet_an_array() -> None:
    leaves = [np.float32([3.0]), np.array([3.0]), np.zeros((0,), np.float32)]
    tree = Leaves(leaves, NumPy())
    third = doubles.Doubles(np.float64(1.0), NumPy()) / 3
    each = doubles.of(Leaves([np.int32(i) for i in (1, 2, 3)], NumPy())) / 3
    assert [x.tolist() for x in (third * tree).values] == [[1.0], [1.0], []]
    assert [x.dtype for x in (each * tree).values] == [x.dtype for x in leaves]
    assert (each * tree).values[0] == np.float32(1 / 3) * np.float32(3)
    assert [x.tolist() for x in namespace(tree).where(each > 0.5, tree, -1.0).values] == [
        [-1.0],
        [3.0],
        [],
    ]
    assert doubles.count(each * 3, Leaves([np.int32(0)] * 3, NumPy())).values == (1, 2, 3)
    with pytest.raises(TypeError, match="may not branch"):
        bool(each > 0)
    assert repr(third).startswith("Doubles(")


# The table.


def test_every_algorithm_has_its_sources() -> None:
    for algorithm in ALGORITHMS.values():
        assert algorithm.bibtex
        assert all(key in citation(algorithm) for key in algorithm.bibtex)
        assert optstudy_core.ALGORITHMS[algorithm.name] is algorithm


def test_bibtex_entries_are_whole() -> None:
    for key, text in entries().items():
        assert text.count("{") == text.count("}"), key
        assert "author" in text, key
        assert "title" in text, key
        year = text.partition("year")[2].partition("{")[2].partition("}")[0]
        assert year in key, key


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_docstrings_name_every_argument_and_field(name: str) -> None:
    algorithm = ALGORITHMS[name]
    text = algorithm.update.__doc__ or ""
    for argument in ("state", "grad", "params", *algorithm.defaults()):
        assert f"{argument}:" in text, argument
    fields = algorithm.state_type.__mro__[0].__doc__ or ""
    if algorithm.state_type.__mro__[1] is tuple:  # else it is documented where it is inherited from
        for field in algorithm.state_type._fields:  # type: ignore[attr-defined]
            assert f"{field}:" in fields, field


def test_dialects_change_defaults() -> None:
    assert defaults("adamw")["weight_decay"] == 1e-2
    assert defaults("adamw", "optax")["weight_decay"] == 1e-4
    assert defaults("amsgrad", "optax")["corrected_maximum"] is True


class LonelyState(NamedTuple):
    b: Any


def _init(params: Any) -> LonelyState:
    return LonelyState(0 * params)


def test_an_algorithm_must_have_defaults() -> None:
    def update(state: Any, grad: Any, params: Any = None, *, lr: Any) -> Any:
        return state, -lr * grad

    with pytest.raises(TypeError, match="without a default: lr"):
        Algorithm("mine", _init, update)


def test_a_dialect_may_only_set_what_exists() -> None:
    def update(state: Any, grad: Any, params: Any = None, *, lr: Any = 0.1) -> Any:
        return state, -lr * grad

    with pytest.raises(TypeError, match="sets 'rl'"):
        Algorithm("mine", _init, update, dialects={"torch": {"rl": 1.0}})
    with pytest.raises(ValueError, match="Python identifiers"):
        Algorithm("my own", _init, update)
    assert Algorithm("mine", _init, update).title == "Lonely"


def test_the_version_is_one() -> None:
    from importlib.metadata import version

    root = ROOT
    assert version("optstudy") == optstudy_core.__version__
    assert f"version: {optstudy_core.__version__}\n" in (root / "CITATION.cff").read_text()
