"""The ledger of mutants: which check has caught each mutant of each formula, and what survived.

``tests/mutants.json`` has an entry for each module: the numbers of its mutants by the check that
caught them, and those that nothing caught, with the reason why they are the same function. Each row
stands beside a digest of what it depends on:

- the text of the module, of the formulas that it imports, and of the generator of mutants;
- for what a check has caught, also the check: a golden file, or the contract with all that it uses,
  and the formulas of the algorithm that it asks.

So an edit makes stale only what it can reach. :func:`stale` says what that is, :func:`tried`
tries it again, and :func:`objection` tries one number as it is written, so that nobody can make one
up. What is not a formula (:mod:`optstudy_core.arrays`) is not part of the digests: it has tests of
its own, and golden bits hold it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import formula_contracts
import golden_bits
import mutants
import reach
from equal_mutants import EQUIVALENT
from formula_contracts import CONTRACTS

FILE = Path(__file__).parents[1] / "mutants.json"


class Row(NamedTuple):
    """What one check has caught of a module.

    Attributes:
        digest: of what the result depends on.
        numbers: of the mutants.
    """

    digest: str
    numbers: frozenset[int]


class Entry(NamedTuple):
    """What is known of a module.

    Attributes:
        digest: of the module, its imports and the generator.
        count: of its mutants.
        caught: by the label of a check.
        survivors: the reason by the number of the mutant.
        reasons: digest of all reasons of the module.
        seconds: of a processor that it took to try them all; 0: nobody has noted it.
    """

    digest: str
    count: int
    caught: dict[str, Row]
    survivors: dict[int, str]
    reasons: str
    seconds: float = 0.0

    @property
    def numbers(self) -> frozenset[int]:
        """The mutants of which something is known."""
        return frozenset(self.survivors).union(*(row.numbers for row in self.caught.values()))


Ledger = dict[str, Entry]


# What results depend on.


@cache
def module_digest(module: str) -> str:
    """Return the digest of a module with formulas, of those it imports, and of the generator."""
    generator = reach.used_by(Path(mutants.__file__), "mutants")
    return reach.digest([generator, *map(reach.text_of, _files(module))])


def _files(module: str) -> list[Path]:
    """Return the files of a module and of all formulas that it imports, sorted."""
    found = {module}
    left = [module]
    while left:
        new = set(mutants.imports(left.pop())) - found
        found |= new
        left += new
    places = (mutants.PLACES[name].replace(".", "/") for name in found)
    return [mutants.FOLDER / f"{place}.py" for place in sorted(places)]


@cache
def row_digest(module: str, label: str) -> str:
    """Return the digest of what a check's result for a module depends on."""
    if label == mutants.RAISES:
        return module_digest(module)
    kind, name, *part = label.split(" ")
    if part:
        check = _golden_file(name, None if part[0] == "-" else part[0])
    else:
        check = reach.used_by(Path(formula_contracts.__file__), kind)
    return reach.digest([module_digest(module), check, *map(reach.text_of, _files(name))])


@cache
def _golden_file(name: str, dialect: str | None) -> str:
    paths = golden_bits.golden_files().items()
    (path,) = [path for path, own in paths if own == (name, dialect)]
    return path.read_text(encoding="utf-8")


def reasons_digest(module: str) -> str:
    """Return the digest of the reasons for which mutants of a module are the same function."""
    return reach.digest(sorted(f"{k}: {why}" for k, why in EQUIVALENT.items() if k[0] == module))


# What is missing.


def stale(ledger: Ledger, module: str) -> set[int] | None:
    """Return the numbers of mutants that have to be tried; ``None``: all of them."""
    entry = ledger.get(module)
    if entry is None or entry.digest != module_digest(module):
        return None
    rows = entry.caught.items()
    found = set(range(entry.count)) - entry.numbers
    found |= {i for x, row in rows if row.digest != row_digest(module, x) for i in row.numbers}
    return found if entry.reasons == reasons_digest(module) else found | set(entry.survivors)


def valid(ledger: Ledger, module: str) -> Entry:
    """Return what is known of a module and not stale."""
    numbers = stale(ledger, module)
    if numbers is None:
        return Entry(module_digest(module), count(module), {}, {}, reasons_digest(module))
    entry = ledger[module]
    rows = {k: row._replace(numbers=row.numbers - numbers) for k, row in entry.caught.items()}
    return entry._replace(
        caught={k: row for k, row in rows.items() if row.numbers},
        survivors={i: x for i, x in entry.survivors.items() if i not in numbers},
        reasons=reasons_digest(module),
        seconds=round(entry.seconds * (1 - len(numbers) / entry.count), 1),
    )


@cache
def count(module: str) -> int:
    """Return the number of mutants of a module, from the file if that is of today."""
    entry = read().get(module)
    if entry is not None and entry.digest == module_digest(module):
        return entry.count
    return sum(1 for _ in mutants.mutants(module))


# Trying.


@cache
def _checks(module: str) -> mutants.Checks:
    return mutants.Checks(module, CONTRACTS)  # it learns which checks catch most


def tried(module: str, numbers: Iterable[int]) -> tuple[Entry, list[str]]:
    """Return what the checks catch of some mutants of a module, and what speaks against the rest.

    That is a mutant that survives and is not in ``EQUIVALENT``, or computes something else on
    special values. It is not part of the entry.
    """
    begun = time.process_time()
    checks = _checks(module)
    caught: dict[str, set[int]] = {}
    survivors: dict[int, str] = {}
    objections = []
    wanted = sorted(numbers)
    for number, mutant in zip(wanted, mutants.mutants(module, set(wanted)), strict=True):
        label = checks.catching(mutant)
        if label is not None:
            caught.setdefault(label, set()).add(number)
        elif mutant.key not in EQUIVALENT:
            objections.append(f"nothing catches {mutant.kind}: {mutant.key}")
        elif (where := mutants.disagreement(mutant, checks.seeing(mutant))) is not None:
            objections.append(f"{mutant.key} computes something else: {where}")
        else:
            survivors[number] = EQUIVALENT[mutant.key]
    rows = {k: Row(row_digest(module, k), frozenset(v)) for k, v in caught.items()}
    seconds = round(time.process_time() - begun, 1)
    digest, reasons = module_digest(module), reasons_digest(module)
    return Entry(digest, count(module), rows, survivors, reasons, seconds), objections


def joined(one: Entry, other: Entry) -> Entry:
    """Return what is known of a module from two entries that share no mutant."""
    rows = dict(one.caught)
    for k, row in other.caught.items():
        rows[k] = row._replace(numbers=row.numbers | rows.get(k, row).numbers)
    seconds = round(one.seconds + other.seconds, 1)
    return one._replace(caught=rows, survivors=one.survivors | other.survivors, seconds=seconds)


def unneeded(ledger: Ledger, module: str) -> set[tuple[str, str, str, str]]:
    """Return the entries of ``EQUIVALENT`` for a module that do not survive."""
    keys = {m.key for m in mutants.mutants(module, ledger[module].survivors)}
    return {key for key in EQUIVALENT if key[0] == module} - keys


def objection(ledger: Ledger, module: str, number: int) -> str | None:
    """Try one mutant as the ledger has it; return what is otherwise, or ``None``."""
    entry = ledger[module]
    mutant = next(mutants.mutants(module, {number}), None)
    if mutant is None:
        return f"{module} has no mutant {number}"
    if number in entry.survivors:
        same = EQUIVALENT.get(mutant.key) == entry.survivors[number]
        return None if same else f"{mutant.key} does not survive for this reason"
    label = next((x for x, row in entry.caught.items() if number in row.numbers), None)
    if label is None:
        return f"the ledger does not have mutant {number} of {module}"
    try:
        copy = mutants.loaded(module, mutant.code)
    except Exception:
        return None if label == mutants.RAISES else f"{mutant.key} raises; written is {label}"
    if label == mutants.RAISES:
        return f"{mutant.key} does not raise"
    check = mutants.check_of(module, label, CONTRACTS)
    return None if check.catches(copy) else f"{label} does not catch {mutant.key}"


# The file.


def read(path: Path = FILE) -> Ledger:
    """Return the ledger that is written."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: _entry(own) for name, own in data.items()}


def write(ledger: Ledger, path: Path = FILE) -> None:
    """Write the ledger, sorted, with a line for each check."""
    data = {
        name: {
            "digest": entry.digest,
            "mutants": entry.count,
            "caught": {
                k: f"{r.digest} {text_of(r.numbers)}" for k, r in sorted(entry.caught.items())
            },
            "survivors": _by_reason(entry.survivors),
            "reasons": entry.reasons,
            "seconds": entry.seconds,
        }
        for name, entry in sorted(ledger.items())
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _entry(data: dict[str, Any]) -> Entry:
    rows = {}
    for label, text in data["caught"].items():
        digest, _, numbers = text.partition(" ")
        rows[label] = Row(digest, numbers_of(numbers))
    survivors = {i: why for why, text in data["survivors"].items() for i in numbers_of(text)}
    seconds = data.get("seconds", 0.0)
    return Entry(data["digest"], data["mutants"], rows, survivors, data["reasons"], seconds)


def _by_reason(survivors: dict[int, str]) -> dict[str, str]:
    reasons = dict.fromkeys(survivors.values())
    return {why: text_of(i for i, own in survivors.items() if own == why) for why in reasons}


def text_of(numbers: Iterable[int]) -> str:
    """Return numbers as text.

    >>> text_of({1, 2, 3, 7})
    '1-3 7'
    """
    found: list[list[int]] = []
    for i in sorted(numbers):
        if found and found[-1][-1] == i - 1:
            found[-1].append(i)
        else:
            found.append([i])
    return " ".join(str(x[0]) if len(x) == 1 else f"{x[0]}-{x[-1]}" for x in found)


def numbers_of(text: str) -> frozenset[int]:
    """Return the numbers of a text of :func:`text_of`."""
    pairs = (part.partition("-") for part in text.split())
    return frozenset(i for a, _, b in pairs for i in range(int(a), int(b or a) + 1))
