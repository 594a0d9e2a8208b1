"""``python -m optstudy_core``: list, cite and explain algorithms; show the file of a training."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import textwrap
from collections.abc import Sequence
from functools import partial

import numpy as np

from optstudy_core.arrays.leaves import Leaves, map_leaves
from optstudy_core.arrays.numbers import nearest
from optstudy_core.arrays.numpy_backend import NumPy

from . import ALGORITHMS, citation
from .catalogue.algorithm import Algorithm
from .catalogue.citation import field
from .catalogue.docstring import meaning
from .catalogue.table import WRAPPERS, find


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m optstudy_core", description=__doc__, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="list all algorithms: year, paper, state, dialects")
    for name, text in {
        "cite": "print the BibTeX entries of the sources and of the implementation",
        "explain": "print the equations, the hyperparameters with defaults, and the dialects",
    }.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("names", nargs="+", metavar="NAME", help="names of algorithms")
    text = "show the contents of a file of export_run or torch.save, without running code from it"
    command = commands.add_parser("state", help=text)
    command.add_argument("file", metavar="FILE", help="the file to show")
    arguments = parser.parse_args(argv)
    if arguments.command == "list":
        print(table())
        return 0
    if arguments.command == "state":
        return _show(arguments.file)
    known = [*ALGORITHMS, *WRAPPERS]
    for name in arguments.names:
        if name not in known:
            print(f"optstudy_core: algorithm = {name!r}: {nearest(name, known)}", file=sys.stderr)
            return 2
    cite = partial(citation, implementation=True)
    function = cite if arguments.command == "cite" else explained
    print("\n\n".join(function(name) for name in arguments.names))
    return 0


def _show(file: str) -> int:
    from .travel.shown import shown  # checkpoints need an extra

    try:
        print(shown(file))
    except (ImportError, OSError, ValueError) as error:
        print(f"optstudy_core: {error}", file=sys.stderr)
        return 2
    return 0


def table() -> str:
    """Return one line for each algorithm, sorted by name, with a heading; then the wrappers.

    ``state`` is the number of elements in the state for each element of a square matrix, with the
    default hyperparameters; for a wrapper, without the inner algorithm. ``inputs`` are the inputs
    besides the gradient.
    """
    rows = [("name", "torch class", "year", "state", "inputs", "dialects", "paper")]
    rows += [
        (
            name,
            algorithm.title,
            field(algorithm.bibtex[0], "year"),
            str(state_size(algorithm)),
            ", ".join(algorithm.inputs) or "-",
            ", ".join(algorithm.dialects),
            textwrap.shorten(field(algorithm.bibtex[0], "title"), 40, placeholder=" …"),
        )
        for name, algorithm in sorted(ALGORITHMS.items())
    ]
    inner = ALGORITHMS["sgd"]  # which has no state
    rows += [
        (
            name,
            "around any",
            field(wrapped.bibtex[0], "year"),
            str(state_size(wrapped)),
            "-",
            "of the inner one",
            textwrap.shorten(field(wrapped.bibtex[0], "title"), 40, placeholder=" …"),
        )
        for name, wrapped in ((name, wrapper(inner)) for name, wrapper in WRAPPERS.items())
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def state_size(algorithm: Algorithm, dialect: str | None = None) -> int:
    """Return the number of elements in the state for each element of a square matrix."""
    sizes: list[int] = []
    state = algorithm.start(
        Leaves([np.zeros((_SIDE, _SIDE))], NumPy()), algorithm.defaults(dialect)
    )
    # A field that the matrix does not need is None.
    map_leaves(
        lambda leaves: sizes.append(np.size(leaves.values[0]) - (leaves.values[0] is None)), state
    )
    return round(sum(sizes) / _SIDE**2)


_SIDE = 64
"""The number of rows and columns of the matrix, so large that vectors round to 0."""


def explained(name: str) -> str:
    """Return the explanation of an algorithm or of a wrapper."""
    if name not in WRAPPERS:
        return explanation(find(name))
    wrapper = WRAPPERS[name]
    texts = [inspect.getdoc(x) or "" for x in (inspect.getmodule(wrapper), wrapper)]
    return f"# {name}\n\n{texts[0]}\n\n{texts[1].partition(chr(10) * 2 + '>>>')[0]}"


def explanation(algorithm: Algorithm) -> str:
    """Return the equations, the hyperparameters, and the values of dialects that differ."""
    module = inspect.getmodule(algorithm.update)
    parts = [f"# {algorithm.name}\n", inspect.cleandoc((module and module.__doc__) or "")]
    text = inspect.cleandoc(algorithm.update.__doc__ or "")
    parts.append("\nHyperparameters (default):")
    for name, value in algorithm.defaults().items():
        parts.append(f"  {name} = {value}{described(text, name)}")
    parts.append("\nDialects:")
    for dialect in algorithm.dialects:
        own = ", ".join(f"{k} = {v}" for k, v in algorithm.dialects[dialect].items())
        parts.append(f"  {dialect}: {own or 'the defaults'}")
    return "\n".join(parts)


def described(text: str, name: str) -> str:
    """Return the description of an argument in a docstring, on one line."""
    told = meaning(text, name)
    return f": {told}" if told else ""


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, for example `head`, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
