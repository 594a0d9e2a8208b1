"""Which mutants of the formulas change a digest (:mod:`parity.digest`).

A digest is of bits, so a mutant changes it if any bit of the standard runs is another. That is told
by a few steps of most mutants, and by whole runs of the others. Some mutants no run can show,
and some these do not. ``tests/unseen.json`` lists these mutants of each module by the reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import golden_bits
import ledger
import mutants
import numpy as np
import reach
from equal_mutants import EQUIVALENT

from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm
from parity import backends, digest, standard
from parity.case import Case
from parity.structures import DTYPES, working_dtype

FILE = Path(__file__).parents[1] / "unseen.json"

LENGTHS = (2, 20, standard.STEPS)
"""How many steps of the long runs are compared, one after the other."""
NEAR = 8
"""How many rules and dialects are compared for more than two steps."""

ONLY = "only this shows it: "
"""A check of the ledger follows."""
LATE = "a term that is absent at first and comes later"
AVERAGE = "of the average that is evaluated: no step reads it"
GIVEN = "the standard run gives the parameters at every step"
REFUSED = "of hyperparameters that are refused"
BY_CHECK = {
    "absent_terms_are_not_computed": "a term with the factor 0 is computed: the bits are the same",
    "a_late_momentum_needs_no_parameters": "zeros are made from another array: the same bits",
    "arrays_alone_keep_their_dtypes": "of arrays that are in no tree",
    "init_needs_no_hyperparameters": "the standard run gives all hyperparameters to ``init``",
    "refusals": REFUSED,
    "scalars_are_made_where_their_array_is": "on which device an array is made",
}
"""Why the standard runs do not show some of what a check of the ledger catches."""
RUNS = ("standard", "particular", "drawn", "ordinary", "structures")
"""The modules of the parity suite that say what the standard runs are."""
OUT_OF_USE = "of arguments that no algorithm has"
OUTSIDE = ("powers_keep_their_bits", "cube_roots_keep_their_bits", "helpers_do_what_they_say")
"""Checks of functions with more arguments than algorithms have."""
TYPE = "only the type of the state is another"
NUMBER = "the array is the same number everywhere: it becomes one again where it meets another"
NOT_READ = "of the first state: no step of the standard runs reads it"
OF_FLOAT32 = "where choices are turned decay rates change, and are numbers of float32"
FIRST_STATES = {
    "clipped": ("scalar(params, 0.0)", "0.0"),
    "clipped_by_unit": ("scalar(params, 0.0)", "0.0"),
    "clipped_by_value": ("scalar(params, 0.0)", "0.0"),
    "mechanic": ("scalar(params, 0.0)", "zero + initial_scale_factor"),
}
"""What is only in the first state of wrappers."""
UNSEEN = {
    ("cautious", "cautious", "not eps > 0", "False"): REFUSED,
    ("cautious", "cautious", "eps > 0", "eps >= 0"): REFUSED,
    ("cautious", "cautious", "eps > 0", "eps != 0"): REFUSED,
    ("adan", "init", "zeros(params)", "params"): NOT_READ,
    ("adopt", "update", "1 - b1", "1 - rounded(b1)"): OF_FLOAT32,
    ("adagrad", "init", "zeros + initial_accumulator_value", "initial_accumulator_value"): NUMBER,
}
"""Why it does not show a mutant that other checks catch, by its key."""


def labels(module: str) -> dict[int, str]:
    """Return what has caught each mutant of a module, as the ledger has it."""
    entry = ledger.read().get(module)
    rows = entry.caught.items() if entry else ()
    return {number: label for label, row in rows for number in row.numbers}


class Shown(NamedTuple):
    """What is known of a module.

    Attributes:
        digest: of what the result depends on.
        tried: the numbers of the mutants that were tried.
        unseen: of these the ones that change no digest, by the reason.
    """

    digest: str
    tried: frozenset[int]
    unseen: dict[str, frozenset[int]]


@cache
def depends(module: str) -> str:
    """Return the digest of a module, of what makes mutants, and of the standard run."""
    parity = Path(digest.__file__).parent
    run = (parity / f"{name}.py" for name in RUNS)
    used = (("digest", digest.digest.__name__), ("case", Case.__name__))
    parts = (reach.used_by(parity / f"{name}.py", part) for name, part in used)
    return reach.digest([ledger.module_digest(module), *parts, *map(reach.text_of, run)])


def to_try(known: Mapping[str, Shown], module: str) -> list[int]:
    """Return the numbers of mutants of which nobody knows whether a digest shows them."""
    numbers = range(ledger.count(module))
    entry = known.get(module)
    if entry is None or entry.digest != depends(module):
        return [*numbers]
    return sorted(set(numbers) - entry.tried)


def tried(module: str, numbers: Iterable[int]) -> Shown:
    """Try some mutants of a module."""
    known, wanted = labels(module), sorted(numbers)
    unseen: dict[str, set[int]] = {}
    for number, mutant in zip(wanted, mutants.mutants(module, set(wanted)), strict=True):
        label = known.get(number)
        why = reason(mutant)
        if why is None and not changes_a_digest(mutant, label):
            why = after_trying(mutant, label)
        if why is not None:
            unseen.setdefault(why, set()).add(number)
    return Shown(
        depends(module), frozenset(wanted), {why: frozenset(own) for why, own in unseen.items()}
    )


def joined(old: Shown | None, new: Shown) -> Shown:
    """Return what is known with what was found of other mutants."""
    if old is None or old.digest != new.digest:
        return new
    both = {
        why: old.unseen.get(why, frozenset()) | new.unseen.get(why, frozenset())
        for why in {**old.unseen, **new.unseen}
    }
    return Shown(new.digest, old.tried | new.tried, both)


def read(path: Path = FILE) -> dict[str, Shown]:
    """Return what is written."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        module: Shown(
            own["digest"],
            ledger.numbers_of(own["tried"]),
            {why: ledger.numbers_of(text) for why, text in own["unseen"].items()},
        )
        for module, own in data.items()
    }


def write(known: Mapping[str, Shown], path: Path = FILE) -> None:
    """Write what is known, sorted."""
    data = {
        module: {
            "digest": own.digest,
            "tried": ledger.text_of(own.tried),
            "unseen": {why: ledger.text_of(n) for why, n in sorted(own.unseen.items())},
        }
        for module, own in sorted(known.items())
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def summary(known: Mapping[str, Shown]) -> Iterator[str]:
    """Yield how many mutants change a digest, and why the others do not."""
    total, found = count(known), reasons(known)
    yield f"{total - found.total()} of {total} mutants change a digest; the others:"
    yield from (f"    {number} {why}" for why, number in found.most_common())


def count(known: Mapping[str, Shown]) -> int:
    """Return how many mutants were tried."""
    return sum(len(own.tried) for own in known.values())


def reasons(known: Mapping[str, Shown]) -> Counter[str]:
    """Return how many mutants change no digest, by the reason."""
    found: Counter[str] = Counter()
    for own in known.values():
        found.update({why: len(numbers) for why, numbers in own.unseen.items()})
    return found


def kind_of(why: str) -> str:
    """Return the kind of a reason, as the page of digests names it."""
    if why.startswith("the same function"):
        return "are the same function"
    if why == LATE:
        return "concern a term that starts later than the run"
    if why.startswith(ONLY):
        return "are caught by golden bits or another test only"
    return "change something else than a step"


def reason(mutant: mutants.Mutant) -> str | None:
    """Return why no digest shows a mutant, if that is known before it is tried."""
    if mutant.key in EQUIVALENT:
        return f"the same function: {EQUIVALENT[mutant.key]}"
    if mutant.where in ("check", "check_shape"):
        return REFUSED
    if mutant.where == "update" and (mutant.before, mutant.after) == ("grad", "params"):
        return GIVEN
    return UNSEEN.get(mutant.key)


def after_trying(mutant: mutants.Mutant, label: str | None) -> str:
    """Return why no digest shows a mutant that was tried.

    Args:
        mutant: any.
        label: of the check that catches it, by :func:`labels`.
    """
    check = (label or "-").split()[0]
    if check in BY_CHECK:
        return BY_CHECK[check]
    if mutant.before.startswith("needed(params, ") and mutant.after == "params":
        return GIVEN
    if (inner := re.fullmatch(r"\w+State\(\*(.*)\)", mutant.before)) and inner[1] == mutant.after:
        return TYPE
    if check in OUTSIDE:
        return OUT_OF_USE
    if mutant.where in ("triples", "_is_triple"):
        return REFUSED
    if mutant.where == "init" or mutant.before in FIRST_STATES.get(mutant.module, ()):
        return NOT_READ  # the digest has the states after a step
    if _is_late(label) or _begins(mutant):
        return LATE
    return AVERAGE if check.startswith("averages_") else ONLY + check


def _begins(mutant: mutants.Mutant) -> bool:
    """Tell whether a changed statement says how an average begins that was absent."""
    if mutant.line is None:
        return False
    return " is None else " in mutants.lines(mutant.module)[mutant.line - 1]


def _is_late(label: str | None) -> bool:
    """Tell whether a check of the ledger has terms that are absent at first and come later."""
    kind, *of = (label or "").split(" ")
    if kind != "bits":
        return False
    name, dialect, number = of
    files = golden_bits.golden_files().items()
    (path,) = [path for path, own in files if own == (name, None if dialect == "-" else dialect)]
    return _golden(path).cases[int(number)][0].mode == "late"


@cache
def _golden(path: Path) -> golden_bits.Golden:
    return golden_bits.read(path)


def changes_a_digest(
    mutant: mutants.Mutant, label: str | None = None, near: int | None = NEAR
) -> bool:
    """Tell whether a rule that a mutant touches has another digest, in one of its dialects.

    What raises is another formula. Where many rules have a part of their formula in one module, a
    few of them are compared for long. What only another one shows, or only the whole run in another
    dtype, counts as unseen.

    Args:
        mutant: any.
        label: of the check that catches it: the rule that it asks comes first.
        near: how many rules and dialects are compared for long; ``None``: all.
    """
    try:
        changed = rules(mutants.load(mutant.module, mutant.code))
    except Exception:
        return True
    _, *first = (label or "").split(" ")
    pairs = [pair for pair in digest.names() if pair[0] in changed]
    pairs.sort(key=lambda pair: (pair[0] not in first, pair[1] not in first))
    few, more, whole = LENGTHS
    main, *others = range(len(DTYPES))
    runs = [(pair, main, few) for pair in pairs]
    runs += [(pair, i, few) for i in others for pair in pairs[:near]]
    runs += [(pair, i, whole) for pair in pairs[:near] for i in _short(*pair)]
    runs += [(pair, i, more) for i in (main, *others) for pair in pairs[:near]]
    runs += [(pair, main, whole) for pair in pairs[: None if near is None else 1]]
    return any(_other_defaults(changed[pair[0]], *pair) for pair in pairs) or any(
        _differs(changed[pair[0]], *pair, number, length) for pair, number, length in runs
    )


def differs_with(structure: str, mutant: mutants.Mutant) -> bool:
    """Tell whether a rule that a mutant touches differs in a standard run with a structure."""
    changed = rules(mutants.load(mutant.module, mutant.code))
    return any(
        _differs(changed[pair[0]], *pair, number, standard.STEPS)
        for pair in digest.names()
        if pair[0] in changed
        for number, run in enumerate(_runs(*pair))
        if run.structure == structure
    )


def rules(modules: dict[str, Any]) -> dict[str, Algorithm]:
    """Return the rules among changed modules by the name of their digests."""
    found = {}
    for name, rule in mutants.algorithms(modules).items():
        if name in WRAPPERS:
            found[f"{name}_adam"] = getattr(modules[name], name)(ALGORITHMS["adam"])
        else:
            found[name] = rule
    return found


def _other_defaults(changed: Algorithm, name: str, dialect: str | None) -> bool:
    rule = digest.find_subject(name)
    assert isinstance(rule, Algorithm)
    wanted = list(digest.defaults(rule, dialect))
    try:
        return list(digest.defaults(changed, dialect)) != wanted
    except Exception:
        return True


def _differs(changed: Algorithm, name: str, dialect: str | None, number: int, length: int) -> bool:
    """Tell whether the first steps of a standard run have other bits."""
    wanted = _as_it_is(name, dialect, number, length)
    if wanted is None:  # so long is no run of this rule
        return False
    try:
        found = _bits(changed, _runs(name, dialect)[number], length)
        return any(x != y for x, y in zip(found, wanted, strict=True))
    except Exception:
        return True


@cache
def _runs(name: str, dialect: str | None) -> tuple[standard.StandardRun, ...]:
    rule = digest.find_subject(name)
    assert isinstance(rule, Algorithm)
    return tuple(standard.runs(rule, dialect))


def _short(name: str, dialect: str | None) -> range:
    """Return the numbers of the short runs."""
    return range(len(DTYPES), len(_runs(name, dialect)))


@cache
def _as_it_is(name: str, dialect: str | None, number: int, length: int) -> list[bytes] | None:
    rule, run = digest.find_subject(name), _runs(name, dialect)[number]
    assert isinstance(rule, Algorithm)
    before = [x for x in LENGTHS if x < length]
    if number < len(DTYPES) and before and before[-1] >= run.steps:
        return None
    return list(_bits(rule, run, length))


def _bits(rule: Algorithm, run: standard.StandardRun, length: int) -> Iterator[bytes]:
    """Yield what the digest of the first steps is of."""
    mutants.working_dtype(working_dtype(DTYPES[run.dtype]).name)
    with backends.whole_range(), np.errstate(all="ignore"):
        case = replace(run, steps=min(length, run.steps))
        yield from digest.bits(backends.make("numpy").run(rule, case))
