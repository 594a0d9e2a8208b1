"""The tables of algorithms and wrappers, from their folders. A new file is a new entry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, Generic, TypeVar

from optstudy_core import algorithms, wrappers
from optstudy_core.arrays.numbers import nearest

from .algorithm import Algorithm

T = TypeVar("T")


class Folder(Mapping[str, T], Generic[T]):
    """A mapping with an entry for each file of a package, by the name of the file.

    A file is imported at the first use of its entry. Files with a name that begins with an
    underscore are no entries.

    Args:
        package: an imported package.
        make: a function of a module and its name that returns the entry.
    """

    def __init__(self, package: ModuleType, make: Callable[[Any, str], T]) -> None:
        self._package, self._make = package.__name__, make
        # Not pkgutil or pathlib: each takes as long as everything else here.
        files = sorted(os.listdir(package.__path__[0]))  # noqa: PTH208
        names = (file.removesuffix(".py") for file in files if file.endswith(".py"))
        self._found: dict[str, T | None] = {x: None for x in names if not x.startswith("_")}

    def __getitem__(self, name: str) -> T:
        found = self._found[name]
        if found is None:
            module = import_module(f"{self._package}.{name}")
            found = self._found[name] = self._make(module, name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"<{len(self)} files of {self._package}: {', '.join(self)}>"


def _algorithm(module: Any, name: str) -> Algorithm:
    return Algorithm(
        name=name,
        init=module.init,
        update=module.update,
        dialects=module.DIALECTS,
        bibtex=module.BIBTEX,
        check=getattr(module, "check", None),
        check_shape=getattr(module, "check_shape", None),
        elsewhere=getattr(module, "ELSEWHERE", {}),
    )


ALGORITHMS: Mapping[str, Algorithm] = Folder(algorithms, _algorithm)
"""All algorithms by name: the name in optax, or else the name in torch in lower case."""

WRAPPERS: Mapping[str, Callable[[Algorithm], Algorithm]] = Folder(wrappers, getattr)
"""All wrappers by name: functions from an algorithm to another algorithm."""


def find(algorithm: str | Algorithm) -> Algorithm:
    """Return ``algorithm``, or the algorithm with that name in :data:`ALGORITHMS`.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if the argument is neither a name nor an algorithm.
    """
    if isinstance(algorithm, Algorithm):
        return algorithm
    if not isinstance(algorithm, str):
        raise TypeError(f"algorithm = {algorithm!r}: allowed are a name and an Algorithm")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm = {algorithm!r}: {nearest(algorithm, ALGORITHMS)}")
    return ALGORITHMS[algorithm]
