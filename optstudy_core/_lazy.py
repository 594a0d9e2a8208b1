"""Packages whose names are imported when they are first asked for (PEP 562).

Imports take their time: a package that offers sixty algorithms should not load them for one.
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
        namespace: ``globals()`` of the package: what is asked for once is kept there.
        places: for each name ``"module"``, the submodule that it stands for, or
            ``"module:attribute"``.
        also: the names of the rest, which ``make`` makes.
        make: returns what goes by a name of the rest, or raises ``KeyError``; then it may be
            another submodule.
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
        """Import or make what goes by ``name``.

        Raises:
            AttributeError: if nothing does.
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
            if name.startswith("_"):  # who asks for __wrapped__ wants to know whether it is there
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
