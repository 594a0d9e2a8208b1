"""Checkpoints of a JAX training in a run's folder, to the last bit.

What is saved are trees of arrays, each under a name: parameters, an optimizer's state, a
TrainState, ``nnx.state(model)``, random keys; generators of NumPy and Python may be leaves, too.
They are loaded into trees of the same structure, so that nothing is pickled.

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

__all__ = ["Loaded", "load", "restore", "save", "state"]


class Loaded(NamedTuple):
    """A checkpoint that was loaded.

    Attributes:
        epoch: after which it was.
        trees: by name.
    """

    epoch: int
    trees: dict[str, Any]


def save(run: Run, epoch: int, *, row: Mapping[str, Any] | None = None, **trees: Any) -> None:
    """Write a checkpoint; when this returns, it is on the disk.

    Args:
        run: open for writing.
        epoch: after which it is, ≥ 0.
        row: a dictionary of the epoch's measurements, written in the same transaction.
        **trees: of arrays, by the names under which :func:`load` finds them.

    Raises:
        WriteError: if it cannot be written; nothing has changed then.
        TypeError: for a leaf that cannot be saved.
    """
    arrays, structure = pack(state(**trees))
    run.checkpoint(epoch, arrays, structure, row=row)


def load(run: Run, **like: Any) -> Loaded | None:
    """Return the trees of the last checkpoint.

    Args:
        run: the run.
        **like: trees of the same structure, shapes and dtypes, by the same names, such as those
            with which training starts. The results lie on their devices. The states of random
            generators are put into the generators themselves.

    Returns:
        ``(epoch, trees)``, or ``None`` if there is no checkpoint.

    Raises:
        ValueError: if it is not of such trees, or its file is not what it should be.
    """
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        return None
    return Loaded(checkpoint.epoch, restore(unpack(checkpoint.arrays, checkpoint.state), **like))


def state(**trees: Any) -> dict[str, Any]:
    """Return trees as dictionaries of NumPy arrays by path, for ``optstudy_core.records.pack``.

    Args:
        **trees: of arrays, numbers, strings and random generators.
    """
    return {
        name: {path: _to_host(leaf, f"{name}{path}") for path, leaf in _leaves(tree)}
        for name, tree in trees.items()
    }


def restore(packed: Mapping[str, Any], **like: Any) -> dict[str, Any]:
    """Return the trees of :func:`state`.

    Args:
        packed: its result, a dictionary.
        **like: trees of the same structure, shapes and dtypes.

    Raises:
        ValueError: if they differ.
    """
    check_names(packed, like)
    for name, tree in like.items():
        wanted = [path for path, _ in _leaves(tree)]
        if list(packed[name]) != wanted:
            other = sorted(set(packed[name]) ^ set(wanted))
            raise ValueError(
                f"{name}: the checkpoint has another structure; only one of the two has "
                f"{', '.join(other) or 'this order'}"
            )
    return {
        name: jax.tree.unflatten(
            jax.tree.structure(tree),
            [_to_device(packed[name][path], leaf, f"{name}{path}") for path, leaf in _leaves(tree)],
        )
        for name, tree in like.items()
    }


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any, where: str) -> Any:
    if _is_key(leaf):
        return {"key": np.asarray(jax.random.key_data(leaf)), "of": str(jax.random.key_impl(leaf))}
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        array = np.asarray(leaf)
        # What safetensors does not give back (float8, …) goes as its bits.
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


def _to_device(found: Mapping[str, Any], like: Any, where: str) -> Any:
    kind = "key" if _is_key(like) else "array" if hasattr(like, "dtype") else "value"
    if kind == "value" and not (like is None or isinstance(like, bool | int | float | str)):
        kind = "generator"
    if kind not in found:
        raise ValueError(f"{where}: the checkpoint has a {next(iter(found))}; allowed is a {kind}")
    if kind == "value":
        return found["value"]
    if kind == "generator":
        restore_random_state(like, found["generator"])
        return like
    # Wide types keep their width where JAX would narrow them.
    wide = found.get("dtype") in ("float64", "int64", "uint64")
    with jax.enable_x64(wide or bool(jax.config.jax_enable_x64)):  # type: ignore[attr-defined]
        if kind == "key":
            impl = str(jax.random.key_impl(like))
            if found["of"] != impl:
                raise ValueError(f"{where}: a key of {found['of']}; allowed is {impl}")
            value = jax.random.wrap_key_data(jnp.asarray(found["key"]), impl=impl)
        else:
            dtype = np.dtype(like.dtype)
            array = found["array"]
            if found["dtype"] != dtype.name or array.shape != like.shape:
                raise ValueError(
                    f"{where}: {found['dtype']} of shape {array.shape}; allowed is {dtype.name} of "
                    f"shape {like.shape}"
                )
            array = array if array.dtype == dtype else array.view(dtype)
            if not isinstance(like, jax.Array):
                return array[()] if isinstance(like, np.generic) else array
            # A number of Python's has a type that gives way (weak), and keeps it.
            weak = like.weak_type and array.ndim == 0
            value = jnp.asarray(array.item() if weak else array)
            value = value if value.dtype == dtype else jnp.asarray(array)
        if value.shape != like.shape:
            raise ValueError(f"{where}: shape {value.shape}; allowed is {like.shape}")
        return jax.device_put(value, like.sharding)
