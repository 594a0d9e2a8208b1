"""No bit of any update changes unnoticed: every algorithm against its golden files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_bits import (
    EXPONENTS,
    RULES,
    SIGNS,
    STEPS,
    Golden,
    Setting,
    Trajectory,
    difference,
    golden_files,
    inputs,
    missing,
    read,
    stale,
)

COMMAND = "python tests/support/golden_bits.py"
FILES = golden_files()
each_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


@each_file
def test_file_is_complete(path):
    name, dialect = FILES[path]
    assert path.exists(), f"{path.name} is missing: run `{COMMAND}` and commit the file"
    lacking = missing(RULES[name], dialect, read(path))
    assert not lacking, f"{path.name} lacks {'; '.join(lacking)}: run `{COMMAND}`"
    assert path.stat().st_size < 120_000


LONG = ("adafactor", "adamuon", "muon", "normuon", "shampoo", "soap")
"""Rules whose products and roots of matrices take seconds: `make test` computes some cases."""


def is_ordinary(case: tuple[Setting, Trajectory]) -> bool:
    """Tell whether every term is there, and is left out for some steps at most.

    No more than one truth value is turned. So every line of a formula has a case.
    """
    setting, _ = case
    turned = sum(isinstance(x, bool) for x in setting.given.values())
    complete = 0.0 not in [x for x in setting.given.values() if not isinstance(x, bool)]
    modes = ("numbers",) if turned else ("numbers", "late")
    return complete and turned <= 1 and setting.mode in modes and setting.dtype == "float32"


def assert_bits(path: Path, golden: Golden) -> None:
    name, dialect = FILES[path]
    found = difference(RULES[name], dialect, golden)
    assert found is None, (
        f"{path.name}: {', '.join(found)}. If the change is meant, it is a breaking one: "
        f"run `{COMMAND} --rewrite` and say so in CHANGELOG.md"
    )


@each_file
def test_bits_are_those_of_the_file(path):
    if not path.exists():
        pytest.skip("no file")
    golden = read(path)
    if FILES[path][0] in LONG:
        cases = [x for x in golden.cases if is_ordinary(x)]
        golden = golden._replace(cases=cases[:: 3 if FILES[path][0] == "shampoo" else 1])
    assert golden.cases
    assert_bits(path, golden)


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in FILES if FILES[p][0] in LONG], ids=lambda p: p.stem)
def test_bits_of_long_rules_are_those_of_the_file(path):
    assert_bits(path, read(path))


def test_no_file_is_stale():
    names = [path.name for path in stale()]
    assert not names, f"{names}: no such algorithm or dialect; run `{COMMAND} --rewrite`"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_are_exact_and_varied(dtype):
    """A few values written out, so that the inputs themselves cannot drift."""
    theta, grads = inputs(dtype)
    first = grads[0].values[0]
    assert len(grads) == STEPS
    assert all(len(sign) == STEPS for sign in SIGNS)
    assert all(len(row) == STEPS for row in EXPONENTS)
    ends = [theta.values[0][0], first[0], grads[-1].values[1]]
    wanted = ["0x1.33aeb69426bb1p+0", "0x1.2066b499898d2p-20", "0x1.e65fd59ea6574p+2"]
    assert ends == [np.dtype(dtype).type(float.fromhex(x)) for x in wanted]
    sizes = np.abs(np.concatenate([g.values[0] for g in grads]))
    assert sizes.min() == 0.0
    assert sizes[sizes > 0].min() < 2e-6
    assert sizes.max() > 1e3
