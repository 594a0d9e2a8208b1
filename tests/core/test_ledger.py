"""The ledger of mutants is of this source, and was not written by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evidence
import ledger
import mutants
import numpy as np
import pytest
import reach

KNOWN = ledger.read()
SOME, OF_EACH = 10, 2
"""Modules and mutants of each that are tried again: another twenty each time."""


@pytest.fixture(autouse=True)
def _numbers_of_any_size() -> Any:
    with np.errstate(all="ignore"):
        yield


def test_what_is_stale_is_said() -> None:
    left = evidence.missing(KNOWN)
    if left:
        names = ", ".join(name if n < 0 else f"{n} mutants of {name}" for name, n in left.items())
        pytest.skip(f"`make evidence` has to try {names}")


@pytest.mark.slow
def test_the_ledger_is_whole() -> None:
    assert not evidence.missing(KNOWN)
    assert KNOWN.keys() == set(mutants.with_mutants())


def test_entries_are_what_is_found_today() -> None:
    left = evidence.missing(KNOWN)
    whole = sorted(KNOWN.keys() - left.keys())
    for module in random.sample(whole, min(SOME, len(whole))):
        numbers = range(KNOWN[module].count)
        for number in random.sample(numbers, min(OF_EACH, len(numbers))):
            assert ledger.objection(KNOWN, module, number) is None, (module, number)


# The tool.

SMALL = "sign_sgd"


@pytest.fixture(scope="module")
def entry() -> ledger.Entry:
    with np.errstate(all="ignore"):
        return ledger.tried(SMALL, range(len([*mutants.mutants(SMALL)])))[0]


def test_a_ledger_is_read_as_it_was_written(entry: ledger.Entry, tmp_path: Path) -> None:
    known = {SMALL: entry._replace(survivors={7: "only the shape", 9: "only the shape"})}
    ledger.write(known, tmp_path / "ledger")
    assert ledger.read(tmp_path / "ledger") == known
    assert ledger.read(tmp_path / "none") == {}


def test_an_entry_has_every_mutant_once(entry: ledger.Entry) -> None:
    numbers = sorted(i for row in entry.caught.values() for i in row.numbers)
    assert numbers == list(range(entry.count)) == list(range(len([*mutants.mutants(SMALL)])))
    assert ledger.stale({SMALL: entry}, SMALL) == set()
    assert ledger.stale({}, SMALL) is None
    assert all(ledger.objection({SMALL: entry}, SMALL, i) is None for i in numbers[::5])


def test_an_edit_makes_stale_what_it_can_reach(entry: ledger.Entry) -> None:
    (label, row), *_ = ((x, r) for x, r in entry.caught.items() if x.startswith("bits"))
    old = entry._replace(caught=entry.caught | {label: row._replace(digest="another")})
    assert ledger.stale({SMALL: old}, SMALL) == row.numbers
    kept = ledger.valid({SMALL: old}, SMALL)
    assert kept.numbers == entry.numbers - row.numbers
    assert ledger.stale({SMALL: kept}, SMALL) == row.numbers  # and what nobody has tried
    again = ledger.joined(kept, ledger.tried(SMALL, row.numbers)[0])
    assert again._replace(seconds=entry.seconds) == entry
    assert ledger.stale({SMALL: entry._replace(digest="another")}, SMALL) is None
    survivors = entry._replace(survivors={3: "a reason"}, reasons="of another reason")
    assert ledger.stale({SMALL: survivors}, SMALL) == {3}


def test_what_is_made_up_is_found(entry: ledger.Entry) -> None:
    def says(**changed: Any) -> str:
        found = [ledger.objection({SMALL: entry._replace(**changed)}, SMALL, i) for i in range(12)]
        return " ".join(filter(None, found))

    some = frozenset(range(entry.count))
    row = next(iter(entry.caught.values()))._replace(numbers=some)
    assert "does not catch" in says(caught={"bits sign_sgd optax 0": row})
    assert "does not raise" in says(caught={mutants.RAISES: row})
    assert "does not survive for this reason" in says(survivors={3: "a reason"})
    assert "does not have mutant 0" in says(caught={})
    assert "no mutant 12345" in (ledger.objection({SMALL: entry}, SMALL, 12345) or "")


def test_parts_take_the_same_time(entry: ledger.Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"a": 300.0, "b": 10.0, "c": 200.0, "d": 0.0, "e": 90.0}
    monkeypatch.setattr(mutants, "with_mutants", lambda: (*seconds, "f"))
    known = {name: entry._replace(seconds=own, count=0) for name, own in seconds.items()}
    assert evidence.part_of(known, 1, 2) == ["a", "f"]  # of d and f nobody has noted the time
    assert evidence.part_of(known, 2, 2) == ["c", "e", "d", "b"]
    assert sorted(evidence.part_of({}, 1, 1)) == [*"abcdef"]
    known["b"] = known["b"]._replace(count=1000)  # mutants of which each is tried on digests, too
    assert evidence.part_of(known, 1, 2)[0] == "b"


def test_a_part_stays_while_its_times_are_renewed(
    entry: ledger.Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"a": 300.0, "b": 200.0, "c": 150.0}
    monkeypatch.setattr(mutants, "with_mutants", lambda: (*seconds,))
    known = {name: entry._replace(seconds=own) for name, own in seconds.items()}
    monkeypatch.setattr(ledger, "read", lambda: known)
    shown: list[str] = []

    def renew(known: ledger.Ledger, modules: Sequence[str], *_: Any) -> list[str]:
        known.update({name: known[name]._replace(seconds=1.0) for name in modules})
        return []

    monkeypatch.setattr(evidence, "renew", renew)
    monkeypatch.setattr(evidence, "renew_shown", lambda own, *_: shown.extend(own) or [])
    monkeypatch.setattr(evidence, "lines", lambda known: ())
    monkeypatch.setattr(evidence, "missing", lambda known: dict.fromkeys(known, -1))
    evidence.main(["--shard", "1/2"])
    assert shown == ["a"]


def test_a_survivor_needs_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = enumerate(mutants.mutants(SMALL))
    number, mutant = next((i, m) for i, m in everything if m.kind == "a sign or not dropped")
    monkeypatch.setattr(mutants.Checks, "catching", lambda self, mutant: None)
    found, (objection,) = ledger.tried(SMALL, {number})
    assert not found.numbers
    assert "nothing catches" in objection
    monkeypatch.setitem(ledger.EQUIVALENT, mutant.key, "a reason")
    found, (objection,) = ledger.tried(SMALL, {number})
    assert not found.numbers
    assert "computes something else" in objection


def test_digests_are_of_what_counts(tmp_path: Path) -> None:
    texts = {
        "a": '"""Says."""\nX = 1\n\ndef f(x):\n    return X * x\n\ndef g(x):\n    return f(x)\n',
        "b": '"""Else."""\nX = 1  # so\ndef f(x):\n    """Of x."""\n    return X * x\n\n'
        "def g(x):\n    # why\n    return f(x)\n",
        "c": "X = 2\ndef f(x):\n    return X * x\ndef g(x):\n    return f(x)\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    a, b, c = (reach.text_of(tmp_path / name) for name in texts)
    assert a == b != c
    a, b, c = (reach.used_by(tmp_path / name, "g") for name in texts)
    assert a == b != c  # by way of f
    assert "g(x)" not in reach.used_by(tmp_path / "a", "f")
