"""What follows from a new file in ``optstudy_core/algorithms``, written by one command.

    make algorithm NAME=heavy_ball

writes its golden bits and digests, its rows in ``docs/conformance.md`` and the count in the README,
and says what is left to write by hand, and where.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import golden_bits
from harness import ROOT

from optstudy_core import ALGORITHMS
from optstudy_core.catalogue import digests
from optstudy_core.catalogue.citation import entries
from parity import conformance, digest, peers

README, CHANGELOG, TABLE = ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "docs/conformance.md"
COUNT = re.compile(r"\b\d+(?= algorithms\b)|(?<=\| algorithms \| )\d+")


def lacking(name: str) -> list[str]:
    """Return what is still to be written by hand for an algorithm: each with its place."""
    place = f"optstudy_core/algorithms/{name}.py"
    if name not in ALGORITHMS:
        return [f"{place}: the algorithm itself; CONTRIBUTING.md shows one"]
    algorithm, found = ALGORITHMS[name], []
    if not algorithm.bibtex:
        found.append(f"{place}: BIBTEX names no source")
    found += [
        f"optstudy_core/references.bib: the entry {key!r}, which BIBTEX names"
        for key in algorithm.bibtex
        if key not in entries()
    ]
    if not algorithm.dialects:
        found.append(f'{place}: DIALECTS is empty; {{"paper": {{}}}} if no library has the rule')
    return found + without_peer(name)


def without_peer(name: str) -> list[str]:
    """Return, for each dialect that nothing is held against, where its peer is to be written."""
    pairs, missing = peers.collect()
    have = {pair.dialect for pair in pairs if pair.algorithm == name}
    libraries = {x: module for x, module in peers.MODULES.items() if x != "numpy"}
    found = []
    for dialect in sorted(set(ALGORITHMS[name].dialects) - set(missing) - have):
        if dialect in libraries:
            text = f"parity/peers/{libraries[dialect]}: the pair with {dialect}'s own"
        else:
            text = "parity/peers/papers: a loop from the paper's pseudocode, and its pair"
        found.append(f"{text}, for dialect {dialect!r} of {name}")
    return found


def stale(name: str) -> list[str]:
    """Return which generated text does not have the algorithm as it is."""
    found = [
        f"tests/golden/{path.name}"
        for path, (own, _) in golden_bits.golden_files().items()
        if own == name and not path.exists()
    ]
    own_keys = {digests.key(*pair) for pair in digest.names() if pair[0] == name}
    if own_keys - digests.recorded().keys():
        found.append("optstudy_core/digests.json")
    if f"\n| {name} |" not in TABLE.read_text(encoding="utf-8"):
        found.append("docs/conformance.md")
    if {*COUNT.findall(README.read_text(encoding="utf-8"))} != {str(len(ALGORITHMS))}:
        found.append("README.md")
    return found


def write(name: str) -> None:
    """Write what follows from the file."""
    for path, (own, dialect) in golden_bits.golden_files().items():
        if own == name:
            golden_bits.write(path, golden_bits.RULES[own], dialect, False)
    text = README.read_text(encoding="utf-8")
    README.write_text(COUNT.sub(str(len(ALGORITHMS)), text), encoding="utf-8")
    conformance.main(["--algorithms", name, "--write", str(TABLE)])
    digest.main(["--algorithms", name, "--write"])
    digests.recorded.cache_clear()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if nothing is left to do but the changelog."""
    parser = argparse.ArgumentParser(prog="make algorithm", description=__doc__.split("\n")[0])
    parser.add_argument("NAME", help="of the file, without .py")
    name = parser.parse_args(arguments).NAME
    left = lacking(name)
    if left:
        print("To write by hand first:", *left, sep="\n- ")
        return 1
    write(name)
    rest = stale(name)
    print("Written: golden bits, digests, rows of docs/conformance.md, the count in README.md.")
    if rest:
        print("Still stale:", *rest, sep="\n- ")
        return 1
    print("By hand remains: a line in CHANGELOG.md, and a look at `git diff`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
