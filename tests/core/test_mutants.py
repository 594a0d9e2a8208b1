"""No change of a formula goes unnoticed: generated mutants are caught by named checks.

What is caught by nothing must be the same function: it stands in ``EQUIVALENT`` with its reason.
`make evidence` tries every mutant, and the ledger (``test_ledger.py``) has what it found.
"""

from __future__ import annotations

from collections import Counter

import mutants
import pytest
from equal_mutants import EQUIVALENT
from formula_contracts import CONTRACTS
from harness import slow_unless_quick

# What `make test` tries: some mutants of an algorithm of each kind and of a wrapper, and of what
# algorithms share.
QUICK = ("sgd", "lamb", "sm3", "polyak_sgd", "lookahead")
SHARED = ("namespace", "bias_correction", "momentum_schedule", "power")
SHARED += ("schedule_free", "terms", "trust_ratio")
SOME, FEW = 4, 2  # of each of them


def survivors(name: str, checks: mutants.Checks, most: int) -> list[mutants.Mutant]:
    """Return the mutants that no check catches; try ``most`` of them, evenly spread."""
    everything = list(mutants.mutants(name))
    step = -(-len(everything) // most)
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


@pytest.mark.parametrize(
    ("kind", "before"),
    [("an operator", "momentum * previous"), ("a rounding dropped", "momentum * previous + u")],
)
def test_evidence_would_show_a_difference(kind, before):
    changed = [m for m in mutants.mutants("sgd") if m.kind == kind and m.before == before]
    assert changed
    assert all(mutants.disagreement(m, {"sgd"}) for m in changed)
