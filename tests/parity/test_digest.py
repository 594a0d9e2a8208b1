"""Digests: the same on every backend, those that are recorded, and others for other formulas."""

from __future__ import annotations

import subprocess
import sys

import mutants
import numpy as np
import pytest
from equal_mutants import EQUIVALENT
from harness import ROOT, slow

import optstudy_core
from optstudy_core import ALGORITHMS
from optstudy_core.catalogue import digests
from parity import digest
from parity.__main__ import main

QUICK = ("adam keras", "sgd torch", "averaged_adam torch")


def pair(key: str) -> tuple[str, str]:
    name, _, dialect = key.partition(" ")
    return name, dialect


@pytest.mark.parametrize("key", [k if k in QUICK else slow(k) for k in digests.recorded()])
def test_numpy_finds_what_is_recorded(key: str) -> None:
    assert digest.digest(*pair(key)) == digests.recorded()[key]


def test_every_algorithm_and_dialect_is_recorded() -> None:
    missing = {digests.key(*found) for found in digest.names()} ^ set(digests.recorded())
    assert not missing, f"python -m parity digest --write: {sorted(missing)}"


def _backends() -> list[object]:
    names = ("torch", "torch-compiled", "jax-jit")
    keys = [k for k in digests.recorded() if not k.startswith(("shampoo", "soap"))]
    pairs = [(key, name) for key in keys for name in names]
    quick = {("sgd torch", "torch"), ("sgd torch", "torch-compiled")}  # JAX compiles for seconds
    return [own if own in quick else slow(*own) for own in pairs]


@pytest.mark.parametrize(("key", "backend"), _backends())
def test_every_backend_finds_it(key: str, backend: str) -> None:
    assert digest.digest(*pair(key), backend=backend) == digests.recorded()[key]


def test_the_stream_is_the_same_for_ever() -> None:
    """What is drawn comes from SHAKE-256 and is exact: a change makes all digests others."""
    found = digest.drawn("leaf hidden/bias", (4,)).tolist()
    assert found == FIRST
    values = digest.drawn("leaf hidden/kernel", (500, 4, 3))
    assert 0.04 < (values == 0).mean() < 0.09
    sizes = np.abs(values[values != 0])
    assert 2.0**-20 <= sizes.min() < 2.0**-18
    assert 2.0**4 < sizes.max() < 2.0**5
    assert np.array_equal(np.float32(values), values)


FIRST = [0.09588122367858887, -2.30413818359375, -4.161552429199219, -0.9991865158081055]


WHOLE = [slow(name, 8) for name in ("sgd", "adam", "lion", "rmsprop", "lamb")]


@pytest.mark.parametrize(("name", "every"), [("sgd", 120), *WHOLE])
def test_another_formula_has_another_digest(name: str, every: int) -> None:
    same = []
    for mutant in list(mutants.mutants(name))[::every]:
        if mutant.key in EQUIVALENT:
            continue
        changed = mutants.algorithms(mutants.load(name, mutant.code))[name]
        try:
            found = (
                digest.digest(changed, dialect) == digests.recorded()[digests.key(name, dialect)]
                for dialect in ALGORITHMS[name].dialects
            )
            if all(found):
                same.append(mutant)
        except Exception:  # a mutant that cannot run is another formula
            continue
    assert not same, "\n".join(f"{m.where}: {m.before} -> {m.after}" for m in same)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(digest, "digest", lambda name, dialect, backend: f"{name}-{dialect}")
    assert main(["digest", "--algorithms", "sgd"]) == 1
    said = capsys.readouterr().out
    recorded = digests.recorded()["sgd torch"]
    assert f"sgd-torch  sgd torch  recorded is {recorded}" in said
    assert "4 of 4 digests differ from the recorded digests" in said
    for bad, message in {
        "sgdd": "did you mean 'sgd'",
        "epoch.careful": "an epoch method has no digest",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            main(["digest", "--algorithms", bad])
        assert message in capsys.readouterr().err


def test_it_needs_no_framework() -> None:
    """So a reader checks a digest without gigabytes of packages."""
    code = """
import sys
from parity.__main__ import backends, main
backends.find_spec = lambda name: None
assert main(["digest", "--algorithms", "sign_sgd"]) == 0
assert not {"torch", "jax", "optax", "flax", "keras"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_a_citation_names_the_digests() -> None:
    text = optstudy_core.citation("adamw", implementation=True)
    for dialect in ALGORITHMS["adamw"].dialects:
        assert f"{dialect} {digests.recorded()[digests.key('adamw', dialect)]}" in text
    assert "digests" in optstudy_core.citation("lookahead", implementation=True)
