"""torch optimizers around the pure functions of the core."""

from __future__ import annotations

import inspect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.algorithm import find
from optstudy_core.hyperparameters import is_number
from optstudy_core.leaves import Leaves, map_leaves

from ._array import Eager
from ._program import Kernel

EAGER = Eager()

WORKING_DTYPE = {
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.float64: torch.float64,
}
"""The dtype in which a parameter's step is computed and its state kept."""


class Flag(NamedTuple):
    """A truth value of torch.optim that selects another algorithm."""

    algorithm: str
    hyperparameters: dict[str, Any]


FLAGS: dict[str, dict[str, Flag]] = {
    "adam": {"amsgrad": Flag("amsgrad", {})},
    "adamw": {"amsgrad": Flag("amsgrad", {"decoupled_weight_decay": True})},
}
"""Flags of torch's classes, by the algorithm of the class."""

_BETAS = ("b1", "b2", "b3")
_ADAPTER = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
_REFUSED = {
    "capturable": "the step is not captured in CUDA graphs yet",
    "differentiable": "the step is not differentiable yet; use the pure function in optstudy_core",
}


class CoreOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that runs an algorithm of the core.

    Made by :func:`from_core`. Per parameter, ``state[p]`` holds the fields of the algorithm's
    state under their names (``m``, ``v``, ``c1.value``, …), in float32 for float32, bfloat16 and
    float16 parameters and in float64 for float64. ``.grad`` is never written to. A parameter
    whose ``.grad`` is ``None`` keeps its state.
    """

    algorithm: ClassVar[Algorithm]

    def __init__(self, params: Any, **arguments: Any) -> None:
        super().__init__(params, self._defaults(arguments))

    # Hyperparameters and groups.

    @classmethod
    def _flags(cls) -> dict[str, Flag]:
        return FLAGS.get(cls.algorithm.name, {}) if _is_ours(cls.algorithm) else {}

    @classmethod
    def _defaults(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return a group's values for the arguments of the class, the dialect's for ``None``."""
        arguments = dict(arguments)
        for name, reason in _REFUSED.items():
            if arguments.pop(name, False):
                raise NotImplementedError(f"{name} = True: allowed is False, because {reason}")
        arguments.pop("foreach", None)
        fused = arguments.pop("fused", None)
        compiled = bool(arguments.pop("compile", False) or fused)
        dialect = arguments.pop("dialect", None)
        step_dtype = arguments.pop("step_dtype", None)
        if step_dtype not in (None, "float32"):
            raise ValueError(f"step_dtype = {step_dtype!r}: allowed are None and 'float32'")
        flags = {name: arguments.pop(name, False) for name in cls._flags()}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} = {value!r}: allowed are True and False")
        values = cls.algorithm.resolve(dialect, _split_betas(cls.algorithm, arguments))
        group = _join_betas(values) | flags
        group |= {"dialect": dialect, "compile": compiled, "step_dtype": step_dtype}
        return group

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own values for any argument of the class.

        Raises:
            TypeError, ValueError: for a value that is not allowed.
        """
        if isinstance(param_group, dict):
            known = set(self.defaults) | set(_ADAPTER)
            given = {k: v for k, v in param_group.items() if k in known}
            if given:
                if "dialect" in given:  # its values, except where this group or the class says
                    base: dict[str, Any] = {"compile": self.defaults["compile"]}
                else:
                    base = dict(self.defaults)
                values = self._defaults({k: v for k, v in (base | given).items()})
                param_group = {**param_group, **values}
                for name in _ADAPTER:
                    param_group.pop(name, None)
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype not in WORKING_DTYPE:
                dtype = p.dtype
                del self.param_groups[-1]
                raise TypeError(
                    f"parameter of dtype {dtype}: allowed are {', '.join(map(str, WORKING_DTYPE))}"
                )

    def _selected(self, group: dict[str, Any]) -> tuple[Algorithm, dict[str, Any]]:
        """Return the algorithm of a group and its hyperparameters, checked."""
        cls = type(self)
        given = _split_betas(
            cls.algorithm, {k: v for k, v in group.items() if k in _names(cls.algorithm)}
        )
        algorithm = cls.algorithm
        for name, flag in self._flags().items():
            if group.get(name):
                algorithm = ALGORITHMS[flag.algorithm]
                own = cls.algorithm.defaults(group["dialect"])
                lost = {k for k in given if k not in algorithm.defaults() and given[k] != own[k]}
                if lost:
                    raise ValueError(f"{name} = True: allowed without {', '.join(sorted(lost))}")
                given = {k: v for k, v in given.items() if k in algorithm.defaults()}
                given |= flag.hyperparameters
        return algorithm, algorithm.resolve(group["dialect"], given)

    # The step.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Advance every parameter that has a gradient.

        Args:
            closure: evaluates the loss and the gradients anew, and returns the loss.

        Returns:
            what the closure returned, else ``None``.

        Raises:
            TypeError: for a sparse or complex gradient.
            ValueError: for a hyperparameter that is not allowed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # In a function that a user compiles, our own kernels run: the same bits, compiled.
        self._advance(torch.compiler.is_compiling())
        return loss

    @torch.compiler.disable
    @torch.no_grad()
    def _advance(self, compiled: bool) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                _check_gradient(p)
            algorithm, hyperparameters = self._selected(group)
            layout = _Layout.of(algorithm, hyperparameters)
            for p in params:
                if not self.state[p]:
                    self._start(p, algorithm, hyperparameters, layout)
                elif set(self.state[p]) != set(layout.names):
                    raise ValueError(
                        f"the state of a parameter has the fields {sorted(self.state[p])}: "
                        f"{algorithm.name} has {sorted(layout.names)}"
                    )
            if group["compile"] or compiled:
                params = self._advance_compiled(params, group, algorithm, hyperparameters, layout)
            if params:
                self._advance_eager(params, group, algorithm, hyperparameters, layout)

    def _start(
        self, p: Any, algorithm: Algorithm, hyperparameters: dict[str, Any], layout: _Layout
    ) -> None:
        work = p.detach().to(WORKING_DTYPE[p.dtype])
        state = algorithm.start(Leaves([work], EAGER), hyperparameters)
        fields = (leaves.values[0] for leaves in _flatten(state))
        self.state[p].update(zip(layout.names, map(_owned(work), fields), strict=True))

    def _advance_eager(
        self,
        params: list[Any],
        group: dict[str, Any],
        algorithm: Algorithm,
        hyperparameters: dict[str, Any],
        layout: _Layout,
    ) -> None:
        work = [p.detach().to(WORKING_DTYPE[p.dtype]) for p in params]
        grads = [p.grad.to(w.dtype) for p, w in zip(params, work, strict=True)]
        fields = [Leaves([self.state[p][n] for p in params], EAGER) for n in layout.names]
        values = {
            name: Leaves([value.to(w.device, w.dtype) for w in work], EAGER)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in hyperparameters.items()
        }
        state, step = algorithm.update(
            layout.rebuild(fields), Leaves(grads, EAGER), Leaves(work, EAGER), **values
        )
        new_fields = _flatten(state)
        for i, (p, w, g) in enumerate(zip(params, work, grads, strict=True)):
            own = _owned(w, g)
            for name, field in zip(layout.names, new_fields, strict=True):
                self.state[p][name] = own(field.values[i])
            _add(p, step.values[i], group["step_dtype"])

    def _advance_compiled(
        self,
        params: list[Any],
        group: dict[str, Any],
        algorithm: Algorithm,
        hyperparameters: dict[str, Any],
        layout: _Layout,
    ) -> list[Any]:
        """Advance by kernels; return the parameters too small for one (same bits either way)."""
        small = [p for p in params if p.numel() < 2]
        by_dtype: dict[Any, list[Any]] = defaultdict(list)
        for p in params:
            if p.numel() >= 2:
                by_dtype[WORKING_DTYPE[p.dtype], p.device].append(p)
        for (dtype, device), several in by_dtype.items():
            kernel = _kernel(algorithm, hyperparameters, layout, dtype)
            scalars = kernel.host(hyperparameters, dtype, device)
            for p in several:
                order = _memory_order(p)
                work, grad = (
                    _flat(t.detach(), order).to(dtype) for t in (p, p.grad)
                )
                fields = []
                for name, full in zip(layout.names, layout.full, strict=True):
                    field = self.state[p][name]
                    if full and not _is_flat(field, order):
                        field = self.state[p][name] = _like_memory(field, p)
                    fields.append(_flat(field, order) if full else field)
                in_place = p.dtype == dtype and _is_flat(p, order)
                step = kernel(work, grad, fields, scalars, add=in_place)
                if step is not None:
                    _add(p, _unflat(step, p, order), group["step_dtype"])
        return small

    # Saved states.

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state saved by ``state_dict``; its dtypes stay (torch alone would cast them).

        Raises:
            ValueError: if the state is of another algorithm or other parameters.
        """
        saved_groups = state_dict["param_groups"]
        missing = set(self.defaults) - set().union(*saved_groups) if saved_groups else set()
        if missing:
            raise ValueError(
                f"state_dict has no {', '.join(sorted(missing))} in its groups: it is not of "
                f"{type(self).__name__}"
            )
        order = [i for g in saved_groups for i in g["params"]]
        params = [p for g in self.param_groups for p in g["params"]]
        if len(order) == len(params):  # else torch has a message of its own
            for group in saved_groups:
                algorithm, hyperparameters = self._selected(group)
                layout = _Layout.of(algorithm, hyperparameters)
                for i in group["params"]:
                    fields = state_dict["state"].get(i)
                    if fields and set(fields) != set(layout.names):
                        raise ValueError(
                            f"state_dict has the fields {sorted(map(str, fields))}: allowed for "
                            f"{algorithm.name} are {sorted(layout.names)}"
                        )
        super().load_state_dict(state_dict)
        for i, p in zip(order, params, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, torch.Tensor):
                    # A copy, as torch makes one, but in the dtype that was saved.
                    self.state[p][name] = value.detach().to(p.device, copy=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)


# Fields of a state, in one order for every parameter.


class _Layout:
    """The names of a state's fields, and how to build a state of them."""

    _known: ClassVar[dict[Any, _Layout]] = {}
    _lock = threading.Lock()

    def __init__(self, algorithm: Algorithm, hyperparameters: dict[str, Any]) -> None:
        import numpy as np
        from optstudy_core.leaves import NumPy

        self._skeleton = algorithm.start(Leaves([np.zeros(2)], NumPy()), hyperparameters)
        self.names = _field_names(self._skeleton)
        shapes = [np.shape(field.values[0]) for field in _flatten(self._skeleton)]
        self.full = [shape == (2,) for shape in shapes]
        self.flat = all(shape in {(), (2,)} for shape in shapes)

    @classmethod
    def of(cls, algorithm: Algorithm, hyperparameters: dict[str, Any]) -> _Layout:
        """Return the layout, made once for each algorithm and set of absent terms."""
        key = (algorithm, frozenset(k for k, v in hyperparameters.items() if _is_static(k, v)))
        with cls._lock:
            if key not in cls._known:
                plain = {
                    k: float(v) if isinstance(v, torch.Tensor) else v
                    for k, v in hyperparameters.items()
                }
                cls._known[key] = cls(algorithm, plain)
            return cls._known[key]

    def rebuild(self, fields: list[Any]) -> Any:
        """Return a state with these fields."""
        rest = iter(fields)
        return map_leaves(lambda _: next(rest), self._skeleton)


def _flatten(state: Any) -> list[Leaves]:
    found: list[Leaves] = []
    map_leaves(found.append, state)
    return found


def _field_names(state: Any, prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in zip(state._fields, state, strict=True):
        if isinstance(field, Leaves):
            names.append(prefix + name)
        elif field is not None:
            names += _field_names(field, f"{prefix}{name}.")
    return names


# Kernels.

_KERNELS: dict[Any, Kernel] = {}


def _is_static(name: str, value: Any) -> bool:
    """Tell whether a hyperparameter is part of the kernel: a truth value, or an absent term."""
    if isinstance(value, torch.Tensor):
        return False
    return not is_number(value) or (value == 0 and name != "lr")


def _kernel(
    algorithm: Algorithm, hyperparameters: dict[str, Any], layout: _Layout, dtype: torch.dtype
) -> Kernel:
    if not layout.flat:
        raise NotImplementedError(
            f"compile = True: allowed for algorithms whose state is made of scalars and of arrays "
            f"like the parameter, which {algorithm.name}'s is not"
        )
    static = {k: v for k, v in hyperparameters.items() if _is_static(k, v)}
    tensors = [k for k, v in hyperparameters.items() if isinstance(v, torch.Tensor)]
    dynamic = [k for k in hyperparameters if k not in static and k not in tensors]
    key = (algorithm, tuple(static.items()), tuple(tensors), tuple(layout.names), dtype)
    if key not in _KERNELS:
        _KERNELS[key] = Kernel(
            algorithm, static, dynamic, tensors, layout.names, layout.rebuild, _flatten
        )
    return _KERNELS[key]


# Memory.


def _memory_order(p: torch.Tensor) -> tuple[int, ...]:
    """Return the dimensions of ``p`` from the slowest to the fastest in memory."""
    return tuple(sorted(range(p.ndim), key=lambda d: (-p.stride(d), d)))


def _is_flat(x: torch.Tensor, order: tuple[int, ...]) -> bool:
    return x.permute(order).is_contiguous()


def _flat(x: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return ``x`` as a vector in that order: a view where its memory allows it."""
    return x.permute(order).reshape(-1)


def _unflat(x: torch.Tensor, like: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    shape = [like.shape[d] for d in order]
    back = sorted(range(len(order)), key=order.__getitem__)
    return x.view(shape).permute(back)


def _like_memory(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    order = _memory_order(p)
    return _unflat(x.permute(order).contiguous().view(-1), p, order)


def _owned(*inputs: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that copies a field which is an input itself (a gradient is reused)."""
    return lambda x: x.clone() if any(x is given for given in inputs) else x


def _add(p: torch.Tensor, step: torch.Tensor, step_dtype: str | None) -> None:
    """Add a step: rounded to the parameter's dtype first, or (float32) only the sum is."""
    if step_dtype is None or p.dtype == torch.float64:
        p.add_(step.to(p.dtype))
    else:
        p.copy_(p.to(step.dtype) + step)


def _check_gradient(p: torch.Tensor) -> None:
    grad = p.grad
    assert grad is not None
    if grad.layout != torch.strided:
        raise TypeError(f"gradient of layout {grad.layout}: allowed are dense gradients")
    if grad.shape != p.shape:
        raise ValueError(f"gradient of shape {tuple(grad.shape)}: allowed is {tuple(p.shape)}")


# Classes.

_CLASSES: dict[str, type[CoreOptimizer]] = {}


def _is_ours(algorithm: Algorithm) -> bool:
    return ALGORITHMS.get(algorithm.name) is algorithm


def _names(algorithm: Algorithm) -> set[str]:
    """Return the names of an algorithm's hyperparameters as torch has them."""
    return set(_join_betas(algorithm.defaults()))


def _join_betas(values: dict[str, Any]) -> dict[str, Any]:
    """Replace ``b1``, ``b2`` by ``betas``, where they stood."""
    betas = tuple(values[b] for b in _BETAS if b in values)
    if len(betas) < 2:
        return dict(values)
    joined: dict[str, Any] = {}
    for name, value in values.items():
        if name == "b1":
            joined["betas"] = betas
        elif name not in _BETAS:
            joined[name] = value
    return joined


def _split_betas(algorithm: Algorithm, values: dict[str, Any]) -> dict[str, Any]:
    """Replace ``betas`` by ``b1``, ``b2``."""
    values = dict(values)
    names = [b for b in _BETAS if b in algorithm.defaults()]
    if "betas" in values and len(names) > 1:
        betas = values.pop("betas")
        if betas is not None:
            if not isinstance(betas, tuple | list) or len(betas) != len(names):
                raise TypeError(f"betas = {betas!r}: allowed are tuples of {len(names)} numbers")
            values |= dict(zip(names, betas, strict=True))
    return values


def _signature(algorithm: Algorithm, flags: Iterable[str], dialect: str | None) -> inspect.Signature:
    """Return the arguments of the class: torch.optim's order, keywords from maximize on."""
    differing = algorithm.differing()
    parameter = inspect.Parameter
    kind = parameter.POSITIONAL_OR_KEYWORD
    values = _join_betas(algorithm.defaults(dialect))
    parameters = [parameter("params", kind)]
    flagged = False
    for name, value in values.items():
        if name == "maximize":
            parameters += [parameter(f, kind, default=False) for f in flags]
            flagged = True
            kind = parameter.KEYWORD_ONLY
        depends = name in differing or (name == "betas" and differing & set(_BETAS))
        parameters.append(parameter(name, kind, default=None if depends else value))
    kind = parameter.KEYWORD_ONLY
    if not flagged:
        parameters += [parameter(f, kind, default=False) for f in flags]
    extra = {"dialect": dialect, "compile": False, "step_dtype": None} | _ADAPTER
    parameters += [parameter(n, kind, default=v) for n, v in extra.items() if n not in values]
    return inspect.Signature(parameters)


def _make_class(algorithm: Algorithm) -> type[CoreOptimizer]:
    dialect = algorithm.default_dialect
    flags = FLAGS.get(algorithm.name, {}) if _is_ours(algorithm) else {}
    signature = _signature(algorithm, flags, dialect)

    def __init__(self: CoreOptimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        CoreOptimizer.__init__(self, **bound.arguments)

    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        + list(signature.parameters.values())
    )
    source = inspect.getmodule(algorithm.update)
    return type(
        algorithm.title,
        (CoreOptimizer,),
        {
            "__init__": __init__,
            "__doc__": source.__doc__ if _is_ours(algorithm) and source else algorithm.update.__doc__,
            "__module__": "optstudy_torch" if _is_ours(algorithm) else algorithm.update.__module__,
            "algorithm": algorithm,
        },
    )


def from_core(algorithm: str | Algorithm) -> type[CoreOptimizer]:
    """Return the ``torch.optim.Optimizer`` class of an algorithm.

    Its arguments are the algorithm's hyperparameters (``b1`` and ``b2`` as ``betas``) and

    - ``dialect``: whose mathematics and defaults (see ``optstudy_core.defaults``);
    - ``compile``: run as one compiled kernel (the same bits; ``fused=True`` means this too);
    - ``step_dtype``: ``"float32"`` adds the float32 step to a bfloat16 or float16 parameter
      with one rounding, instead of rounding the step first;
    - ``foreach``: accepted, without effect; ``capturable``, ``differentiable``: refused.

    Args:
        algorithm: a name of ``optstudy_core.ALGORITHMS``, or an ``Algorithm`` of your own.

    Raises:
        ValueError: if the name is unknown.

    >>> from_core("adam").__name__
    'Adam'
    """
    algorithm = find(algorithm, ALGORITHMS)
    if not _is_ours(algorithm):
        return _make_class(algorithm)
    if algorithm.name not in _CLASSES:
        _CLASSES[algorithm.name] = _make_class(algorithm)
    return _CLASSES[algorithm.name]
