"""Checkpoints: arrays and a state in one safetensors file."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ._files import parse_json, replace, system_error
from ._tree import plain

FORMAT: Final = "optstudy checkpoint 1"
DTYPES: Final = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("bfloat16", "float16", "float32", "float64", "complex64"),
)
"""The dtypes that safetensors can save and return to NumPy."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Attributes:
        epoch: the number of the last finished epoch.
        arrays: NumPy arrays by name.
        state: the JSON value, a dictionary.
        file: the path of the file.
    """

    epoch: int
    arrays: dict[str, np.ndarray[Any, Any]]
    state: dict[str, Any]
    file: pathlib.Path

    @contextmanager
    def used(self) -> Iterator[None]:
        """Return a context in which a ``ValueError`` names the file.

        Raises:
            ValueError: with the name of the file before the message of the error inside.
        """
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from error


def check(arrays: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return arrays in the form for safetensors: contiguous, also 0-d arrays.

    Raises:
        TypeError, ValueError: for arrays or names that safetensors cannot save.
    """
    ready = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise ValueError(f"arrays with the name {name!r}: allowed are other strings")
        if not isinstance(array, np.ndarray | np.generic):
            raise TypeError(
                f"arrays[{name!r}] of type {type(array).__name__}: allowed are NumPy arrays"
            )
        if array.dtype.name not in DTYPES:
            raise ValueError(
                f"arrays[{name!r}] of dtype {array.dtype}: allowed are {', '.join(DTYPES)}"
            )
        ready[name] = np.ascontiguousarray(array).reshape(array.shape)
    return ready


def write(
    file: pathlib.Path, epoch: int, arrays: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint completely or not at all."""
    notes = {"format": FORMAT, "epoch": str(epoch)}
    write_file(file, arrays, notes, state)


def read(file: pathlib.Path, epoch: int) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ValueError: if the file is not the checkpoint of that epoch.
    """
    wanted = f"the checkpoint of epoch {epoch}"
    arrays, notes, state = read_file(file, FORMAT, wanted)
    if notes.get("epoch") != str(epoch):
        raise ValueError(
            f"{file}: has the format {FORMAT!r} and epoch {notes.get('epoch')}; expected is "
            f"{FORMAT!r} and epoch {epoch}"
        )
    return Checkpoint(epoch, arrays, state, file)


def write_file(
    file: pathlib.Path,
    arrays: Mapping[str, Any],
    notes: Mapping[str, str],
    state: Mapping[str, Any],
) -> None:
    """Write arrays, texts and a JSON value as a safetensors file, completely or not at all."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    ready = check(arrays)
    text = json.dumps(plain(state, "state"))
    temporary = file.with_name(file.name + ".part")
    temporary.unlink(missing_ok=True)
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        save_file(ready, temporary, metadata={**notes, "state": text})
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise system_error(error) from error
    temporary.chmod(mode)  # safetensors makes files that only the owner can read
    replace(temporary, file)


def read_file(
    file: pathlib.Path, form: str, wanted: str
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str], dict[str, Any]]:
    """Read a file from :func:`write_file`.

    Args:
        file: the path of the file.
        form: the expected format.
        wanted: a description of the expected file, for messages.

    Raises:
        ValueError: if the file is missing, damaged, or of another format.
    """
    from safetensors import safe_open

    with suppress(ImportError):
        import ml_dtypes  # noqa: F401 - adds bfloat16 to NumPy and to safetensors
    if not file.exists():
        raise ValueError(f"{file}: is missing; expected is {wanted}")
    try:
        with safe_open(file, framework="numpy") as content:
            notes = content.metadata() or {}
            arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except PermissionError:
        raise
    except Exception as error:  # whatever a decoder makes of foreign bytes
        raise ValueError(
            f"{file}: is truncated or not a safetensors file ({error}); expected is {wanted}"
        ) from error
    if notes.get("format") != form or "state" not in notes:
        raise ValueError(
            f"{file}: has the format {notes.get('format')!r}; expected is {form!r}, {wanted}"
        )
    state = parse_json(notes["state"], f"{file}, state")
    if not isinstance(state, dict):
        raise ValueError(f"{file}, state: is a {type(state).__name__}; expected is a JSON object")
    return arrays, notes, state
