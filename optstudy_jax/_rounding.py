"""Operations of JAX, rounded once: the one place that knows how XLA rewrites operations.

Under ``jit`` XLA contracts a product and a sum to one fused multiply-add, and rewrites formulas:
``x / s`` to ``x * (1/s)``, ``(a/b)/c`` to ``a/(b*c)``, ``1/sqrt(x)`` to ``rsqrt(x)``,
``(x*c)*d`` to ``x*(c*d)``, ``(x+c)+d`` to ``x+(c+d)``. Each saves a rounding, and so changes bits.
Before such a pair of operations, the inner result is isolated:

    isolate(p) = where(p == p, p, nan)

This equals p for every input, but hides from the compiler how p was computed. (The compiler sees
through it if p cannot be NaN, for example after a step count. So step counts look as if they could
be NaN.) A value therefore records its operation, and is isolated only if the next operation needs
it. A divisor is spread over the dividend in the same way, x / where(x == x, s, nan), because the
divisor may be one scalar for all elements. This does not help if the dividend is one scalar too, so
hyperparameters of several leaves are behind an optimization barrier.

Quotients and roots are isolated at once, by a comparison of an operand instead, where(x == x, y /
x, nan). Otherwise XLA would compute a costly value with two uses in a separate loop, with a
temporary as large as the leaf: half of the time of a step of Adam. The same happens to an isolated
value in two loops, such as the gradient of RMSprop, in its square and in the step. So a dividend is
isolated by another expression, where(p != p, nan, p).

On NVIDIA GPUs XLA divides float32 with ``div.full`` and takes roots with ``sqrt.approx``, both off
by a unit in the last place. There both are computed in float64 and rounded once, which is exact (53
≥ 2·24 + 2). The float64 result is isolated, because LLVM would narrow the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from optstudy_core.arrays import digits
from optstudy_core.arrays.doubles import DIGITS, Doubles, digit
from optstudy_core.arrays.leaves import Backend, Leaves, Scalars

from ._derivatives import of_root, with_derivative
from ._mesh import is_traced

Origin = frozenset[str]

# The operation of a value, if the compiler could rewrite it together with the next operation.
PLAIN: Origin = frozenset()  # already isolated, or never rewritten
OUTSIDE: Origin = frozenset({"outside"})  # unknown: the caller may have made it in the same jit
PRODUCT: Origin = frozenset({"product"})
SCALED: Origin = frozenset({"scaled"})  # a product with a number or a scalar
SHIFTED: Origin = frozenset({"shifted"})  # a sum with a number or a scalar

# operation -> the origins of operands that must be isolated.
_ISOLATED: dict[str, Origin] = {
    "add": PRODUCT | SCALED | SHIFTED | OUTSIDE,
    "subtract": PRODUCT | SCALED | SHIFTED | OUTSIDE,
    "multiply": SCALED | OUTSIDE,
    "divide": PRODUCT | SCALED | OUTSIDE,
    "sqrt": PRODUCT | SCALED | OUTSIDE,
}
_HIDDEN = {"divide", "sqrt"}
# Compilers see through these operations (maximum(p, p) is p): results have the origins of operands.
_CHOICES = {"negative", "abs", "maximum", "minimum", "where"}


def isolate(x: Any) -> Any:
    """Return ``x``, but hide its operation from the compiler; integers need no isolation.

    Neither do values: what is not traced was computed by a program of its own.
    """
    if not is_traced(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return _beside(x, x)


@jax.jit  # traced once for each shape
def _beside(x: Any, y: Any) -> Any:
    """Return ``y``, as where(x == x, y, nan)."""
    return jnp.where(x == x, y, _nan(x))


def _nan(x: Any) -> Any:
    """Return NaN in a dtype, without an operation, because JAX can search for results with NaN."""
    return np.asarray(np.nan, x.dtype)


def _isolate_dividend(x: Any) -> Any:
    """Return the result of :func:`isolate`, with an expression that no other loop shares."""
    return _but_nan(x) if is_traced(x) else x


@jax.jit  # traced once for each shape
def _but_nan(x: Any) -> Any:
    return jnp.where(x != x, _nan(x), x)


def _rounded_once(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return a quotient or a root that is rounded once on every device."""

    def in_double(*args: Any) -> Any:
        with jax.enable_x64(True):
            result = operation(*(x.astype(jnp.float64) for x in args))
            return isolate(result).astype(args[0].dtype)

    @jax.jit  # traced once for each shape, however many leaves there are
    def function(*args: Any) -> Any:
        if args[0].dtype != jnp.float32:
            return operation(*args)
        return jax.lax.platform_dependent(*args, cuda=in_double, rocm=in_double, default=operation)

    return function


_FUNCTIONS: dict[str, Any] = {
    "add": jnp.add,
    "subtract": jnp.subtract,
    "multiply": jnp.multiply,
    "divide": _rounded_once(jnp.divide),
    "negative": jnp.negative,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "sqrt": with_derivative(_rounded_once(jnp.sqrt), of_root),
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "where": jnp.where,
    "isfinite": jnp.isfinite,
    "less": jnp.less,
    "less_equal": jnp.less_equal,
    "greater": jnp.greater,
    "greater_equal": jnp.greater_equal,
    "equal": jnp.equal,
    "not_equal": jnp.not_equal,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_not": jnp.logical_not,
    "zeros_like": jnp.zeros_like,
    "ones_like": jnp.ones_like,
    "remainder": jnp.remainder,
    # For geometry only; formulas have no plain sums.
    "max": jnp.max,
    "sum": jnp.sum,
}


class Node(NamedTuple):
    """A leaf and its origin.

    Attributes:
        value: an array.
        origin: the origin of the array.
        scalars: whether the array has scalars of several leaves.
    """

    value: Any
    origin: Origin
    scalars: bool = False

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)


def unknown(tree: Any) -> Any:
    """Return a tree of which the compiler does not know the values."""
    traced = any(map(is_traced, jax.tree.leaves(tree)))
    return jax.lax.optimization_barrier(tree) if traced else tree


def outside(x: Any, dtype: Any) -> Node:
    """Convert an array of the caller to a node in ``dtype``; roundings of the caller stay."""
    x = jnp.asarray(x)
    own = x.dtype
    x = x.astype(dtype)  # never weakly typed, so that dtypes of states do not change
    if jnp.issubdtype(own, jnp.floating) and jnp.finfo(own).bits < 32:
        x = _reduced(x, own)
    return Node(x, OUTSIDE)


def leaving(node: Node) -> Any:
    """Return a result for the caller, whose code may be compiled together with ours."""
    return isolate(node.value) if node.origin else node.value


def rounded(x: Any, dtype: Any) -> Any:
    """Round ``x`` to a smaller dtype, also if XLA would keep the excess precision."""
    if x.dtype == dtype:
        return x
    if jnp.finfo(dtype).bits < 32:
        x = _reduced(x, dtype)
    return x.astype(dtype)


def _reduced(x: Any, dtype: Any) -> Any:
    """Round ``x`` to the values of a smaller dtype, but keep its dtype."""
    info = jnp.finfo(dtype)
    y = jax.lax.reduce_precision(x, info.nexp, info.nmant)
    if dtype == jnp.float16:
        # reduce_precision flushes subnormal float16 numbers. They are multiples of 2**-24, the
        # spacing of float32 around 0.75.
        tiny = isolate(x + 0.75) - 0.75
        y = jnp.where(jnp.abs(x) < float(info.smallest_normal), tiny, y)
    return y


class Operations(Backend):
    """Operations of JAX for formulas and sums, eager or traced, each rounded once."""

    name = "jax"

    def apply(self, operation: str, *args: Any) -> Node:
        to_isolate = _ISOLATED.get(operation, PLAIN)
        hide = _isolate_dividend if operation == "divide" else isolate
        values = [
            (hide(a.value) if a.origin & to_isolate else a.value) if isinstance(a, Node) else a
            for a in args
        ]
        values = _of_one_rank(values)
        if operation == "divide":
            values = self._spread(args[0], args[1], values[0])
        result = _FUNCTIONS[operation](*values)
        if operation in _HIDDEN:
            result = self._hidden(result, args)
        nodes = [a for a in args if isinstance(a, Node)]
        scalars = all(node.scalars for node in nodes)
        return Node(result, self._origin(operation, args, values), scalars)

    @staticmethod
    def _hidden(result: Any, args: Any) -> Any:
        """Return a result, isolated by an operand of the same shape."""
        if not is_traced(result):
            return result
        x = next(a.value for a in args if isinstance(a, Node) and a.value.ndim == result.ndim)
        return _beside(x, result)

    @staticmethod
    def _spread(x: Any, y: Any, dividend: Any) -> list[Any]:
        """Spread the divisor over the dividend, so that the compiler takes no reciprocal."""
        if not isinstance(x, Node):
            return [jnp.asarray(x, y.dtype), isolate(y.value)]
        if isinstance(y, Node) and y.value.ndim > dividend.ndim:
            return [dividend, isolate(y.value)]
        divisor = y.value if isinstance(y, Node) else jnp.asarray(y, x.dtype)
        if not is_traced(dividend) and not is_traced(divisor):
            return [dividend, jnp.broadcast_to(divisor, dividend.shape)]
        return [dividend, _beside(dividend, divisor)]

    @staticmethod
    def _origin(operation: str, args: Any, values: list[Any]) -> Origin:
        if operation in _CHOICES:
            return PLAIN.union(*(a.origin for a in args if isinstance(a, Node)))
        with_scalar = any(
            np.ndim(v) == 0 or (isinstance(a, Node) and a.scalars)
            for a, v in zip(args, values, strict=True)
        )
        match operation:
            case "multiply":
                return SCALED if with_scalar else PRODUCT
            case "add" | "subtract" if with_scalar:
                return SHIFTED
        return PLAIN

    def stacked(self, scalars: Sequence[Node]) -> Node | None:
        if len({x.dtype for x in scalars}) != 1:
            return None
        origin = PLAIN.union(*(x.origin for x in scalars))
        return Node(jnp.stack([x.value for x in scalars]), origin, scalars=True)

    def unstacked(self, vector: Node) -> Sequence[Node]:
        return _unstacked(vector, vector.value.shape[0])

    def matmul(self, x: Any, y: Any) -> Any:
        return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)

    def rough_matmul(self, x: Any, y: Any) -> Any:
        if not digits.are_faster(x, y):
            return self.matmul(x, y)
        return jax.lax.platform_dependent(x, y, cuda=_of_digits, default=self.matmul)

    # Numbers in double precision.

    def of_numbers(self, operation: str, *args: Any) -> Doubles:
        with jax.enable_x64(True):
            values = (a.value if isinstance(a, Doubles) else a for a in args)
            return Doubles(self.apply(operation, *values), self)

    def no_steps(self, tree: Leaves) -> Leaves:
        return counts(jnp.zeros(tree.count, jnp.int32), self)

    def counted(self, counts: Leaves) -> Doubles:
        with jax.enable_x64(True):
            return Doubles(_per_leaf(of_counts(_vector(counts))), self)

    def counts(self, number: Any, like: Leaves) -> Leaves:
        value = number.value.value if isinstance(number, Doubles) else number
        return counts(jnp.broadcast_to(jnp.asarray(value, jnp.int32), (like.count,)), self)

    def one_minus_power(self, a: Any, t: Leaves) -> Doubles:
        with jax.enable_x64(True):
            part = leaving(a.value) if isinstance(a, Doubles) else jnp.float64(a)
            return Doubles(_per_leaf(_one_minus_power(part, _vector(t))), self)

    def spread(self, number: Doubles, tree: Leaves) -> Leaves:
        count, node = tree.count, number.value
        if node.dtype == bool:
            return Leaves(_unstacked(node, count), self)
        dtypes = [x.dtype for x in tree.values]
        with jax.enable_x64(True):
            if len(set(dtypes)) == 1 and count > 1:
                value = isolate(node.value).astype(dtypes[0])
                return Scalars(_not_one(jnp.broadcast_to(value, (count,))), count, self)
            values = zip(_unstacked(node, count), dtypes, strict=True)
            return Leaves([Node(isolate(x.value).astype(d), PLAIN) for x, d in values], self)

    def full(self, value: Any, leaf: Node) -> Node:
        if isinstance(value, jax.Array) and value.dtype == jnp.float64:
            with jax.enable_x64(True):
                return Node(value.astype(leaf.dtype), PLAIN)
        return Node(jnp.full((), value, dtype=leaf.dtype), PLAIN)


def of_counts(t: Any) -> Any:
    """Return step counts as float64 numbers, which could be NaN as far as a compiler knows.

    Call this function with float64 enabled.
    """
    bits = jax.lax.bitcast_convert_type(t.astype(jnp.float64), jnp.int64)
    bits = bits ^ (t >> 31).astype(jnp.int64)  # 0, as no count is negative
    return jax.lax.bitcast_convert_type(bits, jnp.float64)


def _of_one_rank(values: list[Any]) -> list[Any]:
    """Return arrays with leading axes of length 1, for broadcasting; scalars stay scalars."""
    rank = max(map(np.ndim, values), default=0)
    return [
        x.reshape((1,) * (rank - x.ndim) + x.shape) if 0 < np.ndim(x) < rank else x for x in values
    ]


def _per_leaf(vector: Any) -> Node:
    return Node(vector, OUTSIDE, scalars=True)


def _vector(tree: Leaves) -> Any:
    """Return the counts of a tree as one vector."""
    if tree.count > 1 and tree.vector is not None:
        return tree.vector.value
    return jnp.asarray([x.value for x in tree.values], jnp.int32)


def _unstacked(node: Node, count: int) -> list[Node]:
    if node.value.ndim == 0:
        return [node] * count
    return [Node(x, node.origin) for x in apart(node.value)]


@jax.jit  # traced once for each shape
def apart(stack: Any) -> tuple[Any, ...]:
    """Return the arrays of a stack along the first axis.

    XLA compiles identical loops once. A constant index would make each loop different, so the index
    is read from an array: of two indices, because one would be a constant again.
    """
    n = stack.shape[0]
    if n == 1:
        return (stack[0],)
    places = np.stack([np.arange(n), np.arange(1, n + 1) % n], 1, dtype=np.int32)
    return tuple(stack.at[pair].get(mode="promise_in_bounds")[0] for pair in places)


def _not_one(vector: Any) -> Node:
    """Return scalars of several leaves, isolated.

    Otherwise XLA could see that the scalars are equal, and replace divisions by products with one
    reciprocal.
    """
    return Node(unknown(vector), PLAIN, scalars=True)


def counts(vector: Any, backend: Backend) -> Leaves:
    """Return step counts, one for each leaf."""
    return Scalars(Node(vector, OUTSIDE, scalars=True), vector.shape[0], backend)


@jax.jit  # traced once for each number of leaves
def _one_minus_power(a: Any, t: Any) -> Any:
    """Return 1 − (1 − a)ᵗ for each step count.

    A CPU computes a loop; without it, XLA would compute every digit again for each later one. A GPU
    launches kernels for every turn of a loop, but computes all digits in one kernel without it.
    """
    a = jnp.broadcast_to(a, t.shape)
    start = a, jnp.zeros_like(a), t
    return jax.lax.platform_dependent(start, cuda=_unrolled, rocm=_unrolled, default=_in_a_loop)


@jax.jit  # traced once for each shape
def _of_digits(x: Any, y: Any) -> Any:
    """Return the product of matrices that keep 20 bits, on integer tensor cores."""
    both = ((1,), (1,)), ((), ())

    def multiply(a: Any, b: Any) -> Any:
        return jax.lax.dot_general(a, b, both, preferred_element_type=jnp.int32)

    return digits.product(x, y, multiply)


def _in_a_loop(start: Any) -> Any:
    return jax.lax.fori_loop(0, DIGITS, lambda _, carry: _next_digit(carry), start)[1]


def _unrolled(carry: Any) -> Any:
    for _ in range(DIGITS):
        carry = _next_digit(carry)
    return carry[1]


@jax.jit  # traced once for all digits
def _next_digit(carry: Any) -> Any:
    numbers = Operations()
    part, taken = (Doubles(_per_leaf(x), numbers) for x in carry[:2])
    part, taken, rest = digit(_chosen, part, taken, carry[2])
    return *(leaving(x.value) for x in (part, taken)), rest


def _chosen(condition: Any, x: Doubles, y: Doubles) -> Doubles:
    numbers: Operations = x.backend
    return Doubles(numbers.apply("where", Node(condition, PLAIN), x.value, y.value), numbers)
