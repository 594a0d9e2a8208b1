"""optax's own tests, which are in its wheel, with our functions in the place of optax's.

Each is asked for its dialect of optax. What is otherwise here is in :data:`OTHERWISE`, and in a
table of ``docs/porting.md``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import unittest
from importlib.util import find_spec
from typing import NamedTuple

import optax
import pytest
from harness import ROOT
from in_optax import put_into_optax, run

from optstudy_core import ALGORITHMS

MODULES = {
    "alias": ("optax._src.alias_test", "AliasTest"),
    "contrib": ("optax.contrib._common_test", "ContribTest"),
}
PLACES = {"alias": optax, "contrib": optax.contrib}


class Difference(NamedTuple):
    """Which of the tests fail here, on purpose."""

    algorithms: set[str]
    tests: str
    given: str = ""


EVERY = set(ALGORITHMS)
OTHERWISE = {
    "complex parameters": Difference(EVERY, "", "complex"),
    "`mu_dtype` and `accumulator_dtype`": Difference({"adam", "adamw"}, "test_explicit_dtype"),
    "a warning that `optimistic_adam` is out of date": Difference({"optimistic_adam"}, ""),
    "`max_learning_rate` of `polyak_sgd`": Difference({"polyak_sgd"}, "test_.*inject"),
    "`min_dim_size_to_factor` of `adafactor`": Difference({"adafactor"}, "test_.*inject"),
    "`optax.contrib.schedule_free_eval_params`": Difference(
        {"schedule_free_sgd", "schedule_free_adamw"}, "test_optimizers[0-9]"
    ),
    "a Hessian that `sophia` estimates itself": Difference(
        {"sophia"}, "test_optimizers[0-9]", "rosenbrock"
    ),
}
"""What optax's tests expect and is not here."""


@functools.cache
def cases(place: str) -> dict[str, list[tuple[str, str]]]:
    """Return the tests of each of our algorithms, with what they are given."""
    module, name = MODULES[place]
    kind = getattr(importlib.import_module(module), name)
    found: dict[str, list[tuple[str, str]]] = {}
    for test in unittest.defaultTestLoader.getTestCaseNames(kind):
        given = getattr(getattr(kind, test), "__x_params_repr__", "")
        named = re.search(r"opt_name='(\w+)'", given)
        wrapped = re.search(r"wrapper_name='", given)
        if named and named[1] in ALGORITHMS and not wrapped:
            found.setdefault(named[1], []).append((test, given))
    return found


def is_otherwise(name: str, test: str, given: str) -> bool:
    return any(
        name in x.algorithms and re.match(x.tests, test) and x.given in given
        for x in OTHERWISE.values()
    )


@pytest.fixture
def in_optax(monkeypatch: pytest.MonkeyPatch) -> None:
    put_into_optax(monkeypatch)


WITH_TESTS = pytest.mark.skipif(
    find_spec("optax._src.alias_test") is None, reason="not run: optax is there without its tests"
)


@pytest.mark.slow
@WITH_TESTS
@pytest.mark.usefixtures("in_optax")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("place", "name"),
    [(k, name) for k, x in PLACES.items() for name in ALGORITHMS if hasattr(x, name)],
)
def test_what_optaxs_tests_ask_of(place: str, name: str) -> None:
    module, kind = MODULES[place]
    wrong, passed = [], 0
    if name not in cases(place):
        pytest.skip(f"not run: {module} has no tests of {name}")
    for test, given in cases(place)[name]:
        failed, skipped = run(getattr(importlib.import_module(module), kind), test)
        if bool(failed) != is_otherwise(name, test, given) and not skipped:
            wrong.append(f"{test} {given}: {failed or 'it passes'}")
        passed += not (failed or skipped)
    assert not wrong, "\n".join(wrong)
    assert passed or name == "optimistic_adam"


FIELDS = "the names and the order of fields of states"
AROUND: dict[str, dict[str, str]] = {
    "optax._src.combine_test": {"test_extra_args": "integer parameters"},
    "optax._src.float64_test": {},
    "optax._src.lookahead_test": {},
    "optax.schedules._inject_test": {},
    "optax.transforms._accumulation_test": {
        "test_multi_steps_mixed_precision1": "`mu_dtype` and `accumulator_dtype`"
    },
    "optax.transforms._conditionality_test": {},
    "optax.transforms._masking_test": {"test_masked_state_structure": FIELDS},
    "optax.tree_utils._state_utils_test": dict.fromkeys(
        [
            "test_adam",
            "test_inject_hparams",
            "test_map_non_params_to_none",
            "test_map_params_to_none",
        ],
        FIELDS,
    ),
}
"""Tests of what goes around an optimizer, and those that fail here, on purpose: why."""


@pytest.mark.slow
@WITH_TESTS
@pytest.mark.usefixtures("in_optax")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", AROUND)
def test_what_optax_puts_around(name: str) -> None:
    module = importlib.import_module(name)
    kinds = [x for x in vars(module).values() if inspect.isclass(x) and x.__module__ == name]
    found, passed = {}, 0
    for kind in kinds:
        if issubclass(kind, unittest.TestCase):
            for test in unittest.defaultTestLoader.getTestCaseNames(kind):
                failed, skipped = run(kind, test)
                found |= {test: failed} if failed else {}
                passed += not (failed or skipped)
    assert found.keys() == AROUND[name].keys(), found
    assert passed > 3


def test_the_page_lists_what_is_otherwise() -> None:
    page = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
    section = page[page.index("## What optax's own tests expect") :].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    reasons = {reason for known in AROUND.values() for reason in known.values()}
    assert sorted(rows[2:]) == sorted(OTHERWISE.keys() | reasons)
