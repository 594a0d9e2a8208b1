"""Checkpoints of a PyTorch training in the folder of a run, to the last bit.

These functions save objects with ``state_dict`` and ``load_state_dict`` (models, optimizers,
schedulers, ``GradScaler``, recorders), random generators of torch, NumPy and Python, and lists of
them, each under a name. Every checkpoint also has the states of the default generators of torch,
for the CPU and for CUDA. Nothing is pickled: a state holds tensors, arrays, numbers, strings,
``None``, and lists, tuples and dictionaries of them.

With several processes (``torch.distributed``), all processes call these functions with their own
objects, and the first one writes. Shared tensors (``DTensor``) are saved whole, so the training can
continue with another number of processes. Each process gets its own random state back. Pass the
model itself, not the DDP wrapper, so that the names are the same without DDP.

>>> import tempfile, torch
>>> from optstudy_core.records import Run
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = torch.optim.Adam(model.parameters())
>>> with Run.create(tempfile.mkdtemp(), {}, tensorboard=False) as run:
...     first = 1 + (load(run, model=model, optimizer=optimizer) or 0)
...     for epoch in range(first, 3):  # train an epoch, then
...         save(run, epoch, row={"loss": 1.0}, model=model, optimizer=optimizer)
...     load(run, model=model, optimizer=optimizer)
2
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from optstudy_core.records import Run, check_names, pack, random_state, restore_random_state, unpack

from ._meshes import placed, whole
from ._ranks import several
from ._tensors import is_shared

__all__ = ["load", "restore", "save", "state"]

# A tensor is a dictionary with one entry; its key is this prefix and the dtype.
_MARK = "torch."
_GENERATORS = "torch's generators"
_PROCESSES = "of each process"


def save(run: Run, epoch: int, *, row: Mapping[str, Any] | None = None, **objects: Any) -> None:
    """Write a checkpoint; when this function returns, the checkpoint is on disk.

    Args:
        run: a run that is open for writing.
        epoch: the number of the last finished epoch, ≥ 0.
        row: a dictionary of the measurements of the epoch, written in the same transaction.
        **objects: as for :func:`state`; :func:`load` uses the same names.

    Raises:
        WriteError: if the checkpoint cannot be written; nothing has changed then.
        TypeError: if an object has no state, or its state cannot be saved.
    """
    arrays, structure = pack(state(**objects))  # of all processes
    run.checkpoint(epoch, arrays, structure, row=row)


def load(run: Run, **objects: Any) -> int | None:
    """Load the last checkpoint into objects.

    Args:
        run: the run.
        **objects: the same objects as in :func:`save`, by the same names.

    Returns:
        the epoch of the checkpoint; ``None``, with nothing changed, if there is no checkpoint.

    Raises:
        ValueError: if the checkpoint has other objects, or its file is damaged; nothing has changed
            then.
    """
    if several():
        torch.distributed.barrier()  # wait until the first process has opened the run and written
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.used():
        restore(unpack(checkpoint.arrays, checkpoint.state), **objects)
    return checkpoint.epoch


def state(**objects: Any) -> dict[str, Any]:
    """Return the states of objects as a tree of copies, for :func:`optstudy_core.records.pack`.

    Args:
        **objects: objects with ``state_dict`` and ``load_state_dict``, random generators, or lists
            of them.
    """
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        generators |= {
            f"cuda:{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())
        }
    tree = {name: _state_of(entry, name) for name, entry in objects.items()}
    random = _to_arrays(generators, _GENERATORS)
    if not several():
        return {"objects": tree, _GENERATORS: random}
    own = {"objects": {n: _random(x, tree[n]) for n, x in objects.items()}, _GENERATORS: random}
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, own)  # pickled between processes, never in a file
    return {"objects": tree, _GENERATORS: random, _PROCESSES: every}


def restore(tree: Mapping[str, Any], **objects: Any) -> None:
    """Load states from :func:`state` into objects.

    Args:
        tree: the result of :func:`state`, a dictionary.
        **objects: the same objects as in :func:`state`, by the same names.

    Raises:
        ValueError: if the tree has other objects, or an object refuses its state; no object has
            changed then.
    """
    if not isinstance(tree, Mapping) or {*tree} - {_PROCESSES} != {"objects", _GENERATORS}:
        raise ValueError(f"tree: allowed is a result of state(), of objects and {_GENERATORS}")
    check_names(tree["objects"], objects)
    for name, entry in objects.items():
        _check_like(entry, tree["objects"][name], name)
    before = state(**objects)
    try:
        _put(tree, objects)
    except BaseException:
        _put(before, objects)
        raise


def _put(tree: Mapping[str, Any], objects: Mapping[str, Any]) -> None:
    with _named(_PROCESSES):
        parts, random = _of_this_process(tree, objects)
    for name, entry in objects.items():
        with _named(name):
            _load(entry, parts[name])
    if random is None:
        return
    with _named(_GENERATORS):  # last: loading may draw random numbers
        generators = _to_tensors(random)
        torch.set_rng_state(generators["cpu"])
        for device, value in generators.items():
            if device != "cpu" and torch.cuda.is_available():
                torch.cuda.set_rng_state(value, device)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the object that refused its state; each class raises its own errors."""
    try:
        yield
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{name}: the object does not accept the saved state ({what})") from error


def _methods(entry: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    if hasattr(entry, "state_dict") and hasattr(entry, "load_state_dict"):
        return entry.state_dict, entry.load_state_dict
    try:
        random_state(entry)
    except TypeError:
        return None
    return lambda: random_state(entry), lambda value: restore_random_state(entry, value)


def _state_of(entry: Any, where: str) -> Any:
    if isinstance(entry, list | tuple):
        return [_state_of(one, f"{where}[{i}]") for i, one in enumerate(entry)]
    methods = _methods(entry)
    if methods is None:
        raise TypeError(
            f"{where} of type {type(entry).__name__}: allowed are objects with state_dict and "
            "load_state_dict, random generators, and lists of them"
        )
    found = methods[0]()
    # Versions of the modules, which torch keeps as an attribute.
    versions = getattr(found, "_metadata", None)
    return {"state": _to_arrays(found, where), "versions": _to_arrays(versions, where)}


# Several processes: each has its own random states.


def _of_this_process(
    tree: Mapping[str, Any], objects: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Any]:
    """Return the states of the objects, and of the generators of torch, for this process.

    The random states are ``None`` if the checkpoint has fewer processes, with different random
    states.
    """
    if _PROCESSES not in tree:
        return tree["objects"], tree[_GENERATORS]
    every = tree[_PROCESSES]
    rank = torch.distributed.get_rank() if several() else 0
    if rank < len(every):
        own = every[rank]
    elif all(_is_equal(every[0], other) for other in every):
        own = every[0]
    else:
        return {n: _shared(x, tree["objects"][n], None) for n, x in objects.items()}, None
    parts = {n: _shared(x, tree["objects"][n], own["objects"][n]) for n, x in objects.items()}
    return parts, own[_GENERATORS]


def _shared(entry: Any, part: Any, own: Any) -> Any:
    """Return the state of an object; for a random generator, the state of this process."""
    if isinstance(entry, list | tuple):
        of_each = [None] * len(part) if own is None else own
        return [_shared(*each) for each in zip(entry, part, of_each, strict=True)]
    return own if _is_random(entry) else part


def _random(entry: Any, part: Any) -> Any:
    """Return the states of the random generators alone."""
    if isinstance(entry, list | tuple):
        return [_random(*each) for each in zip(entry, part, strict=True)]
    return part if _is_random(entry) else None


def _is_random(entry: Any) -> bool:
    return not hasattr(entry, "state_dict")


def _is_equal(one: Any, other: Any) -> bool:
    (arrays, structure), (others, another) = pack(one), pack(other)
    return (structure, arrays.keys()) == (another, others.keys()) and all(
        np.array_equal(x, others[name]) for name, x in arrays.items()
    )


# One object.


def _check_like(entry: Any, tree: Any, where: str) -> None:
    ours = len(entry) if isinstance(entry, list | tuple) else None
    theirs = len(tree) if isinstance(tree, list) else None
    if ours != theirs:
        raise ValueError(
            f"{where}: the checkpoint has {'one' if theirs is None else f'a list of {theirs}'}; "
            f"expected is {'one' if ours is None else f'a list of {ours}'}"
        )


def _load(entry: Any, tree: Any) -> None:
    if tree is None:
        return
    if isinstance(entry, list | tuple):
        for one, part in zip(entry, tree, strict=True):
            _load(one, part)
        return
    found = _to_tensors(tree["state"])
    if tree["versions"] is not None:
        found = OrderedDict(found)
        found._metadata = OrderedDict(tree["versions"])  # type: ignore[attr-defined]
    methods = _methods(entry)
    assert methods is not None  # it had a state when the checkpoint was made
    methods[1](_placed(entry, found))


def _placed(entry: Any, found: Any) -> Any:
    """Return a state of whole tensors in the form for a model or optimizer of ``DTensor``s."""
    if isinstance(entry, torch.nn.Module):
        if any(map(is_shared, entry.parameters())):
            own = entry.state_dict()
            found |= {n: placed(x, own[n]) for n, x in found.items() if n in own}
    elif isinstance(entry, torch.optim.Optimizer):
        params = [p for group in entry.param_groups for p in group["params"]]
        for i, p in enumerate(params):
            for name, x in found["state"].get(i, {}).items() if is_shared(p) else ():
                if isinstance(x, torch.Tensor):
                    found["state"][i][name] = placed(x, p)
    return found


# Between tensors and arrays.


def _to_arrays(value: Any, where: str) -> Any:
    if isinstance(value, torch.Tensor):
        value = whole(value)
        if value.layout != torch.strided or value.is_quantized:
            raise TypeError(
                f"{where} has a tensor of layout {value.layout}: allowed are dense ones"
            )
        dtype = str(value.dtype).removeprefix(_MARK)
        bits = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        if value.is_complex():
            bits = torch.view_as_real(bits)
        elif dtype not in _NUMPY:  # bfloat16, float8, …: NumPy holds their bits
            bits = bits.view({1: torch.uint8, 2: torch.uint16}[bits.element_size()])
        return {_MARK + dtype: np.array(bits.numpy())}
    if isinstance(value, Mapping):
        if len(value) == 1 and str(next(iter(value))).startswith(_MARK):
            raise TypeError(
                f"{where} is a dictionary with the only key {next(iter(value))!r}: this key is "
                "reserved"
            )
        return {key: _to_arrays(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_to_arrays(entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if isinstance(value, list):
        return [_to_arrays(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    return value


def _to_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        name = next(iter(value)) if len(value) == 1 else None
        if isinstance(name, str) and name.startswith(_MARK):
            dtype = getattr(torch, name.removeprefix(_MARK), None)
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"tensor of dtype {name!r}: torch {torch.__version__} has none")
            tensor = torch.from_numpy(np.array(value[name]))
            if tensor.dtype == dtype:
                return tensor
            return torch.view_as_complex(tensor) if dtype.is_complex else tensor.view(dtype)
        return {key: _to_tensors(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_to_tensors, value))
    if isinstance(value, list):
        return list(map(_to_tensors, value))
    return value


_NUMPY = frozenset(
    {
        "bool",
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
        *("float16", "float32", "float64"),
    }
)
