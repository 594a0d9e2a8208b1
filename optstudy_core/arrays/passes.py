"""Passes over vectors in blocks that fit the cache: common code, and passes of NumPy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import array_api_compat
import numpy as np

from .bits import size
from .exact_sum import Library, Parts, Terms, Vector, product
from .namespace import Array

_BLOCK = 16_384  # float64 elements: three arrays of this size fit the second cache of a core
_CHUNK = 1 << 18  # elements copied to the host at once, if the memory of a tensor cannot be read


class Blockwise(Library):
    """Passes in blocks, for NumPy and torch."""

    @abstractmethod
    def groups(self, vectors: Sequence[Vector]) -> Iterable[tuple[Any, Iterator[Any]]]:
        """Yield groups with blocks, float64 arrays of each vector; sums of a group are joined."""

    def joined(self, group: Any, values: Array, operation: str) -> Array:
        """Return the ``"max"`` or ``"sum"`` of each of the values over the devices of a group."""
        return values

    def blocks(self, rows: Iterable[tuple[Array, ...]], length: int) -> Iterator[Any]:
        """Yield at least one block of about this length; small leaves share a block."""
        small: list[tuple[Array, ...]] = []
        waiting, wanted = 0, True
        for leaves in rows:
            if size(leaves[0]) * 4 > length:
                wanted = False
                yield from self.cut(leaves, length)
                continue
            small.append(leaves)
            waiting += size(leaves[0])
            if waiting >= length:
                wanted = False
                yield self.gather(small)
                small, waiting = [], 0
        if small and (waiting or wanted):
            yield self.gather(small)

    @abstractmethod
    def cut(self, leaves: tuple[Array, ...], length: int) -> Iterator[tuple[Array, ...]]:
        """Yield float64 blocks of arrays of one shape."""

    @abstractmethod
    def gather(self, rows: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        """Return one float64 block for the arrays of each vector."""

    @abstractmethod
    def reduce(self, operation: str, x: Array, axis: int | None = None) -> Array:
        """Return the ``"max"``, ``"min"`` or ``"sum"`` of ``x``."""

    @abstractmethod
    def stack(self, scalars: Sequence[Any]) -> Array:
        """Return an array of scalars, or of arrays of the same length."""

    @abstractmethod
    def dot(self, x: Array, y: Array) -> Array:
        """Return the plain dot product of two blocks."""

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def extremes(*block: Array) -> Iterator[Array]:
            for factors in terms(*block):
                term = product(factors)
                yield self.reduce("max", term)
                yield -self.reduce("min", term)

        found = self.pass_over(extremes, vectors, "max")
        return list(zip(found[::2], found[1::2], strict=True))

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        def sums(*block: Array) -> Iterator[Array]:
            for part in parts(*block):
                yield self.reduce("sum", part.view(self.xp.int64))

        return self.pass_over(sums, vectors, "sum")

    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def sums(*block: Array) -> Iterator[Array]:
            for factors in terms(*block):
                yield self.dot(*factors) if len(factors) == 2 else self.reduce("sum", *factors)

        return self.pass_over(sums, vectors, "sum")

    def pass_over(
        self,
        function: Callable[..., Iterator[Array]],
        vectors: Sequence[Vector],
        operation: str,
    ) -> list[Any]:
        """Return the ``"max"`` or ``"sum"`` of each result that a function of blocks yields."""
        groups = []
        for group, blocks in self.groups(vectors):
            rows = [self.stack(list(function(*block))) for block in blocks]
            groups.append(
                self.joined(group, self.reduce(operation, self.stack(rows), 0), operation)
            )
        return list(self.reduce(operation, self.stack(groups), 0))


class Host(Blockwise):
    """NumPy, over arrays of any library, with copies of at most a block if possible."""

    xp = np
    block = _BLOCK
    _reductions: Mapping[str, np.ufunc] = {"max": np.maximum, "min": np.minimum, "sum": np.add}

    def groups(self, vectors: Sequence[Vector]) -> Iterable[tuple[Any, Iterator[Any]]]:
        return [(None, self.blocks(zip(*vectors, strict=True), self.block))]

    def cut(self, leaves: tuple[Array, ...], length: int) -> Iterator[tuple[Array, ...]]:
        for piece in _pieces(leaves):
            yield from _blocks(piece, length)

    def gather(self, rows: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        columns = zip(*rows, strict=True)
        flat = ([to_numpy(x).reshape(-1) for x in column] for column in columns)
        return tuple(np.concatenate(arrays, dtype=np.float64) for arrays in flat)

    def reduce(self, operation: str, x: Array, axis: int | None = None) -> Array:
        return self._reductions[operation].reduce(x, axis)

    def stack(self, scalars: Sequence[Any]) -> Array:
        return np.array(scalars)

    def dot(self, x: Array, y: Array) -> Array:
        half = _BLOCK // 2  # BLAS starts threads for more than 10,000 elements, and waits for them
        return x[:half] @ y[:half] + x[half:] @ y[half:]


HOST = Host()


class Columns(Host):
    """NumPy, over several small vectors at once: a scalar is an array with one element for each.

    A vector is one array with a column for each small vector, padded with zeros, which change no
    sum.

    Args:
        lengths: the lengths of the columns without the padding.
    """

    most = 1 << 12
    """The largest number of terms for which all sums have the same folds."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths

    def side_by_side(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Return arrays of one dtype, with these lengths, as columns."""
        longest = max(self._lengths)
        order: Any = "F" if longest > len(arrays) else "C"  # inner loops of NumPy are the longer
        columns = np.zeros((longest, len(arrays)), arrays[0].dtype, order)
        for i, x in enumerate(arrays):
            columns[: x.size, i] = x.reshape(-1)
        return columns

    def count(self, vector: Vector) -> int:
        return len(vector[0])

    def sizes(self, vector: Vector) -> Any:
        return np.array(self._lengths, np.float64)

    def groups(self, vectors: Sequence[Vector]) -> Iterable[tuple[Any, Iterator[Any]]]:
        return [(None, iter([tuple(x.astype(np.float64) for (x,) in vectors)]))]

    def reduce(self, operation: str, x: Array, axis: int | None = None) -> Array:
        return super().reduce(operation, x, 0)

    def dot(self, x: Array, y: Array) -> Array:
        return self.reduce("sum", x * y)


def _blocks(arrays: tuple[np.ndarray, ...], length: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield float64 blocks of arrays of one shape and any layout; NumPy reuses its buffers."""
    iterator = np.nditer(
        arrays,
        flags=["external_loop", "buffered"],
        op_dtypes=[np.float64] * len(arrays),
        casting="same_kind",
        buffersize=length,
    )
    for block in iterator:
        columns = block if isinstance(block, tuple) else (block,)
        if columns[0].size <= length:
            yield columns
            continue
        for i in range(0, columns[0].size, length):  # contiguous float64 arrays are not split
            yield tuple(x[i : i + length] for x in columns)


def _pieces(leaves: tuple[Array, ...]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield leaves as NumPy arrays: whole if they share their memory, else flat and in chunks."""
    if not any(map(_must_be_copied, leaves)):
        yield tuple(map(to_numpy, leaves))
        return
    flat = [_local(x).reshape(-1) for x in leaves]
    for i in range(0, size(leaves[0]), _CHUNK):
        yield tuple(to_numpy(x[i : i + _CHUNK]) for x in flat)


def constant(x: Array) -> Array:
    """Return an array without a gradient in torch.

    Raises:
        ValueError: if the array needs a gradient: exact sums and products are integers to a
            library, so its gradients would silently be wrong.
    """
    if array_api_compat.is_torch_array(x) and (1 * x.reshape(-1)[:0]).requires_grad:
        raise ValueError(
            "array with requires_grad: sums, norms and products of matrices carry no gradient; "
            "allowed are x.detach() and torch.no_grad()"
        )
    return x


def _must_be_copied(x: Array) -> bool:
    return array_api_compat.is_torch_array(x) and (
        x.device.type != "cpu" or not _has_numpy_dtype(x)
    )


def _has_numpy_dtype(x: Any) -> bool:
    name = str(x.dtype).removeprefix("torch.")
    return not name.startswith(("bfloat", "float8"))


def _local(x: Array) -> Array:
    if not array_api_compat.is_torch_array(x):
        return x
    # A sharded tensor of torch must be gathered to be read; see optstudy_torch.geometry.
    return x.full_tensor().detach() if hasattr(x, "full_tensor") else x.detach()


def to_numpy(x: Array) -> np.ndarray:
    """Return an array of any library as a NumPy array, without a copy if possible."""
    if array_api_compat.is_torch_array(x):
        x = _local(x).cpu()
        return np.asarray((x if _has_numpy_dtype(x) else x.float()).numpy())
    return np.asarray(x)
