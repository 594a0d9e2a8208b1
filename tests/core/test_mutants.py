"""No change of a formula goes unnoticed: every generated mutant is caught by a named check.

What is caught by nothing must be the same function: it stands in ``EQUIVALENT`` with its reason,
and is held against the original on special values.
"""

from __future__ import annotations

from collections import Counter

import mutants
import pytest
from equal_mutants import EQUIVALENT
from formula_contracts import CONTRACTS
from harness import slow_unless_quick

# What `make test` tries: some mutants of an algorithm of each kind and of a wrapper, and of what
# algorithms share. `make test-all` tries every mutant.
QUICK = ("sgd", "lamb", "sm3", "polyak_sgd", "lookahead")
SHARED = ("namespace", "bias_correction", "momentum_schedule", "power")
SHARED += ("schedule_free", "terms", "trust_ratio")
SOME, FEW = 4, 2  # of each of them


def survivors(name: str, checks: mutants.Checks, most: int | None = None) -> list[mutants.Mutant]:
    """Return the mutants that no check catches; try ``most`` of them, evenly spread."""
    everything = list(mutants.mutants(name))
    step = 1 if most is None else -(-len(everything) // most)
    caught: Counter[str] = Counter()
    left = []
    for mutant in everything[::step]:
        check = checks.catching(mutant)
        if check is None:
            left.append(mutant)
        caught[(check or "nothing").split()[0]] += 1
    counts = ", ".join(f"{check} {count}" for check, count in caught.most_common())
    print(f"{name}: {caught.total()} of {len(everything)} mutants; caught by {counts}")
    return left


def report(left: list[mutants.Mutant]) -> str:
    return "\n".join(
        f"{m.module}.{m.where}, {m.kind}: {m.before}  ->  {m.after}"
        for m in left
        if m.key not in EQUIVALENT
    )


each_module = pytest.mark.parametrize("name", mutants.with_mutants())


@pytest.mark.parametrize("name", slow_unless_quick(mutants.with_mutants(), {"sgd"}))
def test_the_original_survives(name):
    """So a mutant is caught for what was changed in it."""
    code = mutants.unchanged(name)
    same = mutants.Mutant(name, "", "nothing", "", "", code, None)
    assert mutants.Checks(name, CONTRACTS).catching(same) is None


@pytest.mark.parametrize("name", [*QUICK, *SHARED])
def test_mutants_are_caught(name):
    checks = mutants.Checks(name, CONTRACTS)
    assert not report(survivors(name, checks, SOME if name in QUICK else FEW))


@pytest.mark.slow
@each_module
def test_every_mutant_is_caught(name):
    checks = mutants.Checks(name, CONTRACTS)
    left = survivors(name, checks)
    assert not report(left)
    listed = {key for key in EQUIVALENT if key[0] == name}
    assert listed == {m.key for m in left}, "an entry of EQUIVALENT that does not survive"
    for mutant in left:
        assert mutants.disagreement(mutant, checks.seeing(mutant)) is None, mutant.key


@pytest.mark.parametrize(
    ("kind", "before"),
    [("an operator", "momentum * previous"), ("a rounding dropped", "momentum * previous + u")],
)
def test_evidence_would_show_a_difference(kind, before):
    changed = [m for m in mutants.mutants("sgd") if m.kind == kind and m.before == before]
    assert changed
    assert all(mutants.disagreement(m, {"sgd"}) for m in changed)
