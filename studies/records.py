"""Run folders: what a training run leaves behind, and how it is read back.

A folder holds one run:

- ``config.json``: every argument and version, written before the first step;
- ``epochs.jsonl``: one row an epoch, on the disk before the next epoch starts;
- ``parameters.safetensors``: the final parameters;
- ``path.safetensors``: the parameters at every step or epoch, stacked along the first axis.

JSON has no NaN and no infinity: NaN is written as ``null``, infinities as ``"Infinity"`` and
``"-Infinity"``.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import optstudy_core

from .study import Parameters

CONFIG: Final = "config.json"
EPOCHS: Final = "epochs.jsonl"
PARAMETERS: Final = "parameters.safetensors"
PATH: Final = "path.safetensors"
FILES: Final = (CONFIG, EPOCHS, PARAMETERS, PATH)


@dataclass
class Path:
    """Parameters on the way.

    Attributes:
        points: arrays by name, one point after the other, the initial parameters first.
        every: whether there is a point for each step or for each epoch.
    """

    points: dict[str, list[np.ndarray]]
    every: Literal["step", "epoch"]

    @classmethod
    def start(cls, parameters: Parameters, every: Literal["step", "epoch"]) -> Path:
        """Return a path of one point."""
        return cls({name: [value] for name, value in parameters.items()}, every)

    def append(self, parameters: Parameters) -> None:
        """Add a point."""
        for name, values in self.points.items():
            values.append(parameters[name])

    def __len__(self) -> int:
        return len(next(iter(self.points.values())))

    def __getitem__(self, index: int) -> Parameters:
        return {name: values[index] for name, values in self.points.items()}

    def at_epochs(self, steps_per_epoch: int) -> Path:
        """Return the points at the start and after each epoch."""
        stride = steps_per_epoch if self.every == "step" else 1
        return Path({name: values[::stride] for name, values in self.points.items()}, "epoch")

    def matrix(self, names: Iterable[str]) -> np.ndarray:
        """Return the points as vectors: shape (points, parameters), float64.

        Args:
            names: the order of the parameters in the vectors (a file keeps its own).
        """
        columns = [np.stack(self.points[n]).reshape(len(self), -1) for n in names]
        return np.concatenate(columns, axis=1).astype(np.float64)


@dataclass(frozen=True)
class Run:
    """A run as read back.

    Attributes:
        folder: where it is.
        config: of ``config.json``.
        rows: of ``epochs.jsonl``, the complete ones.
        parameters: the final parameters; ``None`` if the run did not end.
        path: the parameters on the way; ``None`` if the run did not end.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    parameters: Parameters | None
    path: Path | None

    def column(self, name: str) -> np.ndarray:
        """Return a measurement over the epochs, float64."""
        return np.array([row[name] for row in self.rows], dtype=np.float64)

    def layer_column(self, layer: str, name: str) -> np.ndarray:
        """Return a measurement of one layer over the epochs, float64."""
        return np.array([row["layers"][layer][name] for row in self.rows], dtype=np.float64)


class RunWriter:
    """Writes a run's folder.

    Args:
        folder: is made if it does not exist.
        config: every argument of the run; :func:`environment` is added.
        overwrite: replace a run that is there already.

    Raises:
        FileExistsError: if the folder holds another run and ``overwrite`` is false.
    """

    def __init__(
        self, folder: pathlib.Path, config: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        check_free(folder, overwrite=overwrite)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        write_json(folder / CONFIG, {**config, **environment()})
        self._rows = (folder / EPOCHS).open("x", encoding="utf-8")
        _sync_folder(folder)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; when this returns, it is on the disk."""
        self._rows.write(json.dumps(encode(row), allow_nan=False) + "\n")
        self._rows.flush()
        os.fsync(self._rows.fileno())

    def finish(self, parameters: Parameters, path: Path) -> None:
        """Write the final parameters and the path."""
        stacked = {name: np.stack(values) for name, values in path.points.items()}
        _save(self.folder / PATH, stacked, {"every": path.every})
        _save(self.folder / PARAMETERS, parameters, {})
        self.close()

    def close(self) -> None:
        """Close the file of rows; for a run that does not end."""
        self._rows.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_free(folder: pathlib.Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds a run.

    Raises:
        FileExistsError: if it does and ``overwrite`` is false.
        NotADirectoryError: if it, or a folder above it, is a file.
    """
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise NotADirectoryError(f"out = {str(part)!r}: is a file; allowed are folders")
    if not overwrite and any((folder / name).exists() for name in FILES):
        raise FileExistsError(
            f"out = {str(folder)!r}: holds a run already; choose another folder, or replace the "
            "run with --overwrite"
        )


def read(folder: pathlib.Path) -> Run:
    """Read a run's folder; a last row that was cut off by the end of the process is dropped.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if a file is not what it should be.
    """
    config_file = folder / CONFIG
    if not config_file.exists():
        raise FileNotFoundError(f"folder = {str(folder)!r}: holds no run ({CONFIG} is missing)")
    arrays = _load(folder / PATH)
    path = None
    if arrays is not None:
        tensors, notes = arrays
        every: Literal["step", "epoch"] = "step" if notes.get("every") == "step" else "epoch"
        path = Path({name: list(values) for name, values in tensors.items()}, every)
    parameters = _load(folder / PARAMETERS)
    return Run(
        folder=folder,
        config=_read_json(config_file),
        rows=_read_rows(folder / EPOCHS),
        parameters=None if parameters is None else parameters[0],
        path=path,
    )


def environment() -> dict[str, Any]:
    """Return the versions and the platform a run is made with."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("numpy", "torch", "jax", "jaxlib", "optax", "flax"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    versions["optstudy"] = optstudy_core.__version__
    return {
        "versions": versions,
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "byteorder": sys.byteorder,
        },
    }


# JSON.


def encode(value: Any) -> Any:
    """Return ``value`` with what JSON has no numbers for replaced.

    >>> encode({"angle": math.nan, "loss": [math.inf, 1.0]})
    {'angle': None, 'loss': ['Infinity', 1.0]}
    """
    if isinstance(value, Mapping):
        return {key: encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return None
        return "Infinity" if value > 0 else "-Infinity"
    return value


def decode(value: Any) -> Any:
    """Return what :func:`encode` was given, for rows of measurements.

    >>> decode({"angle": None, "loss": ["-Infinity", 1.0]})
    {'angle': nan, 'loss': [-inf, 1.0]}
    """
    if isinstance(value, dict):
        return {key: decode(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    if value is None:
        return math.nan
    return float(value) if value in ("Infinity", "-Infinity") else value


def write_json(file: pathlib.Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(
        file, json.dumps(encode(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def write_text(file: pathlib.Path, text: str) -> None:
    """Write a text file, in UTF-8, whole or not at all."""
    temporary = file.with_name(file.name + ".part")
    temporary.write_bytes(text.encode())
    _replace(temporary, file)


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON ({error})") from error
    return content


def _read_rows(file: pathlib.Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    # The line end is written last: a line without one was cut off, even if it parses.
    complete, _, _ = file.read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(complete.split(b"\n") if complete else [], 1):
        try:
            rows.append(decode(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: is not JSON ({error})") from error
    return rows


# Arrays.


def _save(file: pathlib.Path, arrays: Parameters, notes: dict[str, str]) -> None:
    temporary = file.with_name(file.name + ".part")
    contiguous = {name: np.ascontiguousarray(v).reshape(v.shape) for name, v in arrays.items()}
    save_file(contiguous, temporary, metadata=notes)
    _replace(temporary, file)


def _load(file: pathlib.Path) -> tuple[Parameters, dict[str, str]] | None:
    if not file.exists():
        return None
    try:
        arrays = load_file(file)
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file}: is truncated or not a safetensors file ({error})") from error
    return arrays, header.get("__metadata__", {})


def _replace(temporary: pathlib.Path, file: pathlib.Path) -> None:
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(file)
    _sync_folder(file.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """Put the names in a folder on the disk (on systems that know this)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
