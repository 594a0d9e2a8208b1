"""Models of JAX (nnx modules or trees of arrays) for :mod:`optstudy_core.travel`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optstudy_core.travel.file import BITS
from optstudy_core.travel.layers import (
    BUFFER,
    DROPOUT,
    PARAMETER,
    Layer,
    Outline,
    Place,
    kernel_axes,
)

from ._paths import leaf_name

_ROLES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
_STATISTICS = ("mean", "var")
_LAYERS_OWN = frozenset({*_ROLES, *_STATISTICS, "bias"})
"""Names of the arrays of a known layer; other arrays are separate parameters."""


class Turn(NamedTuple):
    """The layout of an array in Flax and in PyTorch.

    Attributes:
        shape: the shape in Flax.
        flat: the shape with all axes of inputs as one axis, and all axes of outputs as one axis.
        axes: the order of these axes in PyTorch; ``None``: the same.
    """

    shape: tuple[int, ...]
    flat: tuple[int, ...]
    axes: tuple[int, ...] | None

    @classmethod
    def of(cls, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> Turn:
        return cls(shape, shape, axes)

    @property
    def torch_shape(self) -> tuple[int, ...]:
        return self.flat if self.axes is None else tuple(self.flat[i] for i in self.axes)

    def to_torch(self, x: Any) -> Any:
        """Return an array of Flax in the layout of PyTorch."""
        x = x.reshape(self.flat)
        return x if self.axes is None else x.transpose(self.axes)

    def from_torch(self, x: Any) -> Any:
        """Return an array of PyTorch in the layout of Flax."""
        x = x if self.axes is None else x.transpose(np.argsort(self.axes))
        return x.reshape(self.shape)


class Model:
    """A model with its layers, and its arrays by name.

    Attributes:
        outline: the layers of the model.
        turns: the layout of each parameter and buffer.
        arrays: the parameters and buffers, in the layout of Flax.
    """

    outline: Outline
    turns: dict[str, Turn]
    arrays: dict[str, Any]

    def params(self, arrays: Mapping[str, Any]) -> Any:
        """Return the trained tree, with other arrays."""
        raise NotImplementedError

    def write(self, arrays: Mapping[str, Any]) -> Any:
        """Return the model with other arrays; an nnx model changes in place."""
        raise NotImplementedError

    def output(self, arrays: Mapping[str, Any], inputs: Any, forward: Any) -> Any:
        """Return the output of the model for inputs, in evaluation mode."""
        raise NotImplementedError

    def _describe(self, layers: Iterator[Layer], parameters: set[str], known: bool) -> None:
        found = tuple(layers)
        self.outline = Outline(
            found,
            {name: self.turns[name].torch_shape for name in self.arrays},
            {name: jnp.result_type(x).name for name, x in self.arrays.items()},
            tuple(name for name in self.arrays if name in parameters),
            known,
        )

    def in_file(self) -> dict[str, Any]:
        """Return the arrays in the layout of a file."""
        return {name: self.turns[name].to_torch(to_file(x)) for name, x in self.arrays.items()}

    def from_file(self, name: str, x: Any) -> Any:
        """Return an array of a file in the layout and on the devices of this model."""
        like = self.arrays[name]
        turned = self.turns[name].from_torch(x)
        made = np.ascontiguousarray(turned).reshape(turned.shape)  # which makes scalars vectors
        dtype = np.dtype(jnp.result_type(like))
        array = jnp.asarray(made if made.dtype == dtype else made.view(dtype))
        return jax.device_put(array, like.sharding) if isinstance(like, jax.Array) else array


def model_of(model: Any, wrt: Any = None) -> Model:
    """Return a module of nnx or a tree of arrays as a :class:`Model`.

    Args:
        model: the module or the tree.
        wrt: the variables of a module that are trained; ``None``: ``nnx.Param``.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        return _Module(model, nnx, wrt or nnx.Param)
    return _Tree(model)


def to_file(x: Any) -> np.ndarray:
    """Return an array in the layout of a file."""
    array = np.asarray(x)
    bits = BITS.get(array.dtype.name)
    return array.view(bits) if bits else array


# Trees.


class _Tree(Model):
    """A tree of parameters, or variables of Linen: ``{"params": …, "batch_stats": …}``."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._split = isinstance(tree, Mapping) and "params" in tree
        leaves = {leaf_name(path): x for path, x in jax.tree.leaves_with_path(tree)}
        # Names that differ in a number are in the order of the numbers: Dense_2 before Dense_10.
        self.arrays = {name: leaves[name] for name in sorted(leaves, key=_natural)}
        layers: dict[str, dict[str, str]] = {}
        for name in self.arrays:
            parent, _, own = name.rpartition("/")
            if self._split:
                parent = parent.partition("/")[2]
            layers.setdefault(parent, {})[own] = name
        self.turns = {name: Turn.of(np.shape(x)) for name, x in self.arrays.items()}
        parameters = {n for n in self.arrays if not self._split or n.startswith("params/")}
        found = [x for path, own in layers.items() for x in self._layers(path, own, parameters)]
        self._describe(iter(found), parameters, known=False)

    def _layers(self, path: str, own: dict[str, str], parameters: set[str]) -> Iterator[Layer]:
        kind = None
        places = {_ROLES.get(k, k): Place(name) for k, name in own.items()}
        if "kernel" in own:
            name = own["kernel"]
            ndim = np.ndim(self.arrays[name])
            kind = {2: "linear", 3: "conv1", 4: "conv2", 5: "conv3"}.get(ndim)
            if kind is not None:
                self.turns[name] = Turn.of(np.shape(self.arrays[name]), kernel_axes(ndim))
        elif "embedding" in own:
            kind = "embedding"
        elif "scale" in own or {*own} >= {*_STATISTICS}:
            kind = "norm"
        if kind is not None and {*own} <= _LAYERS_OWN:
            yield Layer(path, kind, places)
            return
        for k, name in own.items():
            plain = PARAMETER if name in parameters else BUFFER
            yield Layer(f"{path}/{k}" if path else k, plain, {"value": Place(name)})

    def params(self, arrays: Mapping[str, Any]) -> Any:
        made = self.write(arrays)
        return made["params"] if self._split else made

    def write(self, arrays: Mapping[str, Any]) -> Any:
        return jax.tree.map_with_path(lambda path, x: arrays.get(leaf_name(path), x), self._tree)

    def output(self, arrays: Mapping[str, Any], inputs: Any, forward: Any) -> Any:
        if forward is None:
            raise ValueError("sample: a tree has no output; say in forward= what it is")
        return forward(self.write(arrays), *inputs)


def _natural(name: str) -> list[Any]:
    return [(0, int(x), "") if x.isdigit() else (1, 0, x) for x in re.split(r"(\d+)", name)]


# Modules of nnx.


class _Module(Model):
    """A module of nnx."""

    def __init__(self, module: Any, nnx: Any, wrt: Any) -> None:
        self._module, self._nnx, self._wrt = module, nnx, wrt
        found = {
            leaf_name(tuple(map(jax.tree_util.DictKey, path))): x
            for path, x in nnx.iter_graph(module)
            if isinstance(x, nnx.Variable) and not isinstance(x, nnx.RngState)
        }
        self._variables = found
        self.arrays = {name: x[...] for name, x in found.items()}
        self.turns = {name: Turn.of(np.shape(x)) for name, x in self.arrays.items()}
        self._names = {id(x): name for name, x in found.items()}
        state = nnx.as_pure(nnx.state(module, wrt))
        self._parameters = {leaf_name(path) for path, _ in jax.tree.leaves_with_path(state)}
        self._seen: set[int] = set()
        self._describe(self._walk(module, ""), self._parameters, known=True)

    def _walk(self, node: Any, path: str) -> Iterator[Layer]:
        """Yield the layers in declared order."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        nnx = self._nnx
        if isinstance(node, nnx.Variable):
            if id(node) in self._names:
                name = self._names[id(node)]
                plain = PARAMETER if name in self._parameters else BUFFER
                yield Layer(path, plain, {"value": Place(name)})
            return
        layer = self._layer(node, path) if isinstance(node, nnx.Module) else None
        if layer is not None:
            yield layer
            placed = {place.name for place in layer.places.values()}
            self._seen.update(id(self._variables[name]) for name in placed)
        for key, child in children(node, nnx):
            for x in self._walk(child, f"{path}/{key}" if path else str(key)):
                if isinstance(node, nnx.MultiHeadAttention) and key == "query":
                    x = x._replace(conventions=_attention(node))
                yield x

    def _layer(self, module: Any, path: str) -> Layer | None:
        nnx = self._nnx
        own = {k: x for k, x in vars(module).items() if id(x) in self._names}
        names = {k: self._names[id(x)] for k, x in own.items()}
        roles = {k: _ROLES.get(k, k) for k in names if k in _LAYERS_OWN}
        places = {role: Place(names[k]) for k, role in roles.items()}
        if isinstance(module, nnx.Dropout):
            return Layer(path, DROPOUT, {}, {"rate": module.rate})
        if isinstance(module, nnx.Linear):
            self._turn(names["kernel"])
            return Layer(path, "linear", places)
        if isinstance(module, nnx.LinearGeneral) and not module.batch_axis:
            inside, outside = map(_product, (module.in_features, module.out_features))
            shape = self.turns[names["kernel"]].shape
            self.turns[names["kernel"]] = Turn(shape, (inside, outside), (1, 0))
            if "bias" in names:
                shape = self.turns[names["bias"]].shape
                self.turns[names["bias"]] = Turn(shape, (outside,), None)
            return Layer(path, "linear", places)
        if isinstance(module, nnx.Conv) and 3 <= self.arrays[names["kernel"]].ndim <= 5:
            self._turn(names["kernel"])
            return Layer(path, f"conv{self.arrays[names['kernel']].ndim - 2}", places)
        if isinstance(module, nnx.Embed):
            return Layer(path, "embedding", places)
        if isinstance(module, _norms(nnx)):
            return Layer(path, "norm", places, _norm(module, nnx)) if places else None
        return None

    def _turn(self, name: str) -> None:
        shape = self.turns[name].shape
        self.turns[name] = Turn.of(shape, kernel_axes(len(shape)))

    def params(self, arrays: Mapping[str, Any]) -> Any:
        state = self._nnx.as_pure(self._nnx.state(self._module, self._wrt))
        return jax.tree.map_with_path(lambda path, x: arrays.get(leaf_name(path), x), state)

    def write(self, arrays: Mapping[str, Any]) -> Any:
        for name, x in arrays.items():
            self._variables[name].set_value(x)
        return self._module

    def output(self, arrays: Mapping[str, Any], inputs: Any, forward: Any) -> Any:
        tried = self._nnx.clone(self._module)
        _Module(tried, self._nnx, self._wrt).write(arrays)
        tried.eval()
        call: Callable[..., Any] = forward or (lambda model, *x: model(*x))
        return call(tried, *inputs)


def children(node: Any, nnx: Any) -> Iterator[tuple[Any, Any]]:
    """Yield children that may have layers, in declared order."""
    if isinstance(node, nnx.List | list | tuple):
        entries: Any = enumerate(node)
    elif isinstance(node, Mapping):
        entries = node.items()
    elif isinstance(node, nnx.Pytree):  # modules too
        # Attributes are in alphabetical order after ``nnx.jit`` and ``nnx.merge``.
        declared = getattr(node, "_pytree__nodes", {})
        names = dict.fromkeys([*(k for k in declared if k in vars(node)), *vars(node)])
        entries = ((k, getattr(node, k)) for k in names)
    else:
        return
    kinds = (nnx.Pytree, nnx.Variable, list, tuple, dict)
    yield from ((k, x) for k, x in entries if isinstance(x, kinds))


def _norms(nnx: Any) -> tuple[type, ...]:
    names = ("BatchNorm", "LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm")
    return tuple(getattr(nnx, name) for name in names if hasattr(nnx, name))


def _norm(module: Any, nnx: Any) -> dict[str, Any]:
    told = {"type": type(module).__name__, "epsilon": module.epsilon}
    if isinstance(module, nnx.BatchNorm):
        told |= {
            "momentum of running statistics": round(1 - module.momentum, 12),
            "running variance over": "n",
        }
    return told


def _attention(module: Any) -> dict[str, Any]:
    return {"heads": module.num_heads, "dropout of attention": float(module.dropout_rate)}


def _product(sizes: Any) -> int:
    return int(np.prod(sizes, dtype=int))
