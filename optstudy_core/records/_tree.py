"""Values that JSON holds, and trees of arrays taken apart for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Final

import numpy as np

DEEPEST: Final = 200
"""Lists and dictionaries in each other, at most: those who read them call themselves for each."""
_ALLOWED = "None, strings, truth values, numbers, and lists and dictionaries of them"


def plain(value: Any, where: str, deep: int = 0) -> Any:
    """Return a copy in Python's own types, to the bit; tuples become lists.

    Args:
        value: of JSON, or of NumPy's numbers; NaN and infinities too.
        where: what the value is called in an error.
        deep: in how many others it is.

    Raises:
        TypeError: for anything else.
        ValueError: if lists and dictionaries are nested deeper than :data:`DEEPEST`.

    >>> plain({"loss": np.float32(0.1), "layers": {"w": (1, None)}}, "row")
    {'loss': 0.10000000149011612, 'layers': {'w': [1, None]}}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        value = value.item()
        if isinstance(value, bool | str):
            return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if deep > DEEPEST:
        raise ValueError(
            f"{where[:50]}…: allowed are {DEEPEST} lists and dictionaries in each other"
        )
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} with the key {key!r}: allowed are strings")
        return {
            str(key): plain(entry, f"{where}[{key!r}]", deep + 1) for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(entry, f"{where}[{i}]", deep + 1) for i, entry in enumerate(value)]
    raise TypeError(f"{where} of type {type(value).__name__}: allowed are {_ALLOWED}")


def pack(tree: Any) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Take a tree apart into arrays and a JSON value that says where they belong.

    Args:
        tree: dictionaries, lists and tuples of NumPy arrays and scalars, bytes, strings, numbers
            (NaN and infinities too), truth values and ``None``. Keys are any of the latter four.

    Returns:
        ``(arrays, state)`` for ``Run.checkpoint``; the arrays' names are their paths in the tree.

    Raises:
        TypeError: for anything else; the message has the path to it.

    >>> arrays, state = pack({"opt": {0: (np.ones(2), 0.1)}})
    >>> list(arrays), unpack(arrays, state)
    (['opt/0/0'], {'opt': {0: (array([1., 1.]), 0.1)}})
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def stored(array: np.ndarray[Any, Any], path: tuple[str, ...]) -> str:
        name = "/".join(path) or "array"
        # "a/b" may be one key or two, and safetensors keeps one name for itself.
        while name in arrays or name == "__metadata__":
            name += "'"
        arrays[name] = array
        return name

    def part(value: Any, path: tuple[str, ...]) -> Any:
        # What JSON has no type for is a dictionary of one entry that says which it is.
        if isinstance(value, np.ndarray):
            return {"array": stored(value, path)}
        if isinstance(value, np.generic):
            return {"scalar": stored(np.asarray(value), path)}
        if isinstance(value, bytes | bytearray):
            return {"bytes": stored(np.array(bytearray(value), np.uint8), path)}
        if isinstance(value, Mapping):
            entries = [(key, part(entry, (*path, str(key)))) for key, entry in value.items()]
            for key in value:
                if not (key is None or isinstance(key, str | int | float)):
                    raise TypeError(
                        f"{_at(path)} with the key {key!r}: allowed are strings and numbers"
                    )
            if all(type(key) is str for key in value):
                return {"dict": dict(entries)}
            return {"items": [[plain(key, _at(path)), entry] for key, entry in entries]}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            raise TypeError(f"{_at(path)} is a named tuple, {type(value).__name__}: allowed are "
                            "tuples, lists and dictionaries")  # fmt: skip
        if isinstance(value, list | tuple):
            parts = [part(entry, (*path, str(i))) for i, entry in enumerate(value)]
            return parts if isinstance(value, list) else {"tuple": parts}
        return plain(value, _at(path))

    return arrays, {"tree": part(tree, ())}


def unpack(arrays: Mapping[str, np.ndarray[Any, Any]], state: Mapping[str, Any]) -> Any:
    """Put together what :func:`pack` took apart.

    Args:
        arrays: of a checkpoint, NumPy arrays by name.
        state: of the same checkpoint, a JSON value.

    Returns:
        the tree.

    Raises:
        ValueError: if they do not come from :func:`pack`.
    """

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(entry) for entry in value]
        if not isinstance(value, Mapping):
            return value
        ((kind, content),) = value.items()
        if kind == "dict":
            return {key: whole(entry) for key, entry in content.items()}
        if kind == "items":
            return {key: whole(entry) for key, entry in content}
        if kind == "tuple":
            return tuple(whole(entry) for entry in content)
        array = arrays[content]
        if kind == "array":
            return array
        if kind == "scalar":
            return array[()]
        if kind == "bytes":
            return array.tobytes()
        raise ValueError(f"{kind!r} is no kind of entry")

    try:
        return whole(state["tree"])
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"state: allowed is one made by pack, with its arrays ({type(error).__name__}: {error})"
        ) from error


def _at(path: tuple[str, ...]) -> str:
    return f"tree at {'/'.join(path)!r}" if path else "tree"


def check_names(found: Any, wanted: Iterable[str]) -> None:
    """Refuse a checkpoint of other objects than those to be restored.

    Args:
        found: what is in the checkpoint, a dictionary by name.
        wanted: the names of what is to be restored.

    Raises:
        ValueError: if it is none, or the names differ.

    >>> check_names({"model": 1}, ["model", "optimizer"])
    Traceback (most recent call last):
    ValueError: checkpoint of model: allowed for model, optimizer is one of the same names
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"checkpoint of a {type(found).__name__}: allowed are dictionaries")
    if {*found} != {*wanted}:
        names, known = (", ".join(sorted(map(str, some))) for some in (found, wanted))
        raise ValueError(f"checkpoint of {names}: allowed for {known} is one of the same names")
