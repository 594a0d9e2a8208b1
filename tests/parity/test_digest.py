"""Digests: the same on every backend, those that are recorded, and others for other formulas."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutants
import numpy as np
import pytest
import seen_mutants
from harness import ROOT, slow

import optstudy_core
from optstudy_core import ALGORITHMS
from optstudy_core.catalogue import digests
from parity import digest, drawn
from parity.__main__ import main

FEW = 3
"""How many digests are computed again: others each time."""
DEAR = ("adamuon", "muon", "normuon", "shampoo", "soap")
"""Algorithms whose digests take many seconds."""


def pair(key: str) -> tuple[str, str]:
    name, _, dialect = key.partition(" ")
    return name, dialect


@pytest.mark.slow
@pytest.mark.parametrize("key", digests.recorded())
def test_numpy_finds_what_is_recorded(key: str) -> None:
    assert digest.digest(*pair(key)) == digests.recorded()[key]


def test_numpy_finds_some_of_what_is_recorded() -> None:
    quick = [key for key in digests.recorded() if pair(key)[0] not in DEAR]
    for key in random.sample(quick, FEW):
        assert digest.digest(*pair(key)) == digests.recorded()[key], key


def test_every_algorithm_and_dialect_is_recorded() -> None:
    missing = {digests.key(*found) for found in digest.names()} ^ set(digests.recorded())
    assert not missing, f"python -m parity digest --write: {sorted(missing)}"


def _backends() -> list[object]:
    """Each rule on each backend, in another of its dialects.

    Dialects differ in arguments, and ``tests/test_every_property.py`` has the bits of all of them.
    """
    own: dict[str, list[str]] = {}
    for key in digests.recorded():
        if not key.startswith(("shampoo", "soap")):
            own.setdefault(pair(key)[0], []).append(key)
    names = enumerate(("torch", "torch-compiled", "jax-jit"))
    pairs = {(keys[i % len(keys)], name) for i, name in names for keys in own.values()}
    quick = {("sgd torch", "torch"), ("sgd torch", "torch-compiled")}  # JAX compiles for seconds
    return [*sorted(quick), *(slow(*found) for found in sorted(pairs - quick))]


@pytest.mark.parametrize(("key", "backend"), _backends())
def test_every_backend_finds_it(key: str, backend: str) -> None:
    assert digest.digest(*pair(key), backend=backend) == digests.recorded()[key]


def test_the_stream_is_the_same_for_ever() -> None:
    """What is drawn comes from SHAKE-256 and is exact: a change makes all digests others."""
    found = drawn.drawn("leaf hidden/bias", (4,)).tolist()
    assert found == FIRST
    values = drawn.drawn("leaf hidden/kernel", (500, 4, 3))
    assert 0.04 < (values == 0).mean() < 0.09
    sizes = np.abs(values[values != 0])
    assert 2.0**-20 <= sizes.min() < 2.0**-18
    assert 2.0**4 < sizes.max() < 2.0**5
    assert np.array_equal(np.float32(values), values)


FIRST = [0.09588122367858887, -2.30413818359375, -4.161552429199219, -0.9991865158081055]


SOME = 8
"""Modules of which a mutant is tried again: others each time."""


def _left() -> dict[str, int]:
    known = seen_mutants.read()
    left = {name: len(seen_mutants.to_try(known, name)) for name in mutants.with_mutants()}
    return {name: count for name, count in left.items() if count}


def test_mutants_that_were_not_tried_are_said() -> None:
    if left := _left():
        names = ", ".join(f"{count} mutants of {name}" for name, count in left.items())
        pytest.skip(f"`make evidence` has to try digests of {names}")


@pytest.mark.slow
def test_every_mutant_was_tried() -> None:
    assert not _left()


def test_digests_show_what_is_written() -> None:
    known, left = seen_mutants.read(), _left()
    whole = sorted(known.keys() - left.keys())
    for module in random.sample(whole, min(SOME, len(whole))):
        shown = sorted(known[module].tried.difference(*known[module].unseen.values()))
        if not shown:  # what a digest never runs, such as the parameters to evaluate
            continue
        number = random.choice(shown)
        (mutant,) = mutants.mutants(module, {number})
        label = seen_mutants.labels(module).get(number)
        # The ledger may have named another check then, so other rules were compared first.
        assert any(
            seen_mutants.changes_a_digest(mutant, label, near) for near in (seen_mutants.NEAR, None)
        ), (number, mutant.key)


def test_few_mutants_change_no_digest() -> None:
    """Of those that change what a step computes: 1 % at most."""
    known = seen_mutants.read()
    unseen = [
        number
        for why, number in seen_mutants.reasons(known).items()
        if why == seen_mutants.LATE or why.startswith(seen_mutants.ONLY)
    ]
    assert sum(unseen) <= 0.01 * seen_mutants.count(known)


def test_the_page_has_the_numbers_of_the_file() -> None:
    known = seen_mutants.read()
    total, kinds = seen_mutants.count(known), Counter[str]()
    for why, number in seen_mutants.reasons(known).items():
        kinds[seen_mutants.kind_of(why)] += number
    page = (ROOT / "docs" / "digests.md").read_text(encoding="utf-8")
    assert f"{total - kinds.total():,} of the {total:,} mutants change a digest" in page
    for kind, count in kinds.items():
        assert f"- {count:,} {kind}" in page, (kind, count)


def test_what_is_found_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "found"
    one = seen_mutants.tried("sign_sgd", [0, 1, 2])
    known = {"sign_sgd": seen_mutants.joined(one, seen_mutants.tried("sign_sgd", [5]))}
    seen_mutants.write(known, file)
    assert seen_mutants.read(file) == known
    assert known["sign_sgd"].tried == {0, 1, 2, 5}
    assert not {0, 1, 2, 5} & {*seen_mutants.to_try(known, "sign_sgd")}
    other = {"sign_sgd": one._replace(digest="another")}
    assert 0 in seen_mutants.to_try(other, "sign_sgd")
    assert seen_mutants.read(tmp_path / "none") == {}


SMALLER = "min((shape[i] for i in axes[-2:]))"
SHOWN = [
    ("adadelta", "g", "grad", "standard", "where the objective is maximized"),
    ("signum", "1 - b1", "1 - rounded(b1)", "standard", "where the decay rate is the default"),
    ("adabelief", "g", "grad", "standard", "where choices are turned"),
    ("asgd", "1 / doubles.maximum(before - t0, 1.0)", "1", "corners", "where numbers are others"),
    ("trust_ratio", "weights == 0", "weights < 0", "corners", "where parameters start at 0"),
    ("adafactor", "128", "129", "large", "in matrices as large as bounds"),
    ("lion", "1 - b1", "1 - rounded(b1)", "many", "where a sum under a sign cancels"),
    ("prodigy", "size > 0", "size >= 0", "odd", "where no distance can be estimated"),
    ("skipping", "finite & xp.isfinite(value)", "finite", "odd", "where a loss is not finite"),
    ("lookahead", "t >= sync_period", "t == sync_period", "odd", "where a period has half a step"),
    ("shampoo", "order == 2", "order < 2", "long", "where an axis is too long for a matrix"),
    ("adafactor", f"{SMALLER} < 128", f"{SMALLER} != 128", "beyond", "in matrices beyond bounds"),
]


@pytest.mark.parametrize(("module", "before", "after", "structure", "where"), SHOWN)
def test_the_standard_run_shows(
    module: str, before: str, after: str, structure: str, where: str
) -> None:
    changed = [m for m in mutants.mutants(module) if (m.before, m.after) == (before, after)]
    assert changed
    assert all(seen_mutants.differs_with(structure, m) for m in changed), where


def test_a_digest_is_of_the_defaults_too() -> None:
    changed = [m for m in mutants.mutants("signum") if m.after == "0.9000000000000001"]
    assert changed
    assert all(map(seen_mutants.changes_a_digest, changed))


def test_reasons_are_of_mutants_that_no_digest_shows() -> None:
    mutant = next(m for m in mutants.mutants("sign_sgd") if m.key[2:] == ("grad", "params"))
    assert seen_mutants.reason(mutant) == seen_mutants.GIVEN
    assert not seen_mutants.changes_a_digest(mutant)
    other = next(m for m in mutants.mutants("sign_sgd") if m.kind == "a sign or not dropped")
    assert seen_mutants.reason(other) is None
    assert seen_mutants.changes_a_digest(other)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(digest, "digest", lambda name, dialect, backend: f"{name}-{dialect}")
    assert main(["digest", "--algorithms", "sgd", "--processes", "1"]) == 1
    said = capsys.readouterr().out
    recorded = digests.recorded()["sgd torch"]
    assert f"sgd-torch  sgd torch  recorded is {recorded}" in said
    assert "4 of 4 digests differ from the recorded digests" in said
    for bad, message in {
        "sgdd": "did you mean 'sgd'",
        "epoch.careful": "an epoch method has no digest",
        ",": "no algorithm is named",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            main(["digest", "--algorithms", bad])
        assert message in capsys.readouterr().err


def test_several_are_computed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["digest", "--algorithms", "sign_sgd,signum", "--processes", "2"]) == 0
    names = [line.split()[1:] for line in capsys.readouterr().out.splitlines()]
    assert names == [[n, d] for n in ("sign_sgd", "signum") for d in ("optax", "paper")]


def test_it_needs_no_framework() -> None:
    """So a reader checks a digest without gigabytes of packages."""
    code = """
import sys
from parity.__main__ import backends, main
backends.find_spec = lambda name: None
assert main(["digest", "--algorithms", "sign_sgd", "--processes", "1"]) == 0
assert not {"torch", "jax", "optax", "flax", "keras"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_a_citation_names_the_digests() -> None:
    text = optstudy_core.citation("adamw", implementation=True)
    for dialect in ALGORITHMS["adamw"].dialects:
        assert f"{dialect} {digests.recorded()[digests.key('adamw', dialect)]}" in text
    assert "digests" in optstudy_core.citation("lookahead", implementation=True)
