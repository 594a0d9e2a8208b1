"""Trace the pure function: call it once with symbols, and record a node for every operation.

Results from hyperparameters and step counts alone (1 − β, lr·λ, 1 − βᵗ) are not nodes. The host
computes them in double precision at every step, and they are rounded once, so new learning rates
need no new program.

A formula that reads the shape of a leaf is traced for one shape, and all leaves of this shape run
together. Other formulas are traced for leaves of any shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch

from optstudy_core.arrays.leaves import Backend, Leaves, Reduction, Step, Trees

from .host_numbers import COMPARISONS, HOST_NUMBERS, LOGICAL, HostNumber
from .rounding import NUMPY

WORKING, DOUBLE, TRUTH = "working", "double", "truth"
"""Kinds of values: in the working dtype, in float64 if that is another dtype, booleans."""

INPUT = "x_"
"""The prefix of names of symbols that are given at every step, besides the gradient."""


class Symbol(NamedTuple):
    """A value of a program, for each leaf.

    Attributes:
        name: a unique name in the program.
        shape: () for a scalar; ``None`` for an array like a leaf of any shape.
        kind: the kind of the elements.
        dtype: the dtype of NumPy, in a program of one shape.
    """

    name: str
    shape: tuple[int, ...] | None
    kind: str = WORKING
    dtype: Any = None

    @property
    def is_array(self) -> bool:
        """Whether the value can have more than one element."""
        return self.shape != ()

    @property
    def is_truth(self) -> bool:
        """Whether the elements are boolean."""
        return self.kind == TRUTH


class Line(NamedTuple):
    """``result = operation(*args)``; arguments are symbols, host numbers and Python numbers."""

    result: Symbol
    operation: str
    args: tuple[Any, ...]


class Sum(NamedTuple):
    """``result = function(*args)``, a sum over the elements of each leaf or of all leaves."""

    result: Symbol
    function: Reduction
    args: tuple[Symbol, ...]
    whole: bool


class Along(NamedTuple):
    """A sum of float64 elements along an axis, in the order of the core."""

    result: Symbol
    args: tuple[Symbol]
    axis: int


class Move(NamedTuple):
    """``result = function(*args)`` for arrays of a library, without rounding."""

    result: Symbol
    function: Callable[..., Any]
    args: tuple[Symbol, ...]


class Product(NamedTuple):
    """The product of two float64 matrices, with exact sums; ``rough``: of 20 bits."""

    result: Symbol
    args: tuple[Symbol, Symbol]
    rough: bool


class When(NamedTuple):
    """``results`` are ``made`` by ``nodes`` for leaves with a true condition, else ``args``."""

    results: tuple[Symbol, ...]
    condition: Symbol
    nodes: list[Any]
    made: tuple[Symbol, ...]
    otherwise: tuple[Symbol, ...]

    @property
    def args(self) -> tuple[Symbol, ...]:
        """The symbols from outside that are read."""
        return self.condition, *self.otherwise, *free(self.nodes, self.made)


class Repeat(NamedTuple):
    """``results`` come from ``begin`` by repeating ``nodes`` while a condition is true.

    Attributes:
        carried: the symbols of the values inside.
        checks: nodes that compute the condition, ``goes_on``.
        nodes: nodes that compute the next values, ``made``.
        most: the largest number of repetitions.
    """

    results: tuple[Symbol, ...]
    begin: tuple[Symbol, ...]
    carried: tuple[Symbol, ...]
    checks: list[Any]
    goes_on: Symbol
    nodes: list[Any]
    made: tuple[Symbol, ...]
    most: int

    @property
    def args(self) -> tuple[Symbol, ...]:
        """The symbols from outside that are read."""
        own = {x.name for x in self.carried}
        read = [*free(self.checks, [self.goes_on]), *free(self.nodes, self.made)]
        return *self.begin, *(x for x in read if x.name not in own)


def results_of(node: Any) -> tuple[Symbol, ...]:
    """Return the results of a node."""
    return node.results if isinstance(node, When | Repeat) else (node.result,)


def symbols_of(node: Any) -> list[Symbol]:
    """Return the symbols that a node reads."""
    return [a for a in node.args if isinstance(a, Symbol)]


def free(nodes: Sequence[Any], ends: Sequence[Symbol]) -> list[Symbol]:
    """Return the symbols that ``nodes`` read, and those of ``ends``, that no node computes."""
    made = {x.name for node in nodes for x in results_of(node)}
    read = chain(*map(symbols_of, nodes), ends)
    return list({x.name: x for x in read if x.name not in made}.values())


class Choice(NamedTuple):
    """One of two step counts, chosen by a condition that is known after sums.

    Attributes:
        condition: the condition, a boolean scalar.
        new: the count if the condition is true.
        old: the count if the condition is false.
    """

    condition: Symbol
    new: HostNumber | Choice
    old: HostNumber | Choice

    def value(self, known: dict[str, Any], scalars: dict[str, Any]) -> Any:
        """Return the count, one for each leaf.

        Args:
            known: as for :meth:`HostNumber.value`.
            scalars: scalars by name, of NumPy or tensors.
        """
        truths = scalars[self.condition.name]
        truths = truths.cpu().numpy() if hasattr(truths, "cpu") else truths
        return np.where(truths, *(count_of(x, known, scalars) for x in (self.new, self.old)))

    @property
    def conditions(self) -> list[Symbol]:
        """All conditions that must be known."""
        parts = [x.conditions for x in (self.new, self.old) if isinstance(x, Choice)]
        return [self.condition, *chain.from_iterable(parts)]


def count_of(number: HostNumber | Choice, known: dict[str, Any], scalars: dict[str, Any]) -> Any:
    """Return a step count, for all leaves or for each leaf; args as for :meth:`Choice.value`."""
    if isinstance(number, HostNumber):
        return number.value(known)
    return number.value(known, scalars)


class Tracer(Backend):
    """A backend that records a node for every operation instead of computing it.

    Args:
        dtype: the working dtype of a program of one shape.

    Attributes:
        nodes: the nodes in the order of the formula.
        numbers: scalars computed from step counts, by formula.
        choices: step counts chosen by a condition, by the name of the symbol.
    """

    name = "torch-program"

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.nodes: list[Any] = []
        self.numbers: dict[str, tuple[Symbol, HostNumber]] = {}
        self.choices: dict[str, Choice] = {}
        self._made = 0
        self._dtypes: dict[str, Any] = {}
        if dtype is not None:
            self._dtypes = {WORKING: np.dtype(NUMPY[dtype]), TRUTH: np.dtype(bool)}
            self._dtypes[DOUBLE] = np.dtype(np.float64)

    def symbol(self, name: str, shape: tuple[int, ...] | None, kind: str = WORKING) -> Symbol:
        """Return a symbol of this program."""
        return Symbol(name, shape, kind, self._dtypes.get(kind))

    def _new(self, shape: tuple[int, ...] | None, kind: str) -> Symbol:
        self._made += 1
        return self.symbol(f"t{self._made}", shape, kind)

    def _kind(self, dtype: Any) -> str:
        """Return the kind of elements for a dtype of NumPy."""
        return next(kind for kind, own in self._dtypes.items() if own == dtype)

    def _count(self, x: Any) -> HostNumber | Choice | None:
        """Return an argument as an exact number of each leaf; ``None`` if it is no such number."""
        if isinstance(x, HostNumber):
            return x if x.per_leaf and not x.is_truth else None
        return self.choices.get(x.name) if isinstance(x, Symbol) else None

    def _scalar(self, x: Any) -> Any:
        """Return the scalar for a number of each leaf or a boolean; others unchanged."""
        if not isinstance(x, HostNumber) or not (x.per_leaf or x.is_truth):
            return x
        symbol = self.symbol(f"k{len(self.numbers)}", (), TRUTH if x.is_truth else WORKING)
        return self.numbers.setdefault(x.key, (symbol, x))[0]

    # Operations.

    def apply(self, operation: str, *args: Any) -> Symbol:
        counts = [self._count(x) for x in args[1:]] if operation == "where" else []
        args = tuple(map(self._scalar, args))
        symbols = [a for a in args if isinstance(a, Symbol)]
        truths = operation in COMPARISONS or operation in LOGICAL
        kind = DOUBLE if DOUBLE in {s.kind for s in symbols} else WORKING
        result = self._new(_broadcast([s.shape for s in symbols]), TRUTH if truths else kind)
        self.nodes.append(Line(result, operation, args))
        if len(counts) == 2 and counts[0] is not None and counts[1] is not None:
            self.choices[result.name] = Choice(args[0], counts[0], counts[1])
        return result

    def of_numbers(self, operation: str, *args: Any) -> Any:
        return HOST_NUMBERS.meet(operation, *args)

    def spread(self, number: Any, tree: Leaves) -> Any:
        return Leaves([self._scalar(number)], self)

    def full(self, value: Any, leaf: Symbol) -> Symbol:
        value = self._scalar(value)
        if isinstance(value, Symbol):
            return value
        result = self._new((), leaf.kind)
        self.nodes.append(Line(result, "full", (value,)))
        return result

    def reduce(self, function: Reduction, trees: Sequence[Leaves], whole: bool) -> Leaves:
        args = tuple(tree.values[0] for tree in trees)
        result = self._new((), args[0].kind)
        self.nodes.append(Sum(result, function, args, whole))
        return Leaves([result], self)

    # Operations of one shape.

    def rearranged(self, function: Callable[..., Any], *leaves: Symbol) -> Symbol:
        if function in (self.matmul, self.rough_matmul):
            rows, columns = leaves[0].shape[0], leaves[1].shape[1]  # type: ignore[index]
            result = self._new((rows, columns), DOUBLE)
            rough = function == self.rough_matmul
            self.nodes.append(Product(result, leaves, rough))  # type: ignore[arg-type]
            return result
        try:
            made = function(*map(_empty, leaves))
        except (AttributeError, TypeError):  # a function for NumPy arrays only
            made = function(*(np.zeros(x.shape or (), x.dtype) for x in leaves))
        own = np.dtype(str(made.dtype).removeprefix("torch."))
        kind = leaves[0].kind if own == leaves[0].dtype else self._kind(own)
        result = self._new(tuple(made.shape), kind)
        self.nodes.append(Move(result, function, leaves))
        return result

    def matmul(self, x: Any, y: Any) -> Any:
        raise NotImplementedError  # recorded, never called

    def rough_matmul(self, x: Any, y: Any) -> Any:
        raise NotImplementedError  # recorded, never called

    def in_double(
        self, function: Callable[..., Leaves], *trees: Leaves, axis: int | None = None
    ) -> Leaves:
        if axis is not None:
            function = functools.partial(function, axis=axis)
        if trees[0].values[0].dtype == self._dtypes[DOUBLE]:
            return function(*trees)
        made = function(*(self.map(DOUBLE, x) for x in trees))
        return self.map(WORKING, made)

    def map(self, operation: str, *args: Any) -> Leaves:
        if operation not in (DOUBLE, WORKING):
            return super().map(operation, *args)
        (symbol,) = args[0].values
        result = self._new(symbol.shape, operation)
        self.nodes.append(Line(result, operation, (symbol,)))
        return Leaves([result], self)

    def sum_along(self, x: Leaves, axis: int) -> Leaves:
        (symbol,) = x.values
        shape = list(symbol.shape)
        axis %= len(shape)
        shape[axis] = 1
        result = self._new(tuple(shape), symbol.kind)
        self.nodes.append(Along(result, (symbol,), axis))
        return Leaves([result], self)

    @contextmanager
    def _within(self) -> Iterator[list[Any]]:
        """Record nodes in a separate list."""
        outside, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outside

    def when(self, condition: Leaves, function: Step, trees: Trees, otherwise: Trees) -> Trees:
        with self._within() as nodes:
            made = _symbols(function(*trees))
        old = _symbols(otherwise)
        results = tuple(self._new(x.shape, x.kind) for x in old)
        self.nodes.append(When(results, condition.values[0], nodes, made, old))
        return tuple(Leaves([x], self) for x in results)

    def repeat(
        self, function: Step, go_on: Callable[..., Leaves], trees: Trees, most: int
    ) -> Trees:
        begin = _symbols(trees)
        carried, results = (tuple(self._new(x.shape, x.kind) for x in begin) for _ in range(2))
        own = tuple(Leaves([x], self) for x in carried)
        with self._within() as checks:
            (goes_on,) = _symbols((go_on(*own),))
        with self._within() as nodes:
            made = _symbols(function(*own))
        node = Repeat(results, begin, carried, checks, goes_on, nodes, made, most)
        self.nodes.append(node)
        return tuple(Leaves([x], self) for x in results)


def _symbols(trees: Trees) -> tuple[Symbol, ...]:
    return tuple(tree.values[0] for tree in trees)


def _broadcast(shapes: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """Return the shape of a result from arrays of these shapes."""
    if None in shapes:
        return None
    return np.broadcast_shapes(*shapes)  # type: ignore[arg-type]


def _empty(symbol: Symbol) -> torch.Tensor:
    """Return a tensor without memory."""
    kind = torch.bool if symbol.is_truth else getattr(torch, symbol.dtype.name)
    return torch.empty(symbol.shape or (), dtype=kind, device="meta")
