"""Checkpoints of a JAX training in the folder of a run, to the last bit.

These functions save trees of arrays, each under a name: parameters, the state of an optimizer, a
TrainState, random keys. Generators of NumPy and Python may also be leaves. Trees are loaded into
trees of the same structure, so that nothing is pickled. A module and an optimizer of nnx are saved
with all their arrays, and loaded in place.

>>> import tempfile
>>> import jax.numpy as jnp, optax
>>> from optstudy_core.records import Run
>>> params = {"w": jnp.ones(2)}
>>> state = optax.adam(1e-3).init(params)
>>> with Run.create(tempfile.mkdtemp(), {}, tensorboard=False) as run:
...     save(run, 1, params=params, state=state, row={"loss": 1.0})
...     epoch, found = load(run, params=params, state=state)
>>> epoch, found["params"]["w"].tolist(), type(found["state"]) is type(state)
(1, [1.0, 1.0], True)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optstudy_core.records import Run, check_names, pack, random_state, restore_random_state, unpack

from ._mesh import on_host
from ._nnx import is_of_nnx, update, whole

__all__ = ["Loaded", "load", "restore", "save", "state"]


class Loaded(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        epoch: the epoch of the checkpoint, the last finished one.
        trees: the trees by name.
    """

    epoch: int
    trees: dict[str, Any]


def save(
    run: Run | None, epoch: int, *, row: Mapping[str, Any] | None = None, **trees: Any
) -> None:
    """Write a checkpoint; when this function returns, the checkpoint is on disk.

    Args:
        run: a run that is open for writing. With several processes (``jax.distributed``), all
            processes call this function: the first with the run, the others with ``None``.
        epoch: the number of the last finished epoch, ≥ 0.
        row: a dictionary of the measurements of the epoch, written in the same transaction.
        **trees: trees of arrays; :func:`load` uses the same names.

    Raises:
        WriteError: if the checkpoint cannot be written; nothing has changed then.
        TypeError: if a leaf cannot be saved, or if the first process passes no run.
    """
    arrays, structure = pack(state(**trees))
    if run is None:
        if jax.process_index() == 0:
            raise TypeError("run = None: allowed is a run; None only if another process writes")
        return
    run.checkpoint(epoch, arrays, structure, row=row)


def load(run: Run, **like: Any) -> Loaded | None:
    """Return the trees of the last checkpoint.

    Args:
        run: the run; in a process that does not write, ``Run.read(folder)``.
        **like: trees of the same structure, shapes and dtypes, by the same names; for example the
            trees at the start of the training. The results are on the devices of these trees. The
            states of random generators are loaded into the generators in these trees.

    Returns:
        ``(epoch, trees)``, or ``None`` if there is no checkpoint.

    Raises:
        ValueError: if the checkpoint has other trees, or its file is damaged; no generator and no
            module has changed then.
    """
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.used():
        trees = restore(unpack(checkpoint.arrays, checkpoint.state), **like)
    return Loaded(checkpoint.epoch, trees)


def state(**trees: Any) -> dict[str, Any]:
    """Return trees as dictionaries of NumPy arrays by path, for ``optstudy_core.records.pack``.

    Args:
        **trees: trees of arrays, numbers, strings and random generators.
    """
    return {
        name: {path: _to_host(leaf, f"{name}{path}") for path, leaf in _leaves(whole(tree))}
        for name, tree in trees.items()
    }


def restore(packed: Mapping[str, Any], **like: Any) -> dict[str, Any]:
    """Return the trees of :func:`state`.

    Args:
        packed: the result of :func:`state`, a dictionary.
        **like: trees of the same structure, shapes and dtypes. A module and an optimizer of nnx
            change in place.

    Raises:
        ValueError: if structures, shapes or dtypes differ; no generator and no module has changed
            then.
    """
    check_names(packed, like)
    modules, like = like, {name: whole(tree) for name, tree in like.items()}
    for name, tree in like.items():
        found, wanted = packed[name], [path for path, _ in _leaves(tree)]
        if not isinstance(found, Mapping) or list(found) != wanted:
            other = sorted(map(str, {*found} ^ {*wanted})) if isinstance(found, Mapping) else []
            raise ValueError(
                f"{name}: the checkpoint has another structure; only one of the two has "
                f"{', '.join(other) or 'this order'}"
            )
    restored = {
        name: jax.tree.unflatten(
            jax.tree.structure(tree),
            [_to_device(packed[name][path], leaf, f"{name}{path}") for path, leaf in _leaves(tree)],
        )
        for name, tree in like.items()
    }
    generators = [
        (f"{name}{path}", leaf, packed[name][path]["generator"])
        for name, tree in like.items()
        for path, leaf in _leaves(tree)
        if _kind(leaf) == "generator"
    ]
    _put_generators(generators)  # last, as they change
    return {k: update(x, restored[k]) if is_of_nnx(x) else restored[k] for k, x in modules.items()}


def _put_generators(generators: list[tuple[str, Any, Any]]) -> None:
    """Load the states of all generators, or of none."""
    before = [(leaf, random_state(leaf)) for _, leaf, _ in generators]
    try:
        for where, leaf, found in generators:
            try:
                restore_random_state(leaf, found)
            except Exception as error:  # every class has errors of its own
                raise ValueError(
                    f"{where}: allowed is a state of a {type(leaf).__name__} ({error!r})"
                ) from error
    except BaseException:
        for leaf, found in before:
            restore_random_state(leaf, found)
        raise


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any, where: str) -> Any:
    if _is_key(leaf):
        return {"key": on_host(jax.random.key_data(leaf)), "of": str(jax.random.key_impl(leaf))}
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        array = on_host(leaf)
        # Dtypes that safetensors does not return (float8, …) are saved as bits.
        bits = array.dtype.kind == "V" and array.dtype.name != "bfloat16"
        return {
            "dtype": array.dtype.name,
            "array": array.view(f"u{array.itemsize}") if bits else array,
        }
    if leaf is None or isinstance(leaf, bool | int | float | str):
        return {"value": leaf}
    try:
        return {"generator": random_state(leaf)}
    except TypeError as error:
        raise TypeError(
            f"{where} of type {type(leaf).__name__}: allowed are arrays, numbers, strings and "
            "random generators"
        ) from error


def _kind(leaf: Any) -> str:
    if _is_key(leaf):
        return "key"
    if hasattr(leaf, "dtype"):
        return "array"
    plain = leaf is None or isinstance(leaf, bool | int | float | str)
    return "value" if plain else "generator"


def _to_device(found: Any, like: Any, where: str) -> Any:
    kind = _kind(like)
    if not isinstance(found, Mapping) or kind not in found:
        has = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(f"{where}: the checkpoint has {has}; allowed is a {kind}")
    content = found[kind]
    if kind == "generator":
        return like
    if kind == "value":
        number = isinstance(like, int | float) and not isinstance(like, bool)
        allowed = int | float if number else type(like)
        if not isinstance(content, allowed) or (number and isinstance(content, bool)):
            raise ValueError(f"{where} = {content!r}: allowed is a value like {like!r}")
        return content
    if not isinstance(content, np.ndarray):
        raise ValueError(f"{where} of type {type(content).__name__}: allowed are arrays")
    if kind == "key":
        return _key(found, like, where)
    dtype = np.dtype(like.dtype)
    bits = f"u{dtype.itemsize}" if dtype.kind == "V" else dtype
    whole = _says(found, "dtype", dtype.name) and content.dtype in (dtype, bits)
    if not whole or content.shape != like.shape:
        raise ValueError(
            f"{where}: {found.get('dtype')} of shape {content.shape}; allowed is {dtype.name} of "
            f"shape {like.shape}"
        )
    array = content if content.dtype == dtype else content.view(dtype)
    if not isinstance(like, jax.Array):
        return array[()] if isinstance(like, np.generic) else array
    # 64-bit dtypes keep their width, while JAX would convert them to 32 bits.
    with _width(dtype.name in ("float64", "int64", "uint64")):
        # An array from a Python number has a weak type, which stays.
        weak = like.weak_type and array.ndim == 0
        value = jnp.asarray(array.item() if weak else array)
        value = value if value.dtype == dtype else jnp.asarray(array)
        return _placed(value, like)


def _placed(value: Any, like: Any) -> Any:
    """Return an array on the devices of another; an uncommitted array has no fixed device."""
    return jax.device_put(value, like.sharding) if like.committed else value


def _key(found: Mapping[str, Any], like: Any, where: str) -> Any:
    impl, wanted = str(jax.random.key_impl(like)), jax.random.key_data(like)
    if not _says(found, "of", impl):
        raise ValueError(f"{where}: a key of {found.get('of')}; allowed is {impl}")
    data = found["key"]
    if data.dtype != wanted.dtype or data.shape != wanted.shape:
        raise ValueError(
            f"{where}: a key of {data.dtype} of shape {data.shape}; allowed is {wanted.dtype} of "
            f"shape {wanted.shape}"
        )
    with _width(False):
        value = jax.random.wrap_key_data(jnp.asarray(data), impl=impl)
        return _placed(value, like)


def _says(found: Mapping[str, Any], entry: str, text: str) -> bool:
    """Return whether an entry is this text; in a damaged file it may be an array."""
    value = found.get(entry)
    return isinstance(value, str) and value == text


def _width(wide: bool) -> Any:
    return jax.enable_x64(wide or bool(jax.config.jax_enable_x64))  # type: ignore[attr-defined]
