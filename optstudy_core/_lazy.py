"""Packages that import their names at the first use (PEP 562).

Imports take time: a package with sixty algorithms should not load all of them for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from optstudy_core.arrays.numbers import nearest


class Lazy:
    """The ``__getattr__`` and ``__dir__`` of a package.

    Args:
        namespace: ``globals()`` of the package, which keeps imported names.
        places: for each name, its place as ``"module"`` (a submodule) or ``"module:attribute"``.
        also: a function that returns the other names, which ``make`` makes.
        make: a function that returns the object for one of the other names, or raises
            ``KeyError``; then the name may be another submodule.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        places: Mapping[str, str],
        also: Callable[[], Iterable[str]],
        make: Callable[[str], Any],
    ) -> None:
        self._namespace = namespace
        self._places = places
        self._also = also
        self._make = make

    def names(self) -> list[str]:
        """Return the public names, those for ``from … import *``."""
        return sorted({"__version__", *self._places, *self._also()})

    def get(self, name: str) -> Any:
        """Import or make the object with a name.

        Raises:
            AttributeError: if the name is unknown.
        """
        if name == "__all__":
            value: Any = self.names()
        elif name in self._places:
            module, _, attribute = self._places[name].partition(":")
            value = import_module(f"{self._namespace['__name__']}.{module}")
            if attribute:
                value = getattr(value, attribute)
        else:
            package = self._namespace["__name__"]
            text = f"module {package!r} has no attribute {name!r}"
            if name.startswith("_"):  # such as __wrapped__: only its existence matters
                raise AttributeError(text)
            try:
                value = self._make(name)
            except KeyError:
                if find_spec(f"{package}.{name}") is None:
                    raise AttributeError(f"{text}: {nearest(name, self.names())}") from None
                value = import_module(f"{package}.{name}")
        self._namespace[name] = value
        return value

    def dir(self) -> list[str]:
        """Return all names."""
        return sorted({*self._namespace, *self.names(), "__all__"})
