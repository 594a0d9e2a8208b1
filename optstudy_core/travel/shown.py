"""The contents of a file of a training, as text."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from optstudy_core.catalogue.table import ALGORITHMS

from . import file as files
from . import pickled
from .file import Training
from .layers import DROPOUT

MOST: Final = 200
"""The largest number of lines of a list that are shown."""


def shown(file: Any) -> str:
    """Return the contents of a file of ``export_run`` or a checkpoint of ``torch.save``, as text.

    No code from the file is run.

    Raises:
        ValueError: if the file is neither, or cannot be shown without running code.
    """
    path = pathlib.Path(file)
    if not path.is_file():
        raise ValueError(f"{file}: is no file; expected is a file of export_run or of torch.save")
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"PK\3\4":
        lines = _checkpoint(pickled.read(path))
    elif start[:1] == b"\x80":
        raise ValueError(
            f"{file}: is a bare pickle, which cannot be shown without running its code; expected "
            "is a file of torch.save (torch 1.6 or newer) or of export_run"
        )
    else:
        lines = _training(files.read(path))
    return "\n".join(line if line.isprintable() else ascii(line)[1:-1] for line in lines)


def _cut(lines: list[str]) -> list[str]:
    rest = len(lines) - MOST
    return [*lines[:MOST], f"  … and {rest} more"] if rest > 0 else lines


def _shape(shape: Any) -> str:
    return "×".join(map(str, shape)) or "scalar"


# Of export_run.


def _training(x: Training) -> Iterator[str]:
    yield f"a training, exported from {x.library} by optstudy {x.version}"
    yield f"steps: {'not known' if x.steps is None else x.steps}"
    if x.scheduler:
        yield f"scheduler: {x.scheduler['class']} at {x.scheduler['state'].get('last_epoch')}"
    for i, group in enumerate(x.groups):
        values = ", ".join(f"{k} = {v}" for k, v in group.hyperparameters.items())
        yield f"group {i}: {group.algorithm}, dialect {group.dialect or 'not known'}"
        yield f"  {values or 'hyperparameters not known'}"
        yield from _cut([f"  {name}" for name in group.parameters])
    yield "parameters and buffers, with axes in the order of PyTorch:"
    lines = []
    for name, shape in x.outline.shapes.items():
        text = f"  {name}: {x.outline.dtypes[name]} {_shape(shape)}"
        fields = x.states.get(name, {})
        own = (f"{k} {_shape(v.shape) if v.shape else v.item()}" for k, v in fields.items())
        lines.append(f"{text}; state {', '.join(own)}" if fields else text)
    yield from _cut(lines)
    yield "layers:"
    lines = []
    for layer in x.outline.layers:
        told = ", ".join(f"{k} = {v}" for k, v in layer.conventions.items())
        text = f"  {layer.name or '(the model)'}: {layer.kind}"
        lines.append(f"{text}, {told}" if told else text)
    yield from _cut(lines)
    if not x.outline.has_conventions:
        yield "  (a tree of arrays: the settings of layers are not known)"
    elif not any(layer.kind == DROPOUT for layer in x.outline.layers):
        yield "  (no dropout layers)"
    if x.sample:
        shapes = ", ".join(_shape(a.shape) for a in x.sample.inputs)
        yield f"sample: input {shapes}, output {_shape(x.sample.output.shape)}"


# Of torch.save.


def _checkpoint(content: Any) -> Iterator[str]:
    yield "a checkpoint of PyTorch; no code from it was run"
    if _is_optimizer(content) or not isinstance(content, dict):
        yield from _entry("", content)
        return
    plain = {k: v for k, v in content.items() if isinstance(v, pickled.Tensor)}
    if plain:
        yield from _cut([f"  {k}: {_value(v)}" for k, v in plain.items()])
    for key, value in content.items():
        if key not in plain:
            yield from _entry(f"{key}: ", value)


def _is_optimizer(x: Any) -> bool:
    return isinstance(x, dict) and isinstance(x.get("param_groups"), list) and "state" in x


def _entry(name: str, x: Any) -> Iterator[str]:
    if _is_optimizer(x):
        yield from _optimizer(name, x)
    elif isinstance(x, dict):
        yield f"{name}{len(x)} entries"
        yield from _cut([f"  {k}: {_value(v)}" for k, v in x.items()])
    else:
        yield f"{name}{_value(x)}"


def _optimizer(name: str, x: Mapping[str, Any]) -> Iterator[str]:
    state = x["state"] if isinstance(x["state"], dict) else {}
    fields = {str(k) for own in state.values() if isinstance(own, dict) for k in own}
    ours = {str(g.get("algorithm")) for g in x["param_groups"] if isinstance(g, dict)} - {"None"}
    if ours:
        yield f"{name}state of an optimizer of optstudy_torch: {', '.join(sorted(ours))}"
    else:
        known = _classes(fields) if fields else []
        yield f"{name}state of an optimizer of torch.optim, fields as of {', '.join(known) or '?'}"
    for i, group in enumerate(x["param_groups"]):
        if isinstance(group, dict):
            values = ", ".join(f"{k} = {_value(v)}" for k, v in group.items() if k != "params")
            params = group.get("params")
            count = len(params) if isinstance(params, list) else "?"
            yield f"  group {i}: {count} parameters; {values}"
    lines = []
    for key, own in state.items():
        if isinstance(own, dict):
            told = ", ".join(f"{k} {_value(v)}" for k, v in own.items())
            lines.append(f"  parameter {key}: {told}")
    yield from _cut(lines)


def _classes(fields: set[str]) -> list[str]:
    """Return the classes of torch.optim with states of these fields, and the fewest others."""
    found = {
        title: len(names)
        for algorithm in ALGORITHMS.values()
        for title, names in algorithm.elsewhere.items()
        if title.startswith("torch.optim.") and fields <= {*names.values(), "step", "mu"}
    }
    return sorted(title for title, n in found.items() if n == min(found.values()))


def _value(x: Any, deep: int = 0) -> str:
    if isinstance(x, pickled.Tensor):
        return f"{x.value} ({x.dtype})" if x.value is not None else f"{x.dtype} {_shape(x.shape)}"
    if isinstance(x, pickled.Call):
        return f"an object of {x.function}"
    if isinstance(x, dict | list | tuple) and (deep > 2 or len(x) > 12):
        return f"{len(x)} entries"
    if isinstance(x, dict):
        return f"{{{', '.join(f'{k}: {_value(v, deep + 1)}' for k, v in x.items())}}}"
    if isinstance(x, list | tuple):
        return f"({', '.join(_value(v, deep + 1) for v in x)})"
    text = str(x)
    return text if len(text) < 80 else f"{text[:77]}…"
