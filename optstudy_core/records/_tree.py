"""Values for JSON, and trees of arrays split into arrays and JSON for a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, Final

import numpy as np

DEEPEST: Final = 200
"""The largest depth of nested lists and dictionaries, because functions that read them recurse."""
_ALLOWED = "None, strings, booleans, numbers, and lists and dictionaries of them"


def plain(value: Any, where: str, deep: int = 0) -> Any:
    """Return a copy in Python types, with the same bits; tuples become lists.

    Args:
        value: a JSON value, also with numbers of NumPy, NaN and infinities.
        where: the name of the value in errors.
        deep: the depth of the value.

    Raises:
        TypeError: for a value of another type.
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
            f"{where[:50]}…: allowed are at most {DEEPEST} nested lists and dictionaries"
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
    """Split a tree into arrays and a JSON value with the structure of the tree.

    Args:
        tree: dictionaries, lists and tuples of NumPy arrays and scalars, bytes, strings, numbers
            (also NaN and infinities), booleans and ``None``. Keys may be strings, numbers, booleans
            and ``None``.

    Returns:
        ``(arrays, state)`` for ``Run.checkpoint``; the name of an array is its path in the tree.

    Raises:
        TypeError: for a value of another type; the message has its path.

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
        # A value without a type in JSON becomes a dictionary with one entry that names the type.
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
    """Rebuild a tree from the results of :func:`pack`.

    Args:
        arrays: the arrays of a checkpoint, NumPy arrays by name.
        state: the state of the same checkpoint, a JSON value.

    Returns:
        the tree.

    Raises:
        ValueError: if arrays and state do not come from :func:`pack`.
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
            f"state: allowed is a result of pack, with its arrays ({type(error).__name__}: {error})"
        ) from error


def _at(path: tuple[str, ...]) -> str:
    return f"tree at {'/'.join(path)!r}" if path else "tree"


def check_names(found: Any, wanted: Iterable[str]) -> None:
    """Refuse a checkpoint of other objects than those to restore.

    Args:
        found: the content of the checkpoint, a dictionary by name.
        wanted: the names of the objects to restore.

    Raises:
        ValueError: if ``found`` is no dictionary, or the names differ.

    >>> check_names({"model": 1}, ["model", "optimizer"])
    Traceback (most recent call last):
    ValueError: checkpoint of model: expected is a checkpoint of model, optimizer
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"checkpoint of a {type(found).__name__}: allowed are dictionaries")
    if {*found} != {*wanted}:
        names, known = (", ".join(sorted(map(str, some))) for some in (found, wanted))
        raise ValueError(f"checkpoint of {names}: expected is a checkpoint of {known}")
