"""Leaves as matrices: the axes of rows and of columns, and separate blocks.

A rule of matrices gets one matrix at a time, with a row for each output of the layer. This module
finds the matrices in a leaf of any shape, and joins the results of the rule:

- The output axes together are the rows. The reduction axes, over which the layer sums, are the
  columns.
- Each index of the remaining axes is a separate matrix (for example a stack of experts).
- ``split`` divides the rows of each matrix into blocks (heads, or queries, keys and values of one
  fused layer). Each block is a separate matrix.

So a kernel of PyTorch, (out, in, height, width), and the same kernel of Flax, (height, width, in,
out), are the same matrix except for the order of the columns.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .axes import concatenated, rearranged
from .leafwise import is_nothing
from .leaves import map_leaves
from .namespace import Array, namespace


class Matrices(NamedTuple):
    """The matrices in a leaf.

    Attributes:
        stack: the axes of the stack of matrices.
        outputs: the axes of the rows.
        reductions: the axes of the columns.
        cuts: begin and end of the rows of each block of a matrix.
        shape: the shape of the leaf.
    """

    stack: tuple[int, ...]
    outputs: tuple[int, ...]
    reductions: tuple[int, ...]
    cuts: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]

    @property
    def columns(self) -> int:
        """The number of columns of a matrix."""
        return self._size(self.reductions)

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """The number of the matrix, and begin and end of the rows, for each block."""
        return [(i, *cut) for i in range(self._size(self.stack)) for cut in self.cuts]

    @property
    def is_plain(self) -> bool:
        """Whether the leaf already is one matrix."""
        return (self.outputs, self.reductions) == ((0,), (1,)) and len(self.cuts) == 1

    def taken(self, x: Any, block: tuple[int, int, int]) -> Any:
        """Return a block of a leaf as a matrix."""
        number, begin, end = block
        turned = namespace(x).permute_dims(x, self.stack + self.outputs + self.reductions)
        return turned.reshape(tuple(map(self._size, self[:3])))[number, begin:end]

    def joined(self, *blocks: Any) -> Any:
        """Return the leaf with these blocks."""
        xp = namespace(blocks[0])
        order = self.stack + self.outputs + self.reductions
        whole = xp.concat(blocks, axis=0).reshape(tuple(self.shape[i] for i in order))
        return xp.permute_dims(whole, tuple(order.index(i) for i in range(len(order))))

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self.shape[i] for i in axes)


def matrices_of(
    shape: tuple[int, ...],
    output_axis: Any = None,
    reduction_axis: Any = None,
    split: Any = None,
    flatten: bool = True,
) -> Matrices | None:
    """Return the matrices in a leaf, ``None`` if there are none.

    Args:
        shape: the shape of the leaf. A leaf with less than two axes has no matrices.
        output_axis: axis or axes of the rows; ``None``: the first; (): the leaf has no matrices.
        reduction_axis: axis or axes of the columns; ``None``: all others.
        split: the number of blocks of rows, or the rows of each block.
        flatten: whether a leaf of more than two axes is a matrix without ``reduction_axis``.

    Raises:
        ValueError: if the leaf lacks a given axis or cannot be split.

    >>> matrices_of((8, 4, 3, 3))  # a convolution of PyTorch: 8 rows, 36 columns
    Matrices(stack=(), outputs=(0,), reductions=(1, 2, 3), cuts=((0, 8),), shape=(8, 4, 3, 3))
    >>> len(matrices_of((6, 8, 4), output_axis=1, reduction_axis=2).blocks)  # six experts
    6
    >>> len(matrices_of((12, 4), split=3).blocks)  # queries, keys and values
    3
    """
    axes = len(shape)
    if axes < 2 or output_axis == () or (axes > 2 and not flatten and reduction_axis is None):
        return None
    outputs = _axes("output_axis", 0 if output_axis is None else output_axis, shape)
    if reduction_axis is None:
        reductions = tuple(i for i in range(axes) if i not in outputs)
    else:
        reductions = _axes("reduction_axis", reduction_axis, shape)
    if not reductions or {*outputs} & {*reductions}:
        raise ValueError(
            f"output_axis = {output_axis!r} and reduction_axis = {reduction_axis!r} of a leaf of "
            f"shape {shape}: allowed are axes of their own for both"
        )
    stack = tuple(i for i in range(axes) if i not in outputs + reductions)
    if not math.prod(shape[i] for i in stack):
        return None
    rows = math.prod(shape[i] for i in outputs)
    return Matrices(stack, outputs, reductions, _cuts(split, rows), shape)


ARGUMENTS: Final = frozenset(inspect.signature(matrices_of).parameters) - {"shape"}
"""Arguments about the shape of a leaf that a rule of matrices has."""


def matrixwise(
    function: Callable[..., Any] | None = None,
    *,
    length: Callable[[tuple[int, int]], int] = lambda shape: 0,
) -> Callable[..., Any]:
    """Decorate ``init`` or ``update`` of a rule to get one matrix at a time, with outputs as rows.

    The decorator reads the arguments of :func:`matrices_of`. Put it below ``@shapewise`` or
    ``@leafwise``. Fields of the state with the shape of the leaf are divided and joined like the
    leaf. Vectors of another length are concatenated. A scalar belongs to the whole leaf.

    Args:
        function: the function of the state, the gradient and so on; a leaf without matrices is
            passed unchanged.
        length: a function from the shape of a matrix to the length of its vector in the state.

    >>> import numpy as np
    >>> @matrixwise
    ... def first_row(x, *, output_axis=None):
    ...     return 0 * x + x[:1, :]
    >>> first_row(np.array([[1.0, 2.0], [3.0, 5.0]]), output_axis=1).tolist()
    [[1.0, 1.0], [3.0, 3.0]]
    """
    if function is None:
        return functools.partial(matrixwise, length=length)
    named = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in named if p.name in ARGUMENTS}

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        like = next(a for a in args if not hasattr(a, "_fields"))
        given = {name: kwargs.get(name, value) for name, value in defaults.items()}
        found = matrices_of(tuple(like.shape), **given)
        if found is None or found.is_plain:
            return function(*args, **kwargs)
        shapes = [(end - begin, found.columns) for _, begin, end in found.blocks]
        ends = list(itertools.accumulate(map(length, shapes)))

        def part(x: Array, k: int) -> Array:
            shape = _shape(x)
            if shape == found.shape:
                return rearranged(functools.partial(found.taken, block=found.blocks[k]), x)
            if len(shape) != 1:
                return x
            begin = ends[k - 1] if k else 0
            return rearranged(lambda v: v[begin : ends[k]], x)

        def whole(*parts: Array) -> Array:
            there = [x for x in parts if not is_nothing(x)]
            shape = _shape(there[0]) if there else ()
            if shape == shapes[0]:
                return rearranged(found.joined, *there)
            return concatenated(there) if len(shape) == 1 else parts[0]

        results = []
        for k in range(len(shapes)):
            own = [a if a is None else map_leaves(functools.partial(part, k=k), a) for a in args]
            results.append(function(*own, **kwargs))
        return _zipped(whole, results)

    return run


def _zipped(function: Callable[..., Array], results: Sequence[Any]) -> Any:
    """Apply a function to corresponding entries of several results with the same structure."""
    first = results[0]
    if first is None or not isinstance(first, tuple):
        return None if first is None else function(*results)
    fields = [_zipped(function, column) for column in zip(*results, strict=True)]
    return type(first)(*fields) if hasattr(first, "_fields") else tuple(fields)


def _shape(x: Array) -> tuple[int, ...]:
    """Return the shape of a field, () if the leaves do not need it."""
    return () if is_nothing(x) else tuple(x.shape)


def _axes(name: str, given: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return axes as non-negative numbers, in this order."""
    axes = given if isinstance(given, tuple | list) else (given,)
    whole = [i for i in axes if isinstance(i, int) and -len(shape) <= i < len(shape)]
    found = tuple(sorted(i % len(shape) for i in whole))
    if len(whole) != len(axes) or len({*found}) != len(found):
        raise ValueError(f"{name} = {given!r} of a leaf of shape {shape}: allowed are its axes")
    return found


def _cuts(split: Any, rows: int) -> tuple[tuple[int, int], ...]:
    """Return begin and end of each block of rows."""
    count = 1 if split is None else split
    sizes = list(count) if isinstance(count, tuple | list) else [rows // count] * count
    if sum(sizes) != rows:
        raise ValueError(
            f"split = {split!r} of a matrix with {rows} rows: allowed are the number of blocks of "
            "the same size, and the rows of each block"
        )
    ends = list(itertools.accumulate(sizes))
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


def check(values: Mapping[str, Any]) -> None:
    """Refuse impossible arguments of :func:`matrices_of`.

    Raises:
        ValueError: if a value is impossible; the message names the argument.
    """
    for name in ("output_axis", "reduction_axis"):
        value = values[name]
        inside = value if isinstance(value, tuple | list) else (value,)
        if value is not None and not all(_is_whole(i) for i in inside):
            raise ValueError(f"{name} = {value!r}: allowed are None, an axis and a tuple of axes")
    split = values["split"]
    sizes = split if isinstance(split, tuple | list) else (split,)
    if split is not None and not (sizes and all(_is_whole(i) and i > 0 for i in sizes)):
        raise ValueError(
            f"split = {split!r}: allowed are None, a number of blocks and a tuple of their rows"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
