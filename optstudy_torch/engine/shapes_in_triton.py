"""Programs of one shape as Triton kernels: bodies with several shapes, sums along an axis.

An instance of a kernel computes some elements of one leaf. A table on the device has the addresses
of the arrays of each leaf. The table is rewritten only if an array has moved.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .alike import Alike
from .errors import NoKernelsError
from .exact_sums_in_triton import each_sum
from .kernels import Run
from .kernels_in_triton import Scalars
from .kernels_of_shape import OfShape
from .memory import OnDevice
from .phases import Added, Body, Phase
from .program import Program
from .source import arrays_of, merged, reads, rows, values
from .trace import Sum, Symbol
from .triton_source import BLOCK, LANGUAGE, dtype_of, has_triton, kernel_of, loads, start, text_of
from .units import on_device

_TERMS = 16
"""Number of terms of a sum along an axis that one instance adds, a power of two."""


class Kernels(OfShape):
    """The kernels of a program of one shape.

    Raises:
        NoKernelsError: without Triton, or a C compiler for its launcher.
    """

    def __init__(self, program: Program, device: torch.device) -> None:
        if not has_triton():
            raise NoKernelsError("there is no Triton, or no C compiler for its launcher")
        assert program.dtype is not None
        self._dtype, self.memory = program.dtype, OnDevice(program.dtype, device)
        super().__init__(program)

    def _scalars(self, phase: Phase, kept: set[str]) -> Any:
        return Scalars(phase, kept)

    def _body(self, body: Body) -> Any:
        return _Body(body, self._dtype)

    def _added(self, barrier: Added) -> Any:
        return _Along(barrier, self._dtype)

    def sums(self, execution: Any, node: Sum) -> torch.Tensor:
        """Return the float64 sums of each leaf."""
        return each_sum(node.function, [execution.value(x) for x in node.args])


class _Kernel:
    """A kernel that reads and writes arrays of each leaf.

    Args:
        names: the names of the arrays.
        kinds: the dtype of each array.
        scalars: the scalars of each leaf that the kernel reads.
        lengths: the names of integer arguments.
        text: the text of the lines, with the scalars that it reads.
        lines: the lines, for elements ``at`` of a leaf; ``inside`` is whether they exist.
        dtype: the working dtype.
    """

    def __init__(
        self,
        names: Sequence[str],
        kinds: Sequence[torch.dtype],
        scalars: Sequence[Symbol],
        lengths: Sequence[str],
        text: Any,
        lines: Sequence[str],
        dtype: torch.dtype,
    ) -> None:
        self._scalars, self._numbers = scalars, text.numbers
        place = [
            "instance = tl.program_id(0)",
            "leaf = instance // parts",
            "at = (instance % parts).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
            "inside = at < size",
        ]
        for i, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            where = f"tl.load(table + {i} * leaves + leaf)"
            place.append(f"to_{name} = {where}.to(tl.pointer_type({LANGUAGE[kind]}))")
        place += [f"{x.name} = tl.load(in_{x.name} + leaf)" for x in scalars]
        arguments = ["table", "leaves", "parts", "size", *lengths]
        arguments += [f"in_{x.name}" for x in scalars]
        arguments += ["c", "BLOCK: tl.constexpr"]
        self._kernel = kernel_of("body", arguments, [*place, *loads(text, dtype), *lines])
        self._table: tuple[np.ndarray, torch.Tensor] | None = None
        self._c: tuple[list[float], torch.Tensor] | None = None

    def __call__(
        self, execution: Any, arrays: Sequence[Alike], size: int, lengths: Sequence[int]
    ) -> Run:
        """Return a function that starts the kernel for some elements of each leaf."""
        device, count = execution.device, execution.count
        addresses = np.array([x.addresses for x in arrays], np.uintp).astype(np.int64)
        if self._table is None or not np.array_equal(self._table[0], addresses):
            self._table = addresses, on_device(device, addresses)
        numbers = values(self._numbers, execution.hyperparameters)
        if self._c is None or self._c[0] != numbers:
            self._c = numbers, execution.arguments.numbers(None, numbers)
        parts = -(-size // BLOCK)
        vectors = [execution.vector(x) for x in self._scalars]
        given = self._table[1], count, parts, size, *lengths, *vectors, self._c[1]

        def run(*_: Any) -> None:
            start(self._kernel, count * parts, device, *given)

        return functools.partial(run, arrays)  # keep arrays with their addresses


class _Body:
    """A body for all leaves at once."""

    def __init__(self, body: Body, dtype: torch.dtype) -> None:
        self._body, self._dtype = body, dtype
        self._steps = any(o.target == "step" for o in body.outputs)

    @functools.cached_property
    def _kernels(self) -> dict[bool, tuple[_Kernel, list[str], list[int]]]:
        return {adds: self._made(adds) for adds in {False, self._steps}}

    def _made(self, adds: bool) -> tuple[_Kernel, list[str], list[int]]:
        body, dtype = self._body, self._dtype
        names, own, text = rows(body, adds), arrays_of(body), text_of(dtype)
        assert body.shape is not None
        lengths, patterns = merged(body.shape, [own[x].shape or () for x in names])
        axes = range(len(lengths))
        lines = ["rest = at"]
        for axis in reversed(axes[1:]):
            lines += [f"i{axis} = rest % e{axis}", f"rest = rest // e{axis}"]
        lines.append("i0 = rest")
        for i, name in enumerate(names):
            offset = "at * 0"
            for axis in (axis for axis in axes if patterns[axis][i]):
                offset = f"({offset}) * e{axis} + i{axis}"
            lines.append(f"at_{name} = to_{name} + " + ("at" if _is_full(patterns, i) else offset))
        lines += [f"{x} = tl.load(at_{x}, mask=inside)" for x in reads(body, adds)]
        lines += [text.line(line) for line in body.lines]
        for target, source, _ in body.outputs:
            kind = LANGUAGE[dtype_of(source.kind, dtype)]
            value = text.shown(source)
            if not source.is_array:
                value = f"tl.zeros([BLOCK], {kind}) + {value}"
            if target == "step" and adds:
                target, value = "p", f"p + ({value})"
            lines.append(f"tl.store(at_{target}, {value}, mask=inside)")
        kinds = [dtype_of(own[x].kind, dtype) for x in names]
        scalars = list(body.scalars.values())
        extents = [f"e{axis}" for axis in axes]
        return _Kernel(names, kinds, scalars, extents, text, lines, dtype), names, lengths

    def __call__(self, execution: Any) -> Run:
        """Return a function that runs the body."""
        body, adds = self._body, self._steps and execution.adds
        for target, source, shape in body.outputs:
            if not (target == "step" and adds):
                execution.make(target, source, shape)
        kernel, names, lengths = self._kernels[adds]
        arrays = [execution.value(name) for name in names]
        return kernel(execution, arrays, math.prod(body.shape or ()), lengths)


def _is_full(patterns: Sequence[Sequence[bool]], i: int) -> bool:
    return all(pattern[i] for pattern in patterns)


class _Along:
    """A sum along an axis, with the lines that compute the terms.

    The rows are padded with zeros to a power of two. The lower half is added to the upper half
    until one row is left. An instance does this for 16 rows at equal distances; the results are
    rows for the next kernel.
    """

    def __init__(self, barrier: Added, dtype: torch.dtype) -> None:
        self._node, self._body = barrier
        self._dtype = dtype
        self._kernels: dict[tuple[int, bool], _Kernel] = {}

    def _kernel(self, terms: int, first: bool) -> _Kernel:
        """Return the kernel that adds rows."""
        key = terms, first
        if key not in self._kernels:
            self._kernels[key] = self._made(*key)
        return self._kernels[key]

    def _made(self, terms: int, first: bool) -> _Kernel:
        body, dtype, text = self._body, self._dtype, text_of(self._dtype)
        names = [*body.arrays] if first else ["x"]
        kinds = [dtype_of(x.kind, dtype) for x in body.arrays.values()] if first else [_DOUBLE]
        lines = ["block = at // width", "rest = at % width"]
        written = [text.line(line) for line in body.lines] if first else []
        value = text.shown(self._node.args[0]) if first else "x"
        for k in range(terms):
            lines += [f"place = rest + {k} * width", "there = inside & (place < whole)"]
            lines += [
                f"{x} = tl.load(to_{x} + block * whole + place, mask=there, other=0)" for x in names
            ]
            lines += [*written, f"v{k} = tl.where(there, ({value}).to(tl.float64), 0.0)"]
        while terms > 1:
            terms //= 2
            lines += [f"v{k} = v{k} + v{k + terms}" for k in range(terms)]
        lines.append("tl.store(to_made + at, v0, mask=inside)")
        scalars = list(body.scalars.values()) if first else []
        return _Kernel(
            [*names, "made"], [*kinds, _DOUBLE], scalars, ["width", "whole"], text, lines, dtype
        )

    def __call__(self, execution: Any) -> Alike:
        """Return the sums."""
        shape, axis = self._node.args[0].shape, self._node.axis
        assert shape is not None
        blocks, columns = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        there, rest = shape[axis], 1 << max(shape[axis] - 1, 0).bit_length()
        arrays = [execution.value(x) for x in self._body.arrays.values()]
        first = True
        while first or rest > 1:
            terms = min(rest, _TERMS)
            rest //= terms
            inner = (rest,) if rest > 1 else (1,)
            own = (*shape[:axis], *inner, *shape[axis + 1 :])
            made = execution.empty(self._node.result, own)
            width = rest * columns
            kernel = self._kernel(terms, first)
            kernel(execution, [*arrays, made], blocks * width, [width, there * columns])()
            arrays, there, first = [made], rest, False
        return arrays[0]


_DOUBLE = torch.float64
