"""Mutants of the formulas: every small change of the source, generated and not chosen.

:func:`mutants` yields a module of the core with one expression changed: an operator, an operand, a
constant, a name, a condition, an argument, the grouping of a sum or of a product, the place of a
rounding. :func:`load` executes it in a copy of the package, in which every module that imports
the changed one sees the change. :class:`Checks` holds what the copy computes against the golden
bits, with the checks that execute the changed line.
"""

from __future__ import annotations

import ast
import itertools
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import golden_bits
import numpy as np

import optstudy_core
from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.arrays.doubles import Doubles
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numpy_backend import NumPy

FOLDER = Path(optstudy_core.__file__).parent
COPY = "optstudy_mutant"

# The folders that hold formulas, and what else is changed: the few functions that formulas begin
# with. All other modules are imported as they are; they have tests of their own.
ROOMS = ("parts", "algorithms", "wrappers")
PLACES = {
    file.stem: f"{room}.{file.stem}"
    for room in ROOMS
    for file in sorted(FOLDER.joinpath(room).glob("[!_]*.py"))
} | {"namespace": "arrays.namespace"}
"""Where a module is, by its short name."""

# They ask which library it is, make a type, and walk over the fields of a state.
NOT_FORMULA_FUNCTIONS = frozenset(
    {
        ("namespace", "namespace"),
        *(("mechanic", name) for name in ("_speeds", "_bets", "__getattr__")),
        ("states", "chosen"),
    }
)


class Mutant(NamedTuple):
    """One change of a module.

    Attributes:
        module: its name in ``optstudy_core``.
        where: the function, or ``DIALECTS``.
        kind: what sort of change.
        before: source of the changed expression.
        after: source of what took its place.
        code: the changed module, compiled.
        line: of the changed statement, in the source as ``ast.unparse`` writes it; ``None`` if it
            is executed when the module is: a default value, a dialect.
    """

    module: str
    where: str
    kind: str
    before: str
    after: str
    code: CodeType
    line: int | None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies it for a person."""
        return self.module, self.where, self.before, self.after


# Which modules, and what they import.


@cache
def _tree(module: str) -> ast.Module:
    """Return a module's tree, whose imports are those of the copy."""
    file = FOLDER / f"{PLACES[module].replace('.', '/')}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in _imports(tree):
        if node.level:
            node.module = ".".join(filter(None, [COPY, file.parent.name, node.module]))
            node.level = 0
        else:
            node.module = COPY + (node.module or "").removeprefix("optstudy_core")
    return tree


def _imports(tree: ast.Module) -> list[ast.ImportFrom]:
    """Return where modules of the core are imported."""
    found = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [x for x in found if x.level or f"{x.module}.".startswith(("optstudy_core.", COPY))]


@cache
def places(module: str) -> tuple[str, ...]:
    """Return where the modules of the core are that a module imports."""
    found: list[str] = []
    for node in _imports(_tree(module)):
        place = (node.module or "").removeprefix(COPY).removeprefix(".")
        whole = f"{place}.{node.names[0].name}"
        if place in {*ROOMS, "arrays"}:  # ``from .adam import x`` or ``from . import adam``
            found += [f"{place}.{alias.name}" for alias in node.names]
        else:
            found.append(place or whole)
    return tuple(dict.fromkeys(found))


@cache
def imports(module: str) -> tuple[str, ...]:
    """Return the modules with formulas that a module imports, by their short names."""
    short = {place: name for name, place in PLACES.items()}
    return tuple(short[place] for place in places(module) if place in short)


@cache
def formula_modules() -> tuple[str, ...]:
    """Return the modules that hold formulas, each after what it imports."""
    found: list[str] = []

    def visit(name: str) -> None:
        if name not in found:
            for other in imports(name):
                visit(other)
            found.append(name)

    for name in golden_bits.RULES:
        visit(name)
    return tuple(found)


def with_mutants() -> tuple[str, ...]:
    """Return the modules that have mutants."""
    return tuple(name for name in formula_modules() if next(mutants(name), None))


def dependents(module: str) -> tuple[str, ...]:
    """Return the formula modules that see a change of a module: itself first."""
    found = [module]
    for name in formula_modules():
        if name not in found and set(imports(name)) & set(found):
            found.append(name)
    return tuple(found)


def _plain(module: str) -> ast.Module:
    """Return a copy of a module's tree, without comments: each statement has a line."""
    return ast.parse(ast.unparse(_tree(module)))


@cache
def lines(module: str) -> list[str]:
    """Return the lines of a module without comments, of which :attr:`Mutant.line` is one."""
    return ast.unparse(_tree(module)).splitlines()


@cache
def unchanged(module: str) -> CodeType:
    """Return a module as it is, compiled."""
    return compile(_plain(module), f"<{module}>", "exec")


@cache
def _noting(module: str) -> CodeType:
    """Return a module as it is, compiled, whose functions note the line of each statement."""
    tree = _plain(module)
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
        for node in ast.walk(function):
            for field in ("body", "orelse"):
                block = getattr(node, field, None)
                if isinstance(block, list):
                    noted = [ast.Expr(_call("note", ast.Constant(x.lineno))) for x in block]
                    pairs = zip(noted, block, strict=True)
                    setattr(node, field, [x for pair in pairs for x in pair])
    return compile(ast.fix_missing_locations(tree), f"<{module}>", "exec")


def load(module: str, code: CodeType) -> dict[str, ModuleType]:
    """Execute a changed module and all that depend on it; return them by name."""
    for name in ("", ".arrays", *(f".{room}" for room in ROOMS)):
        package = ModuleType(COPY + name)
        package.__path__ = []
        sys.modules[COPY + name] = package
    for place in {place for name in formula_modules() for place in (PLACES[name], *places(name))}:
        original = import_module(f"optstudy_core.{place}")
        _put(place, _remembering(original) if place in _OF_MATRICES else original)
    found = {}
    for name in dependents(module):
        fresh = ModuleType(f"{COPY}.{PLACES[name]}")
        fresh.__dict__.update(HELPERS)
        _put(PLACES[name], fresh)
        exec(code if name == module else unchanged(name), fresh.__dict__)
        found[name] = fresh
    return found


# Functions that no mutant changes and that take most of the time of a rule with matrices.
_OF_MATRICES = {
    "arrays.matrix": ("matmul", "gram", "inverse_root"),
    "arrays.eigen": ("eigenvectors", "orthonormal"),
}


@cache
def _remembering(module: ModuleType) -> ModuleType:
    """Return a copy of a module that computes no product, root or basis a second time."""
    copy = ModuleType(module.__name__)
    copy.__dict__.update(module.__dict__)
    for name in _OF_MATRICES[module.__name__.partition(".")[2]]:
        setattr(copy, name, _remembered(getattr(module, name)))
    return copy


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, Any] = {}

    def call(*args: Any, **options: Any) -> Any:
        # Another backend than NumPy's own lists what is computed.
        if not all(type(x.backend) is NumPy for x in args if isinstance(x, Leaves)):
            return function(*args, **options)
        key = tuple(map(_bits, args)), tuple(options.items())
        if key not in known:
            if len(known) > 20_000:  # of up to ten kilobytes each
                known.clear()
            known[key] = function(*args, **options)
        return known[key]

    return call


def _bits(x: Any) -> Any:
    if isinstance(x, Leaves):
        return tuple(map(_bits, x.values))
    return (x.shape, x.dtype.str, x.tobytes()) if isinstance(x, np.ndarray | np.generic) else x


def _put(place: str, module: ModuleType) -> None:
    room, _, name = f"{COPY}.{place}".rpartition(".")
    sys.modules[f"{room}.{name}"] = module
    setattr(sys.modules[room], name, module)


def algorithms(modules: dict[str, ModuleType]) -> dict[str, Algorithm]:
    """Return the algorithms among modules."""
    found = {}
    for name, m in modules.items():
        if name in golden_bits.WRAPPERS:
            found[name] = getattr(m, name)(golden_bits.WRAPPED)
        elif name in ALGORITHMS:
            checks = (getattr(m, x, None) for x in ("check", "check_shape"))
            found[name] = Algorithm(name, m.init, m.update, m.DIALECTS, m.BIBTEX, *checks)
    return found


# What mutants call: an operation in another precision.


def _widen(x: Any) -> Any:
    """Return arrays in float64, exactly; numbers rounded to the working dtype first."""
    if isinstance(x, Leaves):
        _working.widened([np.asarray(v).dtype for v in x.values])
        return Leaves([np.asarray(v).astype(np.float64) for v in x.values], x.backend)
    if isinstance(x, np.ndarray | np.generic):
        _working.widened([x.dtype])
        return x.astype(np.float64)
    return _number(x)


def _narrow(x: Any) -> Any:
    """Round arrays to the dtypes of the operands that were widened, numbers as these."""
    dtypes, _working.operands = _working.operands, []
    if isinstance(x, Leaves):
        pairs = zip(x.values, dtypes, strict=True)
        return Leaves([np.asarray(v).astype(dtype) for v, dtype in pairs], x.backend)
    if isinstance(x, np.ndarray | np.generic):
        return x.astype(dtypes[0])
    return _number(x)


def _rounded(x: Any) -> Any:
    """Round a number to the working dtype; a Python number is one of NumPy then."""
    if isinstance(x, Doubles):
        return Doubles(np.asarray(x.value).astype(_working.dtype).astype(float)[()], x.backend)
    return x if isinstance(x, Leaves) else _working.dtype(x)


def _number(x: Any) -> Any:
    return _rounded(x) if isinstance(x, Doubles) else float(_rounded(x))


class _Working:
    dtype: Any = np.float64
    operands: Sequence[Any] = ()

    def widened(self, dtypes: list[Any]) -> None:
        """Remember the dtypes of an operand, of the one with the most leaves."""
        self.operands = max(dtypes, self.operands, key=len)


_working = _Working()
_noted: set[int] = set()
HELPERS = {"widen": _widen, "narrow": _narrow, "rounded": _rounded, "note": _noted.add}


def working_dtype(dtype: str) -> None:
    """Set the dtype to which mutants round numbers."""
    _working.dtype = golden_bits.DTYPES[dtype]
    _working.operands = []


# The generator.

_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_RIVALS = {
    "maximum": "minimum",
    "minimum": "maximum",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
    "isfinite": "ones_like",
    "leaf_norm": "global_norm",
    "global_norm": "leaf_norm",
}

Change = tuple[str, ast.expr]

_ALL = range(sys.maxsize)


def mutants(module: str, wanted: Container[int] | None = None) -> Iterator[Mutant]:
    """Yield every mutant of a module, in an order that stays.

    Args:
        module: its short name.
        wanted: the numbers of those to yield; ``None``: all.
    """
    count = itertools.count()
    tree = _plain(module)  # of our own: it is changed
    records = _records(tree)
    for name in imports(module):
        records += _records(_tree(name))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (module, node.name) not in NOT_FORMULA_FUNCTIONS:
            scope = _Scope(node, records)
            where = node.name
            sites = list(_function_sites(node))
        elif isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "DIALECTS":
            scope = _Scope(None, records)
            where = "DIALECTS"
            sites = list(_sites(node, "value", node))
        else:
            continue
        for parent, field, index, statement in sites:
            old = _get(parent, field, index)
            before = ast.unparse(old)
            seen = {before}
            for kind, new in _changes(old, statement, scope):
                after = ast.unparse(new)
                if after in seen:
                    continue
                seen.add(after)
                if next(count) not in (wanted if wanted is not None else _ALL):
                    continue
                with _put_in(parent, field, index, new):
                    ast.fix_missing_locations(tree)
                    code = compile(tree, f"<{kind}: {before} -> {after}>", "exec")
                line = None if statement is node else statement.lineno
                yield Mutant(module, where, kind, before, after, code, line)


def _get(parent: ast.AST, field: str, index: int | None) -> Any:
    value = getattr(parent, field)
    return value if index is None else value[index]


@contextmanager
def _put_in(parent: ast.AST, field: str, index: int | None, new: ast.AST) -> Iterator[None]:
    old = _get(parent, field, index)
    try:
        _set(parent, field, index, new)
        yield
    finally:
        _set(parent, field, index, old)


def _set(parent: ast.AST, field: str, index: int | None, new: ast.AST) -> None:
    if index is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[index] = new


Site = tuple[ast.AST, str, "int | None", ast.stmt]


def _function_sites(function: ast.FunctionDef) -> Iterator[Site]:
    """Yield the expressions of a function and of its default values."""
    for field in ("defaults", "kw_defaults"):
        yield from _sites(function.args, field, function)
    yield from _sites(function, "body", function)


def _sites(parent: ast.AST, field: str, statement: ast.stmt) -> Iterator[Site]:
    value = getattr(parent, field)
    for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
        if not isinstance(child, ast.expr | ast.stmt | ast.keyword):
            continue
        if isinstance(child, ast.Raise | ast.JoinedStr) or (
            isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        ):
            continue  # messages and docstrings
        inner = child if isinstance(child, ast.stmt) else statement
        if isinstance(child, ast.expr):
            yield parent, field, index, inner
        for name in child._fields:
            if name not in ("annotation", "target", "targets", "op", "ctx"):
                yield from _sites(child, name, inner)


def _records(tree: ast.Module) -> list[list[str]]:
    """Return the fields of every NamedTuple in a module."""
    return [
        [f.target.id for f in node.body if isinstance(f, ast.AnnAssign)]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(b) == "NamedTuple" for b in node.bases)
    ]


class _Scope:
    """What the names in a function are: numbers, truth values or arrays.

    Attributes:
        numbers: names of Python numbers.
        flags: names of truth values.
        arrays: names of arrays and of states, with the line from which each exists.
        definitions: what a name was assigned, if it was assigned once.
        records: fields of named tuples.
    """

    def __init__(self, function: ast.FunctionDef | None, records: list[list[str]]) -> None:
        self.records = records
        self.numbers: set[str] = set()
        self.flags: set[str] = set()
        self.arrays: dict[str, int] = {}
        self.definitions: dict[str, ast.expr] = {}
        if function is None:
            return
        for argument in [*function.args.args, *function.args.kwonlyargs]:
            match ast.unparse(argument.annotation) if argument.annotation else "":
                case "bool":
                    self.flags.add(argument.arg)
                case "Any":
                    self.numbers.add(argument.arg)
                case text if text.startswith("Array"):
                    self.arrays[argument.arg] = 0
        arguments = {argument.arg for argument in function.args.args}
        again = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for name, value in _assigned(node):
                    if name in self.definitions or name in arguments:
                        again.add(name)
                    self.definitions[name] = value
                    if self.is_number(value):
                        self.numbers.add(name)
                    elif not _is_helper(value):
                        self.arrays[name] = min(node.lineno, self.arrays.get(name, node.lineno))
        for name in again:
            del self.definitions[name]

    def is_number(self, node: ast.expr) -> bool:
        """Tell whether an expression is a Python number."""
        match node:
            case ast.Constant(value=value):
                return isinstance(value, int | float) and not isinstance(value, bool)
            case ast.Name(id=name):
                return name in self.numbers
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.is_number(operand)
            case ast.BinOp(left=left, right=right):
                return self.is_number(left) and self.is_number(right)
            case ast.IfExp(body=body, orelse=orelse):
                return self.is_number(body) and self.is_number(orelse)
        return False

    def inlined(self, node: ast.expr) -> ast.expr:
        """Return what a name stands for, if it was assigned once and is no number."""
        if isinstance(node, ast.Name) and node.id not in self.numbers:
            return self.definitions.get(node.id, node)
        return node


def _assigned(node: ast.Assign) -> Iterator[tuple[str, ast.expr]]:
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id, node.value
        elif isinstance(target, ast.Tuple):
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * 9
            yield from ((t.id, v) for t, v in zip(target.elts, values, strict=False))


def _is_helper(value: ast.expr) -> bool:
    """Tell whether a value is a namespace or a function of one."""
    return ast.unparse(value).startswith("namespace(") and not (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)
    )


def _changes(node: ast.expr, statement: ast.stmt, scope: _Scope) -> Iterator[Change]:
    match node:
        case ast.BinOp(op=ast.BitOr()):
            yield "a type dropped", node.left
            yield "a type dropped", node.right
        case ast.BinOp():
            yield from _arithmetic(node, scope)
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield "a sign or not dropped", node.operand
        case ast.Constant():
            yield from _constants(node.value)
        case ast.Compare(ops=[_], comparators=[_]):
            yield from _comparisons(node)
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and for or", ast.BoolOp(other, node.values)
            for i in range(len(node.values)):
                rest = [*node.values[:i], *node.values[i + 1 :]]
                yield (
                    "a condition dropped",
                    rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest),
                )
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "the first branch", body
            yield "the second branch", orelse
            yield "the condition negated", ast.IfExp(test, orelse, body)
        case ast.Call():
            yield from _calls(node)
        case ast.Dict():
            for i in range(len(node.keys)):
                keys, values = list(node.keys), list(node.values)
                del keys[i], values[i]
                yield "an entry dropped", ast.Dict(keys, values)
        case ast.Attribute() | ast.Name():
            yield from _names(node, statement, scope)
    if isinstance(statement, ast.If) and node is statement.test:
        yield "a branch forced", ast.Constant(True)
        yield "a branch forced", ast.Constant(False)
        yield "the condition negated", ast.UnaryOp(ast.Not(), node)


def _constants(value: Any) -> Iterator[Change]:
    if isinstance(value, bool):
        yield "a constant", ast.Constant(not value)
    elif isinstance(value, int | float):
        near = float(np.nextafter(value, np.inf)) if isinstance(value, float) else value + 1
        for x in (0, 1, 2 * value, value / 2, -value, near):
            if x != value:
                yield "a constant", ast.Constant(type(value)(x) if x == int(x) else x)


def _comparisons(node: ast.Compare) -> Iterator[Change]:
    (op,), (right,) = node.ops, node.comparators
    if isinstance(op, _ORDER):
        others = [o for o in _ORDER if not isinstance(op, o)]
    else:
        others = [ast.IsNot if isinstance(op, ast.Is) else ast.Is]
    for other in others:
        yield "a comparison", ast.Compare(node.left, [other()], [right])


def _calls(node: ast.Call) -> Iterator[Change]:
    name = ast.unparse(node.func).rpartition(".")[2]
    args = node.args
    for i, x in enumerate(args):
        yield "a call dropped", x.value if isinstance(x, ast.Starred) else x
        if i + 1 < len(args):
            swapped = [*args[:i], args[i + 1], x, *args[i + 2 :]]
            if name not in ("maximum", "minimum"):
                yield "arguments swapped", ast.Call(node.func, swapped, node.keywords)
    for i in range(len(node.keywords)):
        rest = [*node.keywords[:i], *node.keywords[i + 1 :]]
        yield "an argument dropped", ast.Call(node.func, args, rest)
    if name == "sqrt" and args:
        for root, eps in _sums(args[0]):
            moved = ast.Call(node.func, [root], [])
            yield "eps outside the root", ast.BinOp(moved, ast.Add(), eps)
        if isinstance(args[0], ast.BinOp):
            wide = ast.Call(node.func, [_wide(args[0])], [])
            yield "a rounding dropped", _call("narrow", wide)


def _sums(node: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield ``x`` and ``e`` of x + e, also where the sum is one branch of a condition."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield node.left, node.right
    elif isinstance(node, ast.IfExp):
        yield from _sums(node.body)
        yield from _sums(node.orelse)


def _names(node: ast.Attribute | ast.Name, statement: ast.stmt, scope: _Scope) -> Iterator[Change]:
    if isinstance(node, ast.Attribute):
        if node.attr in _RIVALS:
            yield "another function", ast.Attribute(node.value, _RIVALS[node.attr], ast.Load())
        for fields in scope.records:
            if node.attr in fields and ast.unparse(node.value) not in ("xp", "bias_correction"):
                for other in fields:
                    yield "another field", ast.Attribute(node.value, other, ast.Load())
        if scope.arrays.get(node.attr, np.inf) < statement.lineno:
            yield "the new value", ast.Name(node.attr, ast.Load())
        return
    for names in (scope.numbers, scope.flags):
        if node.id in names:
            for other in sorted(names - {node.id}):
                yield "another name", ast.Name(other, ast.Load())
    if node.id in scope.arrays:
        for other, line in scope.arrays.items():
            if other != node.id and line < statement.lineno:
                yield "another name", ast.Name(other, ast.Load())
        if any(node.id in fields for fields in scope.records):
            old = ast.Attribute(ast.Name("state", ast.Load()), node.id, ast.Load())
            yield "the old value", old


def _arithmetic(node: ast.BinOp, scope: _Scope) -> Iterator[Change]:
    left, op, right = node.left, node.op, node.right
    for other in _ARITHMETIC:
        if not isinstance(op, other):
            yield "an operator", ast.BinOp(left, other(), right)
    if isinstance(op, ast.Sub | ast.Div):
        yield "operands swapped", ast.BinOp(right, op, left)
    yield "an operand dropped", left
    negated = isinstance(op, ast.Sub)
    yield "an operand dropped", ast.UnaryOp(ast.USub(), right) if negated else right
    yield from _regrouped(node)
    yield from _distributed(node)
    if isinstance(op, ast.Div):
        inverse = ast.BinOp(ast.Constant(1.0), ast.Div(), right)
        yield "a reciprocal", ast.BinOp(left, ast.Mult(), inverse)
    if scope.is_number(node):
        for x in (left, right):
            if not isinstance(x, ast.Constant):
                early = _call("rounded", x)
                new = ast.BinOp(early, op, right) if x is left else ast.BinOp(left, op, early)
                yield "a number rounded early", new
        return
    for x in (left, right):
        inner = scope.inlined(x)
        other = right if x is left else left
        root = _root(inner)
        if root is not None and isinstance(op, ast.Add) and not _root(scope.inlined(other)):
            inside = ast.BinOp(root.args[0], ast.Add(), other)
            yield "eps inside the root", ast.Call(root.func, [inside], [])
        if root is not None:
            wide = ast.Call(root.func, [_call("widen", root.args[0])], [])
        elif isinstance(inner, ast.BinOp) and not scope.is_number(inner):
            wide = _wide(inner)
        else:
            continue
        pair = (wide, _call("widen", right)) if x is left else (_call("widen", left), wide)
        yield "a rounding dropped", _call("narrow", ast.BinOp(pair[0], op, pair[1]))


def _wide(node: ast.BinOp) -> ast.BinOp:
    return ast.BinOp(_call("widen", node.left), node.op, _call("widen", node.right))


def _call(name: str, x: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [x], [])


def _root(node: ast.expr) -> ast.Call | None:
    is_root = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("sqrt")
    return node if is_root and len(node.args) == 1 else None


_INVERSE = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


def _regrouped(node: ast.BinOp) -> Iterator[Change]:
    """Yield the other ways to write a chain of two sums or of two products."""
    for pair in ((ast.Add, ast.Sub), (ast.Mult, ast.Div)):
        if not isinstance(node.op, pair):
            continue
        if isinstance(node.left, ast.BinOp) and isinstance(node.left.op, pair):
            a, first, b, second, c = (
                node.left.left,
                node.left.op,
                node.left.right,
                node.op,
                node.right,
            )
            # (a - b) + c = a - (b - c)
            inner = second if isinstance(first, pair[0]) else _INVERSE[type(second)]()
            yield "regrouped", ast.BinOp(a, first, ast.BinOp(b, inner, c))
            yield "regrouped", ast.BinOp(ast.BinOp(a, second, c), first, b)
        if isinstance(node.right, ast.BinOp) and isinstance(node.right.op, pair):
            a, first, b, second, c = (
                node.left,
                node.op,
                node.right.left,
                node.right.op,
                node.right.right,
            )
            # a - (b - c) = (a - b) + c
            outer = second if isinstance(first, pair[0]) else _INVERSE[type(second)]()
            yield "regrouped", ast.BinOp(ast.BinOp(a, first, b), outer, c)


def _distributed(node: ast.BinOp) -> Iterator[Change]:
    """Yield a product of a sum as a sum of products, and an average the other way."""
    sums = (ast.Add, ast.Sub)
    for x, y in ((node.left, node.right), (node.right, node.left)):
        is_sum = isinstance(x, ast.BinOp) and isinstance(x.op, sums)
        if is_sum and (
            isinstance(node.op, ast.Mult) or (isinstance(node.op, ast.Div) and x is node.left)
        ):
            parts = [ast.BinOp(part, node.op, y) for part in (x.left, x.right)]
            yield "distributed", ast.BinOp(parts[0], x.op, parts[1])
    match node:
        case ast.BinOp(
            left=ast.BinOp(left=a, op=ast.Mult(), right=x),
            op=ast.Add(),
            right=ast.BinOp(left=rest, op=ast.Mult(), right=y),
        ) if ast.unparse(rest) == f"1 - {ast.unparse(a)}":
            change = ast.BinOp(rest, ast.Mult(), ast.BinOp(y, ast.Sub(), x))
            yield "an average", ast.BinOp(x, ast.Add(), change)


# What catches them.

Contract = Callable[[dict[str, ModuleType]], None]

RAISES = "raises"
"""The label of what catches a module that cannot be executed."""

DEFAULTS = "defaults"
"""The name of the checks of default values."""

TYPICAL = 0.02
"""How many seconds a check is thought to take before it is asked."""


class Loaded(NamedTuple):
    """A module and what depends on it, as :func:`load` and :func:`algorithms` return it."""

    modules: dict[str, ModuleType]
    algorithms: dict[str, Algorithm]


def loaded(module: str, code: CodeType) -> Loaded:
    """Execute a changed module and all that depend on it."""
    modules = load(module, code)
    return Loaded(modules, algorithms(modules))


@cache
def _that_notes(module: str) -> Loaded:
    return loaded(module, _noting(module))


class Check:
    """A question that is asked of each mutant of a module.

    Args:
        module: the one that is changed.
        name: of the check.
        of: the algorithm or the module that it asks.
        objection: raises, or returns whether it objects.
        part: of what it asks: the dialect, and the number of a case.
    """

    def __init__(
        self,
        module: str,
        name: str,
        of: str,
        objection: Callable[[Loaded], object],
        part: str = "",
    ) -> None:
        self._module = module
        self.name = name
        self.of = of
        self.label = " ".join(filter(None, (name, of, part)))
        self._objection = objection
        self._seconds = 0.0
        self._caught = 0

    @property
    def seconds_each(self) -> float:
        """How long it takes to catch a mutant; a guess where nothing is known.

        So what was not asked comes before what is slow, though it has caught something.
        """
        return (self._seconds + TYPICAL) / (self._caught + 1)

    def catches(self, copy: Loaded) -> bool:
        """Tell whether the check objects to a copy."""
        working_dtype("float64")  # in which numbers are anyway; a check may set another
        begun = time.process_time()
        try:
            caught = bool(self._objection(copy))
        except Exception:
            caught = True
        self._seconds += time.process_time() - begun
        self._caught += caught
        return caught

    def sees(self, mutant: Mutant) -> bool:
        """Tell whether the check executes the line that a mutant changes."""
        return bool(self._lines) if mutant.line is None else mutant.line in self._lines

    @cached_property
    def _lines(self) -> frozenset[int]:
        """The lines of the module, unchanged, that the check executes."""
        copy = _that_notes(self._module)
        _noted.clear()
        objects = self.catches(copy)
        assert not objects, f"{self.name} objects to {self.of} as it is"
        return frozenset(_noted)


class Checks:
    """All checks of a module: of every golden file of what depends on it, and contracts.

    What has caught most in its time is asked first. A line that a check does not execute is not
    asked of it: so it takes some milliseconds, not seconds, to catch a mutant of what every
    algorithm runs on. To miss one that way is no danger, as it would be reported as a survivor.

    Args:
        module: the one that is changed.
        contracts: further checks, called with each module by its name; they raise to object.
    """

    def __init__(self, module: str, contracts: Sequence[Contract] = ()) -> None:
        golden = [c for name, path in _paths(module) for c in _golden_checks(module, name, path)]
        asked = [_contract_check(module, x, name) for x in contracts for name in dependents(module)]
        self._defaults = [check for check in golden if check.name == DEFAULTS]
        # What the module itself is asked often catches what sums up to minutes to ask of all.
        others = [check for check in golden if check.name != DEFAULTS] + asked
        self._others = sorted(others, key=lambda check: check.of != module)

    def catching(self, mutant: Mutant) -> str | None:
        """Return the label of the first check that a mutant fails, or ``None``."""
        try:
            copy = loaded(mutant.module, mutant.code)
        except Exception:
            return RAISES
        for check in self._defaults:  # told in no time
            if check.catches(copy):
                return check.label
        for check in self._others:
            if check.sees(mutant) and check.catches(copy):
                self._others.sort(key=lambda c: c.seconds_each)  # what was asked in vain, too
                return check.label
        return None

    def seeing(self, mutant: Mutant) -> set[str]:
        """Return the algorithms and modules of which a check executes the changed line."""
        return {check.of for check in self._others if check.sees(mutant)}


def check_of(module: str, label: str, contracts: Iterable[Contract]) -> Check:
    """Return the check of a module that has a label."""
    kind, name, *part = label.split(" ")
    for contract in contracts:
        if contract.__name__ == kind:
            return _contract_check(module, contract, name)
    paths = golden_bits.golden_files().items()
    (path,) = [p for p, own in paths if own == (name, None if part[0] == "-" else part[0])]
    made = _golden_checks(module, name, path)
    return next(check for check in made if check.label == label)


def _paths(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the golden files of the algorithms that depend on a module."""
    known = dependents(module)
    for path, (name, _) in golden_bits.golden_files().items():
        if name in known:
            yield name, path


def _golden_checks(module: str, name: str, path: Path) -> Iterator[Check]:
    """Yield the checks of a golden file: of the defaults, of each case, and of the refusals."""
    golden, (_, dialect) = golden_bits.read(path), golden_bits.golden_files()[path]

    def check(kind: str, part: golden_bits.Golden, number: int | None = None) -> Check:
        def objection(copy: Loaded) -> object:
            return golden_bits.difference(copy.algorithms[name], dialect, part, working_dtype)

        end = dialect or "-"
        return Check(module, kind, name, objection, end if number is None else f"{end} {number}")

    yield check(DEFAULTS, golden._replace(refused=[], cases=[]))
    for number, case in enumerate(golden.cases):
        yield check("bits", golden_bits.Golden({}, [], [case]), number)
    yield check("refusals", golden_bits.Golden({}, golden.refused, []))


def _contract_check(module: str, contract: Contract, name: str) -> Check:
    def objection(copy: Loaded) -> object:
        return contract({name: copy.modules[name]})

    return Check(module, contract.__name__, name, objection)


def disagreement(mutant: Mutant, among: Iterable[str]) -> str | None:
    """Return a setting in which a mutant computes something else, or ``None``.

    Every setting of the golden files is run in both dtypes on random values of all magnitudes
    with NaN, infinities, signed zeros and subnormal numbers among them.

    Args:
        mutant: of :func:`mutants`.
        among: the algorithms that see it; others are left out.
    """
    changed = loaded(mutant.module, mutant.code).algorithms
    for name in sorted(changed.keys() & set(among)):
        for dialect in changed[name].dialects or [None]:
            for setting, values, wanted in _on_special_values(mutant.module, name, dialect):
                working_dtype(setting.dtype)
                found = golden_bits.trajectory(changed[name], dialect, setting, values)
                if golden_bits.departure(wanted, found):
                    return f"{name} {dialect}: {golden_bits.show(setting)}"
    return None


_Case = tuple[golden_bits.Setting, tuple[Leaves, list[Leaves]], golden_bits.Trajectory]


def _on_special_values(module: str, name: str, dialect: str | None) -> Iterator[_Case]:
    """Yield what an algorithm computes as it is."""
    for number in range(len(_settings(module, name, dialect))):
        for dtype in golden_bits.DTYPES:
            yield _case(module, name, dialect, number, dtype)


@cache
def _original(module: str, name: str) -> Algorithm:
    """Return an algorithm loaded as a mutant is: it finds the same products remembered."""
    return loaded(module, unchanged(module)).algorithms[name]


@cache
def _settings(module: str, name: str, dialect: str | None) -> list[golden_bits.Setting]:
    return golden_bits.settings(_original(module, name), dialect)[0]


@cache
def _case(module: str, name: str, dialect: str | None, number: int, dtype: str) -> _Case:
    setting = _settings(module, name, dialect)[number]._replace(dtype=dtype)
    values = _special(np.random.default_rng(number), dtype)
    wanted = golden_bits.trajectory(_original(module, name), dialect, setting, values)
    return setting, values, wanted


def _special(rng: np.random.Generator, dtype: str) -> tuple[Leaves, list[Leaves]]:
    """Return parameters and gradients, a third of them special."""
    info = np.finfo(dtype)
    specials = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, info.max, info.tiny, info.tiny / 8]
    span = (-30, 30) if dtype == "float32" else (-200, 200)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        x = rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(*span, shape)
        x = np.where(rng.random(shape) < 0.3, rng.choice(specials, shape), x)
        return np.asarray(x, dtype)

    def leaves() -> Leaves:
        return Leaves([draw(s) for s in ((99,), (), (), (), (3, 4), (4, 3), (1, 5))], NumPy())

    return leaves(), [leaves() for _ in range(golden_bits.STEPS)]
