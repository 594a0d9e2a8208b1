"""Reading a saved case, with a check of every entry; errors name the entry and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from optstudy_core.arrays.numbers import nearest

MOST_STEPS: Final = 100_000
"""The largest number of steps of a case; all gradients are drawn before the first step."""


class Saved:
    """A dictionary of JSON.

    Args:
        data: the dictionary.
        what: the name of the dictionary in errors.

    Raises:
        ValueError: if ``data`` is no dictionary.
    """

    def __init__(self, data: Any, what: str) -> None:
        self._data = _of(dict, data, what, "a dictionary")
        self._what = what

    def _at(self, name: str) -> Any:
        if name not in self._data:
            raise ValueError(f"{self._what}: {name} is missing")
        return self._data[name]

    def whole(self, name: str, least: int, most: int) -> int:
        """Return an integer; this and the next methods raise ValueError for other values."""
        return whole(self._at(name), name, least, most)

    def truth(self, name: str) -> bool:
        """Return a boolean."""
        found: bool = _of(bool, self._at(name), name, "true and false")
        return found

    def text(self, name: str, allowed: Iterable[str] | None = None) -> str:
        """Return an allowed text."""
        return text(self._at(name), name, allowed)

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a dictionary."""
        found: dict[str, Any] = _of(dict, self._at(name), name, "dictionaries")
        return found

    def entries(self, name: str, length: int | None = None) -> list[Any]:
        """Return a list, with the given length if there is one."""
        return listed(self._at(name), name, length)

    def special(self, leaves: int, steps: int) -> list[tuple[int, int, int, float]]:
        """Return the special values: step, leaf, index and value of each."""
        found = []
        for i, entry in enumerate(self.entries("specials")):
            name = f"specials[{i}]"
            step, leaf, index, value = listed(entry, name, 4)
            place = (
                whole(step, f"{name}, step", -1, steps - 1),
                whole(leaf, f"{name}, leaf", 0, leaves - 1),
                whole(index, f"{name}, index", 0, 2**63 - 1),
            )
            found.append((*place, hexadecimal(value, name)))
        return found


def whole(value: Any, name: str, least: int, most: int) -> int:
    """Return an integer within bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} = {_short(value)}: allowed are whole numbers {least} to {most}")
    return value


def text(value: Any, name: str, allowed: Iterable[str] | None = None) -> str:
    """Return an allowed text."""
    found: str = _of(str, value, name, "texts")
    if allowed is not None and found not in (known := list(allowed)):
        raise ValueError(f"{name} = {_short(found)}: {nearest(found, known)}")
    return found


def listed(value: Any, name: str, length: int | None = None) -> list[Any]:
    """Return a list, with the given length if there is one."""
    found: list[Any] = _of(list, value, name, "lists")
    if length is not None and len(found) != length:
        raise ValueError(f"{name} of length {len(found)}: allowed is {length}")
    return found


def hexadecimal(value: Any, name: str) -> float:
    """Return the number of a hexadecimal text."""
    try:
        return float.fromhex(_of(str, value, name, "hexadecimal texts"))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} = {_short(value)}: allowed are hexadecimal texts") from error


def plain(value: Any, name: str) -> Any:
    """Return an argument: a text, a boolean, ``None``, a number, or a tuple of these."""
    if isinstance(value, list):
        return tuple(_scalar(entry, name) for entry in value)
    return _scalar(value, name)


def _scalar(value: Any, name: str) -> Any:
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    raise ValueError(f"{name} = {_short(value)}: allowed are numbers, texts, true, false and null")


def _of(kind: type, value: Any, name: str, allowed: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} = {_short(value)}: allowed are {allowed}")
    return value


def _short(value: Any) -> str:
    if isinstance(value, dict | list):  # of any depth
        return f"a {'list' if isinstance(value, list) else 'dictionary'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 200 bits"
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:80]}…"
