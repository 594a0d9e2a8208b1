"""The backends: each trains a case and measures it, in its own library's arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from optstudy_core import Algorithm, geometry
from optstudy_core.arrays.leaves import Leaves
from optstudy_core.arrays.numbers import is_number
from optstudy_core.arrays.numpy_backend import NumPy

from .cases import Case
from .structures import STRUCTURES, at, nest, working_dtype

NAMES = ("numpy", "torch", "torch-compiled", "jax", "jax-jit")
"""Every backend; ``numpy`` is the definition that the others are held to."""


@dataclass
class Run:
    """What a backend made of a case, as NumPy arrays.

    Attributes:
        trajectory: the parameters after each step, a list of leaves.
        state: the fields of the state after the last step, by ``path.field``.
        norms: of the parameters, the last step and all steps together, and each leaf's.
        angles: between the last step and all steps together, radians and the cosine.
    """

    trajectory: list[list[np.ndarray]] = field(default_factory=list)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    angles: dict[str, np.ndarray] = field(default_factory=dict)


class Backend(ABC):
    """A library, eager or compiled."""

    name: str
    device: str = "cpu"

    @abstractmethod
    def run(self, algorithm: Algorithm, case: Case) -> Run:
        """Train ``case`` with ``algorithm`` and measure it."""


def _measure(run: Run, norm: Any, cosine: Any, angle: Any, triple: list[Any], leaves: Any) -> None:
    """Fill in norms and angles: of the start, the step before the end and the end."""
    first, last, whole = triple
    for name, tree in (("parameters", first), ("last step", last), ("all steps", whole)):
        run.norms[name] = np.array(norm(tree), dtype=np.float64)
    for path, leaf in leaves:
        run.norms[path] = np.array(norm(leaf), dtype=np.float64)
    run.angles["cosine of last step and all steps"] = np.array(cosine(last, whole), np.float64)
    run.angles["angle of last step and all steps"] = np.array(angle(last, whole), np.float64)


def _measure_on_host(run: Run, paths: list[str], triple: list[Any]) -> None:
    """Fill in norms and angles by the core's own geometry."""
    leaves = zip(paths, triple[2], strict=True)
    _measure(run, geometry.norm, geometry.cosine, geometry.angle, triple, leaves)


class NumPyBackend(Backend):
    """The definition: the pure function on NumPy arrays, in the working dtype."""

    name = "numpy"

    def run(self, algorithm: Algorithm, case: Case) -> Run:
        paths = [leaf.path for leaf in STRUCTURES[case.structure]]
        params, grads = case.values()
        run = Run()
        groups = []
        for number, values in enumerate(case.resolved(algorithm)):
            indices = [i for i, m in enumerate(case.membership) if m == number]
            if indices:
                work = _work(params, indices)
                values = _as_arrays(values, case, work) if case.arrays else values
                groups.append(_Group(indices, values, algorithm.start(work, values)))
        theta = before = list(params)
        with np.errstate(all="ignore"):
            for row, given in zip(grads, case.inputs(algorithm), strict=True):
                before, theta = theta, list(theta)
                for group in groups:
                    work = _work(before, group.indices)
                    group.state, step = algorithm.update(
                        group.state,
                        _work(row, group.indices),
                        work,
                        **_inputs(given, group.indices, work),
                        **group.values,
                    )
                    for i, s in zip(group.indices, step.values, strict=True):
                        theta[i] = np.asarray(before[i] + np.asarray(s).astype(before[i].dtype))
                run.trajectory.append(theta)
            for group in groups:
                for name, fields in named_fields(group.state):
                    for i, field_value in zip(group.indices, fields, strict=True):
                        run.state[f"{paths[i]}.{name}"] = np.asarray(field_value)
            displacements = [params, _minus(theta, before), _minus(theta, params)]
        _measure_on_host(run, paths, displacements)
        return run


@dataclass
class _Group:
    """Leaves that share hyperparameters, and their state."""

    indices: list[int]
    values: dict[str, Any]
    state: Any


def _work(arrays: list[np.ndarray], indices: list[int]) -> Leaves:
    """Return some of the arrays in their working dtypes."""
    return Leaves([arrays[i].astype(working_dtype(arrays[i].dtype)) for i in indices], NumPy())


def _as_arrays(values: dict[str, Any], case: Case, work: Leaves) -> dict[str, Any]:
    """Return the hyperparameters with each number as an array for each leaf, in its dtype."""
    dtype = case.array_dtype().type
    return {k: _spread(dtype(v), work) if is_number(v) else v for k, v in values.items()}


def _inputs(given: dict[str, Any], indices: list[int], work: Leaves) -> dict[str, Any]:
    """Return what some leaves are given besides the gradient, in their working dtypes."""
    return {
        k: _work(x, indices) if isinstance(x, list) else _spread(x, work) for k, x in given.items()
    }


def _spread(value: Any, work: Leaves) -> Leaves:
    """Return a NumPy scalar for each leaf, in its dtype."""
    with np.errstate(all="ignore"):
        return Leaves([value.astype(w.dtype) for w in work.values], work.backend)


def named_fields(state: Any, prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield the fields of a state of Leaves by name (``c1.value``), each a list of leaves."""
    for name, value in zip(state._fields, state, strict=True):
        if isinstance(value, Leaves):
            yield prefix + name, list(value.values)
        elif value is not None:
            yield from named_fields(value, f"{prefix}{name}.")


def _minus(x: list[Any], y: list[Any]) -> list[Any]:
    return [a - b for a, b in zip(x, y, strict=True)]


class TorchBackend(Backend):
    """``optstudy_torch``'s optimizer, eager or compiled."""

    def __init__(self, compiled: bool, device: str) -> None:
        self.name = "torch-compiled" if compiled else "torch"
        self.compiled = compiled
        self.device = device

    def run(self, algorithm: Algorithm, case: Case) -> Run:
        import torch

        from optstudy_torch import from_core

        leaves = STRUCTURES[case.structure]
        params, grads = case.values()
        theta = []
        for leaf, value in zip(leaves, params, strict=True):
            tensor = self.tensor(value)
            if leaf.transposed:
                tensor = tensor.t().contiguous().t()
            theta.append(torch.nn.Parameter(tensor))
        groups = []
        for number, values in enumerate(case.groups):
            mine = [p for p, m in zip(theta, case.membership, strict=True) if m == number]
            if mine:
                groups.append({"params": mine, **self._arguments(algorithm, case, values)})
        optimizer = from_core(algorithm)(groups, compile=self.compiled, dialect=case.dialect)
        run = Run()
        start = [p.detach().clone() for p in theta]
        before = start
        for row, given in zip(grads, case.inputs(algorithm), strict=True):
            before = [p.detach().clone() for p in theta]
            for p, g in zip(theta, row, strict=True):
                p.grad = self.tensor(g)
            inputs = {
                k: [*map(self.tensor, x)] if isinstance(x, list) else self.tensor(x)
                for k, x in given.items()
            }
            optimizer.step(None, **inputs)
            run.trajectory.append([from_torch(p) for p in theta])
        for leaf, p in zip(leaves, theta, strict=True):
            for name, value in optimizer.state[p].items():
                run.state[f"{leaf.path}.{name}"] = from_torch(value)
        end = [p.detach() for p in theta]
        displacements = [start, _minus(end, before), _minus(end, start)]
        _measure_on_host(run, [leaf.path for leaf in leaves], displacements)
        return run

    def _arguments(
        self, algorithm: Algorithm, case: Case, values: dict[str, Any]
    ) -> dict[str, Any]:
        import torch

        from optstudy_torch._arguments import join_tuples

        values = algorithm.resolve(case.dialect, values)
        if case.arrays:
            values = {
                k: torch.tensor(case.array_dtype().type(v), device=self.device)
                if is_number(v)
                else v
                for k, v in values.items()
            }
        return join_tuples(values)

    def tensor(self, value: np.ndarray) -> Any:
        """Return a tensor on the device, of its own memory."""
        import torch

        if value.dtype.name == "bfloat16":  # its numbers are float32 numbers
            return torch.tensor(value.astype(np.float32), dtype=torch.bfloat16, device=self.device)
        return torch.tensor(value, device=self.device)


def from_torch(tensor: Any) -> np.ndarray:
    """Return a copy, bfloat16 as ``ml_dtypes`` has it."""
    import ml_dtypes
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().copy().view(ml_dtypes.bfloat16)
    copied: np.ndarray = tensor.numpy().copy()
    return copied


class JAXBackend(Backend):
    """``optstudy_jax``'s transformation with ``optax.apply_updates``, eager or under ``jit``."""

    def __init__(self, jitted: bool, device: str) -> None:
        self.name = "jax-jit" if jitted else "jax"
        self.jitted = jitted
        self.device = device

    @contextmanager
    def here(self) -> Iterator[None]:
        """Compute on the device, in float64 where that is asked for."""
        import jax

        platform = "gpu" if self.device == "cuda" else "cpu"
        with jax.enable_x64(True), jax.default_device(jax.devices(platform)[0]):
            yield

    def run(self, algorithm: Algorithm, case: Case) -> Run:
        import jax
        import jax.numpy as jnp
        import optax

        import optstudy_jax.geometry as jax_geometry
        from optstudy_core.arrays.geometry import angle_from_chords
        from optstudy_jax import by_leaf

        leaves = STRUCTURES[case.structure]
        paths = [leaf.path for leaf in leaves]
        with self.here():
            params, grads = case.values()
            arrays: list[dict[str, Any]] = []
            numbers: list[dict[str, Any]] = []
            for values in case.resolved(algorithm):
                given = {k: v for k, v in values.items() if case.arrays and is_number(v)}
                arrays.append(
                    {k: jnp.asarray(case.array_dtype().type(v)) for k, v in given.items()}
                )
                numbers.append({k: v for k, v in values.items() if k not in given})
            make, advance = _jax_functions(
                algorithm,
                case.structure,
                case.membership,
                _Frozen(numbers),
                case.dialect,
                self.jitted,
            )
            run = Run()
            theta = nest(paths, [jnp.asarray(p) for p in params])
            start = before = theta
            state = make(theta, arrays)
            for row, given in zip(grads, case.inputs(algorithm), strict=True):
                before = theta
                inputs = {k: nest(paths, x) if isinstance(x, list) else x for k, x in given.items()}
                theta, state = advance(theta, state, nest(paths, list(row)), arrays, inputs)
                run.trajectory.append([_copy(at(theta, path)) for path in paths])
            for number, masked in enumerate(state):
                mine = [
                    p if m == number else optax.MaskedNode()
                    for p, m in zip(params, case.membership, strict=True)
                ]
                inner = by_leaf(masked.inner_state.inner, nest(paths, mine))
                for name, tree in _jax_fields(algorithm, numbers[number] | arrays[number], inner):
                    for path, member in zip(paths, case.membership, strict=True):
                        if member == number:
                            run.state[f"{path}.{name}"] = _copy(at(tree, path))
            difference = jax.tree.map(jnp.subtract, theta, before)
            whole = jax.tree.map(jnp.subtract, theta, start)
            _measure(
                run,
                jax_geometry.norm,
                jax_geometry.cosine,
                lambda u, v: angle_from_chords(*map(float, jax_geometry.chords(u, v))),
                [start, difference, whole],
                [(path, at(whole, path)) for path in paths],
            )
        return run


def _copy(x: Any) -> np.ndarray:
    return np.array(x)


class _Frozen:
    """Hyperparameters as a key of a cache."""

    def __init__(self, values: list[dict[str, Any]]) -> None:
        self.values = values
        self._key = repr([sorted(v.items()) for v in values])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@cache
def _jax_functions(
    algorithm: Algorithm,
    structure: str,
    membership: tuple[int, ...],
    numbers: _Frozen,
    dialect: str | None,
    jitted: bool,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the start and the step; cached, so that a case compiles only what is new."""
    import jax
    import optax

    from optstudy_jax import from_core

    paths = [leaf.path for leaf in STRUCTURES[structure]]
    masks = {
        number: nest(paths, [m == number for m in membership])
        for number in range(len(numbers.values))
    }

    def transformations(arrays: list[dict[str, Any]]) -> list[Any]:
        made = []
        for number, (fixed, given) in enumerate(zip(numbers.values, arrays, strict=True)):
            values = fixed | given
            if "lr" in values:
                values["learning_rate"] = values.pop("lr")
            tx = from_core(algorithm)(dialect=dialect, **values)
            made.append(optax.masked(tx, masks[number], mask_compatible_extra_args=True))
        return made

    def make(params: Any, arrays: list[dict[str, Any]]) -> list[Any]:
        return [tx.init(params) for tx in transformations(arrays)]

    def advance(
        params: Any,
        states: list[Any],
        grads: Any,
        arrays: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> tuple[Any, list[Any]]:
        new, updates = [], grads
        for tx, state in zip(transformations(arrays), states, strict=True):
            updates, following = tx.update(updates, state, params, **inputs)
            new.append(following)
        return optax.apply_updates(params, updates), new

    return (jax.jit(make), jax.jit(advance)) if jitted else (make, advance)


def _jax_fields(
    algorithm: Algorithm, values: dict[str, Any], inner: Any
) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a transformation's state by name, each a tree."""
    template = algorithm.skeleton(values)

    def walk(skeleton: Any, part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name in skeleton._fields:
            own, value = getattr(skeleton, name), getattr(part, name)
            if isinstance(own, Leaves):
                yield prefix + name, value
            elif own is not None:
                yield from walk(own, value, f"{prefix}{name}.")

    yield from walk(template, inner, "")


def make(name: str, device: str = "cpu", subject: Any = None) -> Backend:
    """Return the backend of that name, to run ``subject``.

    Raises:
        NotRunError: with the reason, where it cannot run here.
        RefusedError: where it is refused on every machine.
    """
    if name == "torch-compiled" and device != "cpu" and getattr(subject, "leafwise", False):
        raise RefusedError("compile=True off the CPU for rules that depend on a parameter's shape")
    reason = missing(name, device)
    if reason:
        raise NotRunError(reason)
    match name:
        case "numpy":
            return NumPyBackend()
        case "torch" | "torch-compiled":
            return TorchBackend(name == "torch-compiled", device)
    return JAXBackend(name == "jax-jit", device)


class NotRunError(RuntimeError):
    """A backend cannot run here; the message says why."""


class RefusedError(NotRunError):
    """A backend does not take the subject on this kind of device; the message says what."""


def missing(name: str, device: str) -> str | None:
    """Return why a backend cannot run here, or ``None``."""
    if name.startswith("torch"):
        if find_spec("torch") is None:
            return "torch is not installed"
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            return "no CUDA device for torch"
        if name == "torch-compiled" and device == "cpu" and compiler() is None:
            return "no compiler"
    if name.startswith("jax"):
        if find_spec("jax") is None or find_spec("optax") is None:
            return "jax and optax are not installed"
        if device == "cuda":
            import jax

            try:
                jax.devices("gpu")
            except RuntimeError:
                return "no CUDA device for jax"
    return None


def compiler() -> str | None:
    """Return the command of the C compiler that makes torch's kernels, if there is one."""
    from optstudy_torch.engine.text import compiler as found

    return found()


@contextmanager
def whole_range(device: str = "cpu") -> Iterator[None]:
    """Compute as XLA's CPU code does, so that bits agree down to the smallest numbers.

    Subnormal numbers are flushed in this thread (torch's switch; NumPy obeys it too), and torch
    uses this thread only. Both are restored. On a GPU every library keeps subnormal numbers, and
    so does NumPy, which it is compared with.
    """
    if device != "cpu" or find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    was_flushing = bool(torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() == 0.0)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushing)
        torch.set_num_threads(threads)
