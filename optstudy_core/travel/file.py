"""The file of an exported training: a safetensors file, and its contents."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from optstudy_core._version import __version__
from optstudy_core.records._arrays import read_file, write_file
from optstudy_core.records._extra import need_safetensors

from .layers import Layer, Outline, Place
from .moves import Array, Fields

FORMAT: Final = "optstudy training 1"
WANTED: Final = "a file of export_run"
BITS: Final = {"bfloat16": "uint16"}
"""The dtypes in the file of dtypes that NumPy does not have."""


class Group(NamedTuple):
    """Parameters with the same algorithm and hyperparameters.

    Attributes:
        parameters: the names of the parameters.
        algorithm: the name of the algorithm.
        dialect: the dialect; ``None`` if it is not known, or if there is none.
        hyperparameters: values by the names of the core; unknown ones are missing.
    """

    parameters: tuple[str, ...]
    algorithm: str
    dialect: str | None
    hyperparameters: Mapping[str, Any]


class Sample(NamedTuple):
    """An input of a model and its output.

    Attributes:
        inputs: arrays, in the form for the exported model.
        output: an array, the output of the exported model in evaluation mode.
    """

    inputs: tuple[Array, ...]
    output: Array


@dataclass(frozen=True)
class Training:
    """An exported training, with the order of axes of PyTorch and the names of the exported model.

    Attributes:
        library: the library that exported it.
        outline: the outline of the model.
        arrays: parameters and buffers by name; bfloat16 as uint16.
        groups: the groups of the optimizer.
        states: states of parameters by name; parameters that have taken no step are missing.
        steps: the number of steps taken; ``None`` if it is not known.
        scheduler: ``{"class": …, "state": …}`` of a scheduler of PyTorch, or ``None``.
        sample: an input and its output, or ``None``.
        version: the version of optstudy that wrote the file.
    """

    library: str
    outline: Outline
    arrays: Mapping[str, Array]
    groups: tuple[Group, ...]
    states: Mapping[str, Fields]
    steps: int | None
    scheduler: Mapping[str, Any] | None
    sample: Sample | None
    version: str = __version__


@contextmanager
def named(file: Any) -> Iterator[None]:
    """Add the name of the file to a ``ValueError``."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(file)) else f"{file}: {text}") from error


def write(file: Any, training: Training) -> None:
    """Write a file completely or not at all.

    Raises:
        ImportError: without safetensors.
        TypeError, ValueError: if a value cannot be saved.
    """
    need_safetensors()
    arrays = {f"model/{name}": x for name, x in training.arrays.items()}
    for name, fields in training.states.items():
        arrays |= {f"state/{field}/{name}": x for field, x in fields.items()}
    if training.sample:
        arrays |= {f"sample/{i}": x for i, x in enumerate(training.sample.inputs)}
        arrays["sample/output"] = training.sample.output
    outline = training.outline
    state = {
        "library": training.library,
        "layers": [
            [x.name, x.kind, {r: [*p] for r, p in x.places.items()}, dict(x.conventions)]
            for x in outline.layers
        ],
        "dtypes": dict(outline.dtypes),
        "parameters": list(outline.parameters),
        "has_conventions": outline.has_conventions,
        "groups": [[[*g.parameters], *g[1:3], dict(g.hyperparameters)] for g in training.groups],
        "states": {name: list(fields) for name, fields in training.states.items()},
        "steps": training.steps,
        "scheduler": training.scheduler,
        "inputs": len(training.sample.inputs) if training.sample else None,
    }
    notes = {"format": FORMAT, "version": training.version}
    write_file(pathlib.Path(file), arrays, notes, state)


def read(file: Any) -> Training:
    """Read a file.

    Raises:
        ImportError: without safetensors.
        ValueError: if the file is truncated, damaged, or of another kind; the message names the
            entry.
    """
    need_safetensors()
    arrays, notes, state = read_file(pathlib.Path(file), FORMAT, WANTED)
    with named(file):
        return _training(arrays, notes.get("version", ""), state)


def _training(arrays: Mapping[str, Array], version: str, state: Mapping[str, Any]) -> Training:
    """Build a training from the contents of a file; check every entry."""
    where = "state"
    try:
        where = "dtypes"
        dtypes = {str(k): str(v) for k, v in state["dtypes"].items()}
        model = {name: _entry(arrays, f"model/{name}") for name in dtypes}
        for name, dtype in dtypes.items():
            found = model[name].dtype.name
            if found != BITS.get(dtype, dtype):
                raise ValueError(f"model/{name} of dtype {found}: expected is {dtype}")
        where = "layers"
        layers = tuple(
            Layer(
                str(name), str(kind), {r: Place(*p) for r, p in places.items()}, dict(conventions)
            )
            for name, kind, places, conventions in state["layers"]
        )
        shapes = {name: x.shape for name, x in model.items()}
        for layer in layers:
            for place in layer.places.values():
                _check_place(place, shapes)
        where = "parameters"
        parameters = tuple(name for name in state["parameters"] if shapes[name] is not None)
        outline = Outline(layers, shapes, dtypes, parameters, bool(state["has_conventions"]))
        where = "groups"
        groups = tuple(_group(*entry) for entry in state["groups"])
        unknown = {name for g in groups for name in g.parameters} - {*parameters}
        if unknown:
            raise ValueError(
                f"groups have {', '.join(sorted(unknown))}: expected are names of parameters"
            )
        where = "states"
        states = {
            name: {str(f): _entry(arrays, f"state/{f}/{name}") for f in fields}
            for name, fields in state["states"].items()
            if shapes[name] is not None
        }
        where = "steps"
        steps = None if state["steps"] is None else _count(state["steps"])
        where = "scheduler"
        scheduler = state["scheduler"]
        if scheduler is not None:
            scheduler = {"class": str(scheduler["class"]), "state": dict(scheduler["state"])}
        where = "inputs"
        sample = None
        if state["inputs"] is not None:
            inputs = (_entry(arrays, f"sample/{i}") for i in range(_count(state["inputs"], 1000)))
            sample = Sample(tuple(inputs), _entry(arrays, "sample/output"))
        library = str(state["library"])
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"entry {where!r} is missing or damaged ({type(error).__name__}: {error}); expected is "
            f"{WANTED}"
        ) from error
    return Training(library, outline, model, groups, states, steps, scheduler, sample, str(version))


def _entry(arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise ValueError(f"{name} is missing; expected is an array")
    return arrays[name]


def _check_place(place: Place, shapes: Mapping[str, Sequence[int]]) -> None:
    shape, rows = shapes[place.name], place[1:]
    whole = rows == (None, None)
    if not whole and not (
        all(type(x) is int for x in rows) and 0 <= rows[0] < rows[1] <= shape[0]  # type: ignore[operator]
    ):
        raise ValueError(f"rows {rows} of {place.name}: expected are rows of {tuple(shape)}")


def _group(parameters: Any, algorithm: Any, dialect: Any, values: Any) -> Group:
    if not isinstance(algorithm, str) or not isinstance(dialect, str | None):
        raise TypeError(f"algorithm {algorithm!r} of dialect {dialect!r}")
    return Group(
        tuple(map(str, parameters)), algorithm, dialect, {k: _tuples(v) for k, v in values.items()}
    )


def _tuples(value: Any) -> Any:
    """Return a value of JSON in the form of hyperparameters: lists become tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _count(value: Any, most: int = 2**31) -> int:
    if type(value) is not int or not 0 <= value < most:
        raise TypeError(f"{value!r} is not a count")
    return value


# The proof.

_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def prove(computed: Callable[[Sequence[Array]], Sample], training: Training) -> None:
    """Refuse a model that does not give the output of the sample in a file.

    Args:
        computed: a function that returns the sample of the model for the inputs.
        training: the training of a file with a sample.

    Raises:
        ValueError: if the model does not accept the inputs, or if its output differs.
    """
    assert training.sample is not None
    try:
        found = computed(training.sample.inputs)
    except Exception as error:
        raise ValueError(
            f"sample: the model does not accept it ({type(error).__name__}: {error}). Pass a "
            "function that calls the model as forward=."
        ) from error
    _check_output(found.output, training.sample, training.outline.dtypes)


def _check_output(found: Array, sample: Sample, dtypes: Mapping[str, str]) -> None:
    """Refuse a model with another output than the exported model, beyond rounding.

    Args:
        found: the output of the model in evaluation mode.
        sample: the sample of the file.
        dtypes: the dtypes of the parameters.

    Raises:
        ValueError: if the outputs differ; the message has the distance.
    """
    epsilon = max(_EPSILON.get(x, 0.0) for x in {*dtypes.values(), sample.output.dtype.name})
    most = min(1024 * epsilon, 0.1)
    if found.shape != sample.output.shape:
        raise ValueError(
            f"sample: an output of shape {found.shape}; expected is {sample.output.shape}, as from "
            "the exported model. Pass a function that calls the model as forward=."
        )
    a, b = found.astype(np.float64), sample.output.astype(np.float64)
    size = np.abs(b).max(initial=0.0)
    distance = np.abs(a - b).max(initial=0.0)
    if not (distance <= most * size or np.array_equal(a, b, equal_nan=True)):
        raise ValueError(
            f"sample: the outputs differ by {distance:.1e}, and the largest output is {size:.1e}; "
            f"allowed is a difference of at most {most:.0e} of it, for rounding. Either the layers "
            "are matched wrongly (names=), or the input has another order of axes (forward=). "
            "Nothing was imported."
        )
