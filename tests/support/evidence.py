"""The evidence that no change of a formula goes unnoticed: renew the stale part, and print it all.

    make evidence
    make evidence SHARD=2/6

tries every mutant of which the ledger (``tests/mutants.json``) does not know what it does today,
and prints for each module how many mutants there are, what has caught them, and which of them are
the same function, with the reason. Then it tries which mutants change a digest of
``python -m parity digest`` (``tests/unseen.json``). It ends with 1 if something is missing still,
or survives without a reason.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import ledger
import mutants
import numpy as np
import seen_mutants

UNKNOWN = 60.0
"""How many seconds a module is thought to take of which nobody has noted it."""

ON_DIGESTS = 0.6
"""How many seconds a mutant takes on the digests, about."""

PORTION = 100
"""How many mutants a process tries before what it found is written."""


def missing(known: ledger.Ledger) -> dict[str, int]:
    """Return how many mutants have to be tried, by module; -1: all of them."""
    found = {}
    for module in mutants.with_mutants():
        numbers = ledger.stale(known, module)
        if numbers is None or numbers:
            found[module] = -1 if numbers is None else len(numbers)
    return found


def part_of(known: ledger.Ledger, part: int, parts: int) -> list[str]:
    """Return the modules of one of several parts that take about the same time, longest first.

    They are parts of all modules, not of the stale ones, and the same for the same ledger: on
    several machines that begin with one commit.
    """
    seconds = dict.fromkeys(mutants.with_mutants(), UNKNOWN)
    for name in seconds.keys() & known.keys():
        entry = known[name]
        seconds[name] = (entry.seconds or UNKNOWN) + ON_DIGESTS * entry.count
    found: list[list[str]] = [[] for _ in range(parts)]
    for name in sorted(seconds, key=lambda x: -seconds[x]):
        min(found, key=lambda own: sum(seconds[x] for x in own)).append(name)
    return found[part - 1]


Task = Callable[[str, Sequence[int]], Any]


def work(
    task: Task, left: Mapping[str, Sequence[int]], processes: int, until: float
) -> Iterator[tuple[str, Any]]:
    """Yield what a task finds of mutants of modules, :data:`PORTION` at a time.

    So nothing is lost of what was done, and one module of many mutants takes all processors.

    Args:
        task: a function of a module and numbers of mutants.
        left: the numbers by module, in the order of the work.
        processes: how many at once.
        until: of ``time.time``; nothing begins later.
    """
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        begun = {
            pool.submit(_in_time, task, module, numbers[i : i + PORTION], until): module
            for module, numbers in left.items()
            for i in range(0, len(numbers), PORTION)
        }
        for done in as_completed(begun):
            found = done.result()
            if found is not None:
                yield begun[done], found


@np.errstate(all="ignore")
def _in_time(task: Task, module: str, numbers: Sequence[int], until: float) -> Any:
    return None if time.time() > until else task(module, numbers)


def renew(known: ledger.Ledger, modules: Sequence[str], processes: int, until: float) -> list[str]:
    """Renew modules of the ledger's file, and return what speaks against them.

    Args:
        known: the ledger, which is changed.
        modules: what is renewed, in this order.
        processes: how many at once.
        until: of ``time.time``; nothing begins later.
    """
    objections = []
    known.update({module: ledger.valid(known, module) for module in modules})
    left = {module: sorted(ledger.stale(known, module) or ()) for module in modules}
    for module, (entry, against) in work(ledger.tried, left, processes, until):
        objections += [f"{module}: {text}" for text in against]
        known[module] = ledger.joined(known[module], entry)
        ledger.write(ledger.read() | {module: known[module]})  # others may have written meanwhile
        if not ledger.stale(known, module):
            print(f"renewed {module}: {known[module].seconds:.0f} s of all", flush=True)
            gone = ledger.unneeded(known, module)
            objections += [f"{module}: it does not survive: {key}" for key in sorted(gone)]
    return objections


def renew_shown(modules: Sequence[str], processes: int, until: float) -> list[str]:
    """Renew what is known of digests, and return the modules that were not finished."""
    known = seen_mutants.read()
    left = {module: seen_mutants.to_try(known, module) for module in modules}
    for module, found in work(seen_mutants.tried, left, processes, until):
        known = seen_mutants.read()  # others may have written meanwhile
        known[module] = seen_mutants.joined(known.get(module), found)
        seen_mutants.write(known)
        if not seen_mutants.to_try(known, module):
            print(f"tried on digests: {module}", flush=True)
    known = seen_mutants.read()
    print(*seen_mutants.summary(known), sep="\n")
    return [module for module in modules if seen_mutants.to_try(known, module)]


def lines(known: ledger.Ledger) -> Iterator[str]:
    """Yield a table of the ledger: a line for each module, and what survives under it."""
    whole: Counter[str] = Counter()
    for module in mutants.with_mutants():
        entry, numbers = known.get(module), ledger.stale(known, module)
        if entry is None:
            yield f"{module}: not tried"
            continue
        kinds: Counter[str] = Counter()
        for label, row in entry.caught.items():
            kinds[label.split(" ")[0]] += len(row.numbers)
        whole += kinds
        whole["the same function"] += len(entry.survivors)
        by = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        state = "" if numbers == set() else ", stale" + (f": {len(numbers)}" if numbers else "")
        yield f"{module}: {entry.count} mutants{state}; caught by {by}"
        for why, count in Counter(entry.survivors.values()).most_common():
            yield f"    {count} the same function: {why}"
    total = sum(whole.values())
    yield f"{total} mutants: " + ", ".join(f"{kind} {n}" for kind, n in whole.most_common())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if the ledger is whole."""
    parser = argparse.ArgumentParser(prog="make evidence", description=__doc__.split("\n")[0])
    parser.add_argument("--modules", default="", help="joined by commas; else all")
    parser.add_argument("--shard", default="1/1", help="2/6: the second of six parts")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=60.0, help="after which none begins")
    given = parser.parse_args(arguments)
    known = ledger.read()
    part, parts = map(int, given.shard.split("/"))
    asked = [x for x in given.modules.split(",") if x]
    own = asked or part_of(known, part, parts)  # of the times before: they are renewed, too
    until = time.time() + 60 * given.minutes
    objections = renew(known, own, given.processes, until)
    print(*lines(known), sep="\n")
    unfinished = renew_shown(own, given.processes, until)
    left = {**missing(known), **dict.fromkeys(unfinished, -1)}
    if left:
        print("Still missing:", ", ".join(left))
    print(*objections, sep="\n")
    return 1 if left or objections else 0


if __name__ == "__main__":
    sys.exit(main())
