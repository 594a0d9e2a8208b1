"""The parity suite: it finds the backends identical, and it can fail."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from harness import HEAVY_BALL, same, slow

import parity
from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from parity import backends, subjects, suite
from parity.__main__ import main
from parity.backends import jax as jax_backend
from parity.cases import _as_array, hyperparameters
from parity.compare import Tolerated, first_unequal, ulp_distance

COMPILED = pytest.param(
    "torch-compiled",
    marks=pytest.mark.skipif(backends.compiler() is None, reason="not run: no compiler"),
)


@pytest.mark.usefixtures("torch_operations")
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_torch_operations_are_identical(name: str) -> None:
    report = parity.check(name, backends=["torch"], dtypes=["float32"], examples=2, steps=20)
    assert report.complete, report.first_difference


# What the quick tests hold of every algorithm: torch's operations above, and a trace in
# tests/jax/test_transform; of one of each kind the bits of kernels and of jitted code, in
# tests/test_every_property.
@pytest.mark.parametrize("backend", ["numpy", "torch", COMPILED, "jax", "jax-jit"])
def test_every_backend_is_identical(backend: str) -> None:
    # Norms and angles of each structure are compiled, and what is not jitted is traced each time.
    examples = {"jax": 1, "jax-jit": 2}.get(backend, 6)
    report = parity.check(
        "adam", backends=[backend], dtypes=["float32"], examples=examples, steps=40
    )
    assert report.complete, report.first_difference
    assert report.cases == examples


# Small dtypes and float64, jitted: in quick tests those of tests/jax/test_rounding.
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("backend", ["torch", COMPILED, slow("jax-jit")])
def test_other_dtypes_are_identical(backend: str, dtype: str) -> None:
    examples = 2 if backend == "jax-jit" else 5  # each is compiled
    report = parity.check("adamw", backends=[backend], dtypes=[dtype], examples=examples, steps=30)
    assert report.complete, report.first_difference


# Of as many steps that all corrections of a bias have long become 1. What JAX does operation by
# operation, and what is compiled for each case, takes most of the time; products of matrices take
# as long as hundreds of other operations, and no other backend takes another path after 60 steps.
_MANY = dict.fromkeys(backends.NAMES, 8) | {"jax": 2, "jax-jit": 3}
_OF_MATRICES = {"adamuon", "muon", "normuon", "shampoo", "soap"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", _MANY)
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_many_cases_are_identical(name: str, backend: str) -> None:
    dtypes = ["float32", "float64", "bfloat16"]
    steps = 60 if name in _OF_MATRICES else 300
    report = parity.check(
        name, backends=[backend], dtypes=dtypes, examples=_MANY[backend], steps=steps
    )
    ran = [cell for cell in report.cells if cell.not_run is None]
    assert report.identical, report.first_difference
    assert len(ran) == len(dtypes) or backend == "torch-compiled"  # not without a compiler


# The suite can fail.


class MomentumState(NamedTuple):
    b: Any


def init(params: Any) -> MomentumState:
    return MomentumState(b=0 * params)


def update(
    state: MomentumState, grad: Any, params: Any = None, *, lr: Any = 0.1, momentum: Any = 0.9
) -> tuple[MomentumState, Any]:
    b = momentum * state.b + grad
    return MomentumState(b), -lr * b


def test_a_users_own_algorithm_is_held_to_the_contract() -> None:
    report = parity.check(
        Algorithm("heavy_ball", init, update),
        backends=["torch", "jax-jit"],
        dtypes=["float32"],
        examples=2,
        steps=20,
    )
    assert report.complete, report.first_difference


@pytest.mark.usefixtures("torch_operations")
def test_a_rounding_that_is_off_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    from optstudy_torch.engine import rounding

    def off_by_one(operation: str, *args: Any) -> Any:
        result = original(operation, *args)
        return result * (1 + 2.0**-23) if operation == "add" else result

    original = rounding.apply
    monkeypatch.setattr(rounding, "apply", off_by_one)
    report = parity.check("adam", backends=["torch"], dtypes=["float32"], examples=10, steps=5)
    cell = report.cells[0]
    assert not cell.identical
    assert cell.failing is not None
    assert cell.failing.steps == 1  # shrunk
    difference = cell.differences["state"]
    assert difference.ulp is not None
    assert difference.ulp >= 1


@pytest.mark.usefixtures("torch_operations")
def test_a_failure_is_written_and_replayed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from optstudy_torch import _plans
    from optstudy_torch.engine import rounding

    original = rounding.apply

    def off_by_one(operation: str, *args: Any) -> Any:
        result = original(operation, *args)
        return result * (1 + 2.0**-23) if operation == "sqrt" else result

    monkeypatch.chdir(tmp_path)
    arguments = ["--algorithms", "adam", "--backends", "torch", "--dtypes", "float32"]
    arguments += ["--examples", "3", "--steps", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(rounding, "apply", off_by_one)
        patch.setattr(_plans, "_MACHINES", _plans.Recent(64))
        assert main([*arguments, "--json", "report.json"]) == 1
        path = "parity-failure-adam-torch-float32.json"
        assert main(["--replay", path]) == 1
        assert "not a pure function" not in capsys.readouterr().out
    assert main(["--replay", path]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["identical"] is False
    assert "ulp" in report["cells"][0]["differences"]["trajectory"]
    assert "identical in every cell" in capsys.readouterr().out


def test_a_case_of_a_users_own_rule_is_replayed(tmp_path: Any) -> None:
    calls: list[None] = []

    def forgetful(state: Any, grad: Any, params: Any = None, *, lr: Any = 1e-3) -> Any:
        calls.append(None)  # what a compiled step never sees
        return state, -(lr / len(calls)) * grad

    rule = parity.Algorithm("forgetful", init, forgetful)
    report = parity.check(rule, backends=["jax-jit"], dtypes=["float32"], examples=3, steps=5)
    assert "the rule is not a pure function" in str(report.first_difference)
    path = str(tmp_path / "case.json")
    parity.write_failure(report.cells[0], path)
    assert not parity.replay(path, algorithm=rule).identical
    with pytest.raises(ValueError, match=r"parity.replay\('.*case.json', algorithm=rule\)"):
        parity.replay(path)
    with pytest.raises(
        ValueError, match=r"case.json: .*algorithm = 'adam': the file has a case of 'forgetful'"
    ):
        parity.replay(tmp_path / "case.json", algorithm=ALGORITHMS["adam"])


def test_a_check_tells_of_each_case() -> None:
    told: list[None] = []
    short: dict[str, Any] = {"dtypes": ["float32"], "examples": 3, "steps": 2}
    parity.check("sgd", backends=["numpy"], **short, on_case=lambda: told.append(None))
    assert len(told) == 3


@pytest.mark.slow
def test_the_command_says_identical() -> None:
    arguments = ["--algorithms", "sgd", "--backends", "numpy,torch", "--dtypes", "float32"]
    result = subprocess.run(
        [sys.executable, "-m", "parity", *arguments, "--examples", "3", "--steps", "5"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "160"},
    )
    assert result.returncode == 0, result.stderr
    assert "identical (3)" in result.stdout


def test_a_cell_that_could_not_run_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "compiler", lambda: None)
    monkeypatch.setenv("COLUMNS", "160")
    arguments = ["--algorithms", "sgd", "--backends", "torch-compiled", "--dtypes", "float32"]
    assert main([*arguments, "--examples", "1", "--steps", "1"]) == 1
    assert "not run: no compiler" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithms", "adma"], "algorithm = 'adma': did you mean"),
        (["--backends", "torch,tensorflow"], "backends = 'tensorflow'"),
        (["--dtypes", "float3"], "dtypes = 'float3': did you mean 'float32'"),
        (["--device", "tpu"], "device = 'tpu'"),
        (["--steps", "0"], "steps = 0: allowed are whole numbers from 1"),
        (["--examples", "-1"], "examples = -1"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--replay", "nowhere.json"], "nowhere.json"),
        (["--dtypes", ","], "dtypes is empty"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"algorithm": "adam"}', "\0\1"])
def test_a_file_that_is_no_failing_case_is_refused(
    content: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "case.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as refusal:
        main(["--replay", str(path)])
    assert refusal.value.code == 2
    assert "expected a JSON file written by the parity suite" in capsys.readouterr().err


# The comparison.


def test_what_counts_as_identical() -> None:
    tolerated = Tolerated()
    x = np.float32([0.0, -0.0, math.nan, 1.0, 1e-40, 0.0])
    y = np.float32([-0.0, 0.0, -math.nan, 1.0, 0.0, 1e-40])
    assert first_unequal(x, y, tolerated) is None
    assert (tolerated.signed_zeros, tolerated.subnormals) == (2, 2)


@pytest.mark.parametrize(
    ("x", "y", "ulp"),
    [
        (1.0, 1.0 + 2.0**-23, 1),
        (1e-40, 1.1e-40, 7137),
        (math.inf, 1.0, None),
        (math.nan, 1.0, None),
        (-(2.0**-126), 2.0**-126, 2**24),
    ],
)
def test_a_difference_is_found(x: float, y: float, ulp: int | None) -> None:
    found = first_unequal(np.float32([[1.0, x]]), np.float32([[1.0, y]]), Tolerated())
    assert found is not None
    index, expected, got, distance = found
    assert index == (0, 1)
    assert (expected, got) == (float(np.float32(x)).hex(), float(np.float32(y)).hex())
    if ulp is not None:
        assert distance == ulp_distance(np.float32(x), np.float32(y))
        assert abs(distance - ulp) <= 1  # decimal literals of subnormals round to a neighbour
    else:
        assert distance is None


def test_another_dtype_is_a_difference() -> None:
    assert first_unequal(np.float32([1]), np.float64([1]), Tolerated()) is not None


def test_the_flush_switch_is_restored() -> None:
    import torch

    assert torch.tensor(1e-40).mul(1.0).item() != 0
    with backends.whole_range():
        assert torch.tensor(1e-40).mul(1.0).item() == 0
        with backends.whole_range():
            pass
        assert torch.tensor(1e-40).mul(1.0).item() == 0
    assert torch.tensor(1e-40).mul(1.0).item() != 0


# Cases.


def test_a_case_survives_json() -> None:
    from hypothesis import given, settings

    @settings(max_examples=50, database=None, deadline=None)
    @given(parity.cases("sgd", "float64"))
    def roundtrip(case: parity.Case) -> None:
        again = parity.Case.from_json(json.loads(json.dumps(case.to_json())))
        assert json.dumps(again.to_json()) == json.dumps(case.to_json())
        for x, y in zip(case.values()[0], again.values()[0], strict=True):
            assert same(x, y)  # NumPy does not know the NaN of a bfloat16

    roundtrip()


def test_hyperparameters_stay_legal_as_arrays_of_float32() -> None:
    """A largest step size of 1e-119 is legal, and 0 once it is rounded."""
    from hypothesis import given, settings

    rprop = ALGORITHMS["rprop"]

    @settings(max_examples=300, database=None, deadline=None, derandomize=True)
    @given(hyperparameters(rprop, "torch", arrays=True))
    def rounded(values: dict[str, Any]) -> None:
        rprop.resolve("torch", {name: float(np.float32(x)) for name, x in values.items()})

    rounded()


GROUPS_OF_SEVERAL = [
    ("muon", {"lr": 0.02}, {"algorithm": "adamw", "lr": 3e-4, "b2": 0.95}),
    ("adamw", {}, {"algorithm": "polyak_sgd", "max_lr": 0.5}),
    ("sophia", {}, {"algorithm": "muon"}),
    (HEAVY_BALL, {}, {"algorithm": "lamb", "lr": 0.1}),
]


@pytest.mark.parametrize("backend", ["torch", COMPILED, slow("jax"), slow("jax-jit")])
@pytest.mark.parametrize(
    ("rule", "first", "second"), GROUPS_OF_SEVERAL, ids=lambda x: getattr(x, "name", None)
)
def test_groups_of_several_algorithms(rule: Any, first: Any, second: Any, backend: str) -> None:
    subject = subjects.find_subject(rule)
    case = parity.Case(
        structure="nested",
        dtype="float32",
        steps=4,
        seed=3,
        patterns=("ordinary",) * 4,
        groups=(first, second),
        membership=(0, 1, 0, 1),
        dialect=subject.default_dialect,
        moving=rule == "muon",
    )
    case = parity.Case.from_json(json.loads(json.dumps(case.to_json())))
    case.check(subject)
    found = suite.run_case(subject, case, backends.make(backend), suite.Tolerated())
    assert found == {}


@pytest.mark.parametrize("backend", ["torch", COMPILED, "jax", slow("jax-jit")])
@pytest.mark.parametrize("name", ["sgd", *map(slow, subjects.NESTED)])
def test_a_rate_may_follow_a_curve(name: str, backend: str) -> None:
    subject = subjects.find_subject(name)
    case = parity.Case(
        structure="scalar",
        dtype="float32",
        steps=6,
        seed=3,
        patterns=("ordinary",),
        groups=({"lr": 0.3},),
        membership=(0,),
        dialect=subject.default_dialect,
        curve="growing restarts",
    )
    case = parity.Case.from_json(json.loads(json.dumps(case.to_json())))
    assert case.curve == "growing restarts"
    assert suite.run_case(subject, case, backends.make(backend), suite.Tolerated()) == {}
    constant = dataclasses.replace(case, curve=None)
    runs = [backends.make(backend).run(subject, x).trajectory[-1][0] for x in (case, constant)]
    assert runs[0] != runs[1]


def test_every_wrapper_is_run_alone_and_in_another() -> None:
    names = subjects.everything()
    assert {*ALGORITHMS, *subjects.NESTED, "skipping_adam", "epoch.careful"} <= {*names}
    nested = " ".join(subjects.NESTED)
    for wrapper in sorted(WRAPPERS, key=len, reverse=True):
        assert wrapper in nested
        assert f"{wrapper}_adam" in names
        nested = nested.replace(wrapper, "", 1)


@pytest.mark.parametrize("name", [*map(slow, subjects.NESTED)])
def test_wrappers_in_one_another_have_the_bits_of_numpy(name: str) -> None:
    report = parity.check(name, dtypes=["float32", "bfloat16"], examples=3, steps=20)
    assert report.identical, report.first_difference


def test_a_wrapped_algorithm_is_found_by_its_name() -> None:
    found = subjects.find_subject("averaged_lookahead_adam")
    assert {"sync_period", "average_decay"} <= found.defaults().keys()
    assert subjects.subject_name(found) == "averaged_lookahead_adam"
    assert "max_value" in subjects.find_subject("clipped_by_value_sgd").defaults()
    with pytest.raises(ValueError, match="algorithm = 'adamv'"):
        subjects.find_subject("lookahead_adamv")


def test_a_group_of_an_algorithm_that_is_unknown() -> None:
    case = parity.Case("scalar", "float32", 1, 0, ("ordinary",), groups=({"algorithm": "adamv"},))
    with pytest.raises(ValueError, match="algorithm = 'adamv': did you mean"):
        case.check(ALGORITHMS["adam"])
    wrong = dataclasses.replace(case, groups=({"algorithm": "adamw", "b1": 2.0},))
    with pytest.raises(ValueError, match="b1 = 2"):
        wrong.check(ALGORITHMS["adam"])


def test_cases_cover_what_they_promise() -> None:
    from hypothesis import Phase, find, settings

    wanted: list[Callable[[parity.Case], bool]] = [
        lambda c: any(math.isnan(s.value) for s in c.specials),
        lambda c: len(c.groups) == 2 and bool(c.arrays),
        lambda c: c.groups[-1].get("algorithm") == "adamw" and not c.moving,
        lambda c: c.groups[-1].get("algorithm") == "adamw" and bool(c.moving),
        lambda c: c.steps >= 100,
        lambda c: c.groups[0].get("maximize") is True,
        lambda c: c.structure == "mixed" and "sparse" in c.patterns,
        lambda c: c.dialect == "optax",
        lambda c: c.curve is not None and not c.moving and not c.arrays,
    ]

    def is_the_last(case: parity.Case) -> bool:
        wanted[:] = [condition for condition in wanted if not condition(case)]
        return not wanted

    any_will_do = settings(max_examples=2000, phases=[Phase.generate])  # not the simplest one
    find(parity.cases(ALGORITHMS["adam"], "float32"), is_the_last, settings=any_will_do)


def test_what_was_compiled_for_another_algorithm_is_freed() -> None:
    """A process has room for some hundreds of programs, and the suite compiles thousands."""
    machine = backends.make("jax-jit")
    jax_backend._kept.cache_clear()  # of tests before this one
    case = parity.Case("scalar", "float32", 1, 0, ("ordinary",), membership=(0,))
    compiled = []
    for name in ("sgd", "sign_sgd"):
        machine.run(ALGORITHMS[name], case)
        (functions,) = jax_backend._kept(ALGORITHMS[name]).values()
        compiled += map(weakref.ref, functions)
        del functions
    gc.collect()
    assert [x() is None for x in compiled] == [True, True, False, False]


def test_hyperparameters_are_no_subnormal_numbers_of_float32() -> None:
    """A library may take them for 0, which some hyperparameters must not be."""
    assert [_as_array(x) for x in (1.4e-45, 1e-38, 2.0**-126, 0.25)] == [
        0,
        0,
        2.0**-126,
        0.25,
    ]
