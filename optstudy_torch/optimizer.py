"""torch optimizers around the pure functions of the core."""

from __future__ import annotations

import functools
import inspect
import operator
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.arrays.leaves import Leaves, map_leaves
from optstudy_core.arrays.numbers import is_number, nearest
from optstudy_core.arrays.numpy_backend import NumPy
from optstudy_core.catalogue.algorithm import INPUTS
from optstudy_core.catalogue.docstring import meaning, with_arguments
from optstudy_core.catalogue.hyperparameters import check_value
from optstudy_core.catalogue.table import find
from optstudy_torch.engine.eager import Eager
from optstudy_torch.engine.errors import NoKernelsError
from optstudy_torch.engine.stages import Stage
from optstudy_torch.engine.threads import HOST
from optstudy_torch.engine.units import add

from .engine.deferred import Loops, need_compiler
from .engine.in_place import take_steps
from .engine.machines import Machine
from .engine.program import NotTraceableError, Program
from .engine.threaded_numpy import ThreadedNumPy

EAGER = Eager()
HOST_ARRAYS = {False: ThreadedNumPy(), None: Loops(), True: Loops(few=0)}
"""What computes on the CPU where a rule runs as it is written, by ``compile``."""

WORKING_DTYPE = {
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.float64: torch.float64,
}
"""The dtype in which a parameter's step is computed and its state kept."""


class Flagged(NamedTuple):
    """What truth values of torch.optim select instead of the algorithm of the class."""

    algorithm: str
    hyperparameters: dict[str, Any]


FLAGS: dict[str, dict[tuple[str, ...], Flagged]] = {
    "adam": {
        ("amsgrad",): Flagged("amsgrad", {}),
        ("decoupled_weight_decay",): Flagged("adamw", {}),
        ("amsgrad", "decoupled_weight_decay"): Flagged("amsgrad", {"decoupled_weight_decay": True}),
    },
    "adamw": {("amsgrad",): Flagged("amsgrad", {"decoupled_weight_decay": True})},
}
"""Flags of torch's classes that are set, by the algorithm of the class."""

_TUPLES = {
    "betas": ("b1", "b2", "b3"),
    "eps": ("eps1", "eps2"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
"""Arguments of torch's classes that hold several hyperparameters: those that the algorithm has."""

_ELSEWHERE = {name: own for own, inside in _TUPLES.items() for name in inside} | {
    "learning_rate": "lr",
}
"""What optax's arguments are called here."""

_OTHERWISE = {
    "ns_steps": ("ns_coefficients", "a triple for each step"),
    "adjust_lr_fn": ("consistent_rms", "0.2 for 'match_rms_adamw'"),
}
"""What stands for arguments of torch's Muon, and how."""

_POSITIONAL = {
    "adam": ("amsgrad",),
    "adamw": ("amsgrad",),
    "adamax": ("foreach",),
    "adagrad": ("foreach",),
    "adadelta": ("foreach",),
    "asgd": ("foreach", "maximize", "differentiable", "capturable"),
    "rmsprop": ("capturable", "foreach", "maximize", "differentiable"),
}
"""What torch's classes take by position after the hyperparameters, by the algorithm."""

_ADAPTER = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
_REFUSED = {
    "capturable": "the step is not captured in CUDA graphs yet",
    "differentiable": "the step is not differentiable yet; use the pure function in optstudy_core",
}


# torch.compiler.disable would import the compiler (seconds) as soon as this module is imported;
# what torch.optim itself uses imports it when it is needed.
_outside_compilation: Any = getattr(torch, "_disable_dynamo", torch.compiler.disable)


class CoreOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that runs an algorithm of the core.

    Made by :func:`from_core`. Per parameter, ``state[p]`` holds the fields of the algorithm's
    state under their names (``m``, ``v``, ``c1.value``, …), in float32 for float32, bfloat16 and
    float16 parameters and in float64 for float64. ``.grad`` is never written to. A parameter
    whose ``.grad`` is ``None`` keeps its state.
    """

    algorithm: ClassVar[Algorithm]

    def __init__(self, params: Any, **arguments: Any) -> None:
        self._group(arguments)  # refused here, even if every group has values of its own
        # None stays: in a group it is the value of the group's dialect.
        defaults = {k: v for k, v in arguments.items() if k not in _ADAPTER}
        compiled = _compiled(arguments.get("compile"), arguments.get("fused"))
        self._forget()
        super().__init__(params, defaults | {"compile": compiled})

    def _forget(self) -> None:
        """Let go of what is kept from step to step, beside the state."""
        self._plans: dict[int, _Plan] = {}
        self._staged: dict[int, _Staged] = {}
        self._seen: list[dict[str, Any]] = []

    # Hyperparameters and groups.

    @classmethod
    def _group(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return a group's values for the arguments of the class, the dialect's for ``None``."""
        arguments = dict(arguments)
        own = cls.algorithm.name
        found = arguments.pop("algorithm", own)
        if found != own:
            raise ValueError(
                f"algorithm = {found!r} in a group of {cls.__name__}: allowed is {own!r}"
            )
        for name, reason in _REFUSED.items():
            if arguments.pop(name, False):
                raise NotImplementedError(f"{name} = True: allowed is False, because {reason}")
        arguments.pop("foreach", None)
        compiled = _compiled(arguments.pop("compile", None), arguments.pop("fused", None))
        dialect = arguments.pop("dialect", None)
        step_dtype = arguments.pop("step_dtype", None)
        if step_dtype not in (None, "float32"):
            raise ValueError(f"step_dtype = {step_dtype!r}: allowed are None and 'float32'")
        flags = {name: arguments.pop(name, False) for name in _flags(cls.algorithm)}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} = {value!r}: allowed are True and False")
        values = cls.algorithm.resolve(dialect, _split_tuples(cls.algorithm, arguments))
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                if value.numel() != 1:
                    raise ValueError(
                        f"{name} of shape {tuple(value.shape)}: allowed are numbers and tensors "
                        "of one"
                    )
                check_value(name, value.item(), cls.algorithm.defaults()[name])
        group = {"algorithm": own} | join_tuples(values) | flags
        group |= {"dialect": dialect, "compile": compiled, "step_dtype": step_dtype}
        cls._selected(group)
        return group

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own values for any argument of the class.

        Args:
            param_group: a dictionary with ``"params"``, one or more tensors, and those values.

        Raises:
            TypeError, ValueError: for a value that is not allowed.
        """
        if isinstance(param_group, dict):
            inside = {name for names in _TUPLES.values() for name in names}
            for name in set(param_group) & inside - set(self.defaults):
                raise TypeError(f"{name} in a group: allowed are {', '.join(self.defaults)}")
            known = {"algorithm", *self.defaults, *_ADAPTER}
            own = {k: v for k, v in param_group.items() if k in known}
            rest = {k: v for k, v in param_group.items() if k not in known}
            param_group = rest | self._group(self.defaults | own)
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype not in WORKING_DTYPE:
                dtype = p.dtype
                del self.param_groups[-1]
                raise TypeError(
                    f"parameter of dtype {dtype}: allowed are {', '.join(map(str, WORKING_DTYPE))}"
                )

    @classmethod
    def _selected(cls, group: dict[str, Any]) -> tuple[Algorithm, dict[str, Any]]:
        """Return the algorithm of a group and its hyperparameters, checked."""
        algorithm = cls.algorithm
        given = _split_tuples(algorithm, {k: v for k, v in group.items() if k in _names(algorithm)})
        flags = tuple(name for name in _flags(algorithm) if group[name])
        if flags:
            neutral = algorithm.defaults()
            flagged = FLAGS[algorithm.name][flags]
            algorithm = ALGORITHMS[flagged.algorithm]
            known = algorithm.defaults()
            lost = {k: v for k, v in given.items() if k not in known and v != neutral[k]}
            if lost:
                raise ValueError(
                    f"{' and '.join(flags)} = True: allowed without "
                    f"{', '.join(f'{k} = {v!r}' for k, v in lost.items())}"
                )
            given = {k: v for k, v in given.items() if k in known} | flagged.hyperparameters
        values = algorithm.resolve(group["dialect"], given)
        return algorithm, {
            k: v.detach().reshape(()) if isinstance(v, torch.Tensor) else v
            for k, v in values.items()
        }

    # The step.

    def step(self, closure: Callable[[], Any] | None = None, **inputs: Any) -> Any:
        """Advance every parameter that has a gradient.

        Args:
            closure: evaluates the loss and the gradients anew, and returns the loss.
            inputs: what the algorithm asks for besides (``algorithm.inputs``): ``value``, the loss,
                where no closure returns it; ``hessian``, a tensor like each of the parameters, in
                their order, as ``torch.autograd.grad`` returns them.

        Returns:
            what the closure returned, else ``None``.

        Raises:
            TypeError: for a sparse or complex gradient, or an input that is missing or unknown.
            ValueError: for a hyperparameter that is not allowed, or a tensor of the wrong shape.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if "value" in self.algorithm.inputs:
                inputs = {"value": loss} | inputs
        inputs = {name: x for name, x in inputs.items() if x is not None}
        self.algorithm.check_inputs(inputs, ": call step(closure), or step(value=loss)")
        self._advance(self._inputs(inputs))
        return loss

    def _inputs(self, given: dict[str, Any]) -> _Inputs:
        """Return what the algorithm is given: scalars, and tensors by parameter."""
        if not given:
            return _NO_INPUTS
        params = [p for group in self.param_groups for p in group["params"]]
        scalars, tensors = {}, {}
        for name, x in given.items():
            if not INPUTS[name]:
                scalar = (
                    x.detach()
                    if isinstance(x, torch.Tensor)
                    else torch.tensor(float(x), device="cpu")
                )
                if scalar.numel() != 1:
                    raise ValueError(f"{name} of shape {tuple(x.shape)}: allowed are scalars")
                scalars[name] = scalar.reshape(())
                continue
            if len(x) != len(params):
                raise ValueError(f"{name} of length {len(x)}: allowed is {len(params)}")
            for p, own in zip(params, x, strict=True):
                if p.grad is not None:
                    _check_gradient(p, own, name)
                    if not _is_memory(type(own)):
                        raise TypeError(f"{name} of type {type(own).__name__}: {_ALLOWED}")
            tensors[name] = dict(zip(params, x, strict=True))
        return _Inputs(scalars, tensors)

    @_outside_compilation
    @torch.no_grad()
    def _advance(self, inputs: _Inputs) -> None:
        states = list(self.state.values())
        if not _are(states, self._seen):
            self._staged.clear()
        ready: list[tuple[_Plan, list[Any], dict[str, Any], _Staged | None]] = []
        for number, group in enumerate(self.param_groups):  # a step that is refused changes nothing
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            _check_memory(params, group)
            _check_gradients(params)
            plan = self._plan(number, group, inputs)
            if group["compile"] and plan.machine is None:
                _check_compiled(plan.algorithm, params)
            staged = self._staged.get(number)
            if staged is None or not staged.holds(plan, group["compile"], params):
                self._staged.pop(number, None)
                staged = None
                for p in params:
                    if self.state[p]:
                        what = f"the state of {plan.algorithm.name}"
                        _check_fields(what, self.state[p], plan.layout, p)
                if plan.machine is not None:
                    staged = _Staged(plan, group["compile"], params)
            ready.append((plan, params, group, staged))
            if staged is not None:
                self._staged[number] = staged
        for plan, params, _, staged in ready:
            for p in params:
                if not self.state[p] and staged is None:
                    self.state[p].update(_started(p, plan))
        self._seen = list(self.state.values())
        for plan, params, group, staged in ready:
            if staged is None:
                self._advance_as_written(params, group, plan, inputs)
            else:
                staged.run(plan, self.state, group["step_dtype"], inputs)

    def _plan(self, number: int, group: dict[str, Any], inputs: _Inputs) -> _Plan:
        """Return what a group's values ask for, made anew if one of them is another object."""
        values = [value for name, value in group.items() if name != "params"]
        plan = self._plans.get(number)
        if plan is None or not _are(values, plan.values) or plan.inputs != inputs.names:
            selected = self._selected(group)
            plan = self._plans[number] = _Plan(values, *selected, inputs.names)
        if not plan.is_fixed:
            del self._plans[number]
        return plan

    def _advance_as_written(
        self, params: list[Any], group: dict[str, Any], plan: _Plan, inputs: _Inputs
    ) -> None:
        """Call the pure function itself, where no program can be made of it."""
        layout = plan.layout
        leaves = _leaves_of(params, group["compile"])
        work = [p.detach().to(WORKING_DTYPE[p.dtype]) for p in params]
        theta = leaves(work)
        grad = leaves(p.grad.detach().to(w.dtype) for p, w in zip(params, work, strict=True))
        fields = [leaves(self.state[p][n] for p in params) for n in layout.names]
        values = {
            name: leaves(value.detach().to(w.device, w.dtype) for w in work)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in (plan.hyperparameters | inputs.scalars).items()
        }
        for name, tensors in inputs.tensors.items():
            own = (tensors[p].detach().to(w.dtype) for p, w in zip(params, work, strict=True))
            values[name] = leaves(own)
        values |= dict.fromkeys(plan.algorithm.inputs.keys() - values.keys())
        state, step = plan.algorithm.update(layout.rebuild(fields), grad, theta, **values)
        new = [field.values for field in _flatten(state)]
        for i, p in enumerate(params):
            keep, own = _owned(theta.values[i], grad.values[i]), self.state[p]
            for name, field in zip(layout.names, new, strict=True):
                own[name] = _tensor(keep(field[i]))
        taken = take_steps(params, step)
        for i, p in enumerate(params):
            if i not in taken:
                add(p, _tensor(step.values[i]), group["step_dtype"])

    # Saved states.

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state saved by ``state_dict``; its dtypes stay (torch alone would cast them).

        Args:
            state_dict: that state, of the same algorithm and parameters of the same shapes.

        Raises:
            ValueError: if the state is of another algorithm or other parameters.
        """
        loaded: dict[str, Any] = {}

        def check(_: Any, state_dict: dict[str, Any]) -> None:
            self._check_saved(state_dict)
            loaded.update(state_dict)

        def keep_dtypes(_: Any) -> None:
            order = [i for g in loaded["param_groups"] for i in g["params"]]
            params = [p for g in self.param_groups for p in g["params"]]
            for i, p in zip(order, params, strict=True):
                for name, value in loaded["state"].get(i, {}).items():
                    # A copy, as torch makes one, but in the working dtype.
                    self.state[p][name] = (
                        _tensor(value).detach().to(p.device, WORKING_DTYPE[p.dtype], copy=True)
                    )

        # After the hooks that change what is loaded, and before those that look at the result.
        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(keep_dtypes, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _check_saved(self, state_dict: dict[str, Any]) -> None:
        own = self.algorithm.name
        for group in state_dict["param_groups"]:
            found = group.get("algorithm")
            if found != own:
                raise ValueError(
                    f"state_dict of algorithm {found!r} (None: not of optstudy, whose fields "
                    f"are not torch.optim's): allowed for {type(self).__name__} is {own!r}"
                )
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=False):
            algorithm, hyperparameters = self._selected(group | saved)
            layout = _Layout.of(algorithm, hyperparameters)
            for i, p in zip(saved["params"], group["params"], strict=False):
                fields = state_dict["state"].get(i)
                if fields:
                    _check_fields("state_dict", fields, layout, p)
        # Numbers of groups and of parameters that differ are refused by torch.

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()
        self.defaults.pop("differentiable", None)  # torch adds it, where a state is loaded only
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)


# Fields of a state, in one order for every parameter.


class _Layout:
    """The names of a state's fields, and how to build a state of them."""

    _known: ClassVar[dict[Any, _Layout]] = {}
    _lock = threading.Lock()

    def __init__(self, algorithm: Algorithm, hyperparameters: dict[str, Any]) -> None:
        self._skeleton = algorithm.start(Leaves([np.zeros(2)], NumPy()), hyperparameters)
        self.names = _field_names(self._skeleton)
        shapes = [np.shape(field.values[0]) for field in _flatten(self._skeleton)]
        self.full = [shape == (2,) for shape in shapes]
        self.flat = not algorithm.leafwise and all(shape in {(), (2,)} for shape in shapes)
        self._start = functools.partial(algorithm.start, hyperparameters=hyperparameters)
        self._shapes: dict[tuple[int, ...], list[tuple[int, ...] | None]] = {}

    @classmethod
    def of(cls, algorithm: Algorithm, hyperparameters: dict[str, Any]) -> _Layout:
        """Return the layout, made once for each algorithm, its flags and its absent terms."""
        key = (algorithm, *((k, v) for k, v in hyperparameters.items() if _is_static(k, v)))
        with cls._lock:
            if key not in cls._known:
                plain = {  # a term whose factor is an array is never absent
                    k: np.asarray(v.item()) if isinstance(v, torch.Tensor) else v
                    for k, v in hyperparameters.items()
                }
                cls._known[key] = cls(algorithm, plain)
            return cls._known[key]

    def shapes(self, p: torch.Tensor) -> list[tuple[int, ...] | None]:
        """Return the shape of each field for a parameter, ``None`` for scalars."""
        shape = tuple(p.shape)
        if self.flat:
            return [shape if full else None for full in self.full]
        if shape not in self._shapes:
            state = self._start(Leaves([np.zeros(shape)], NumPy()))
            self._shapes[shape] = [np.shape(x.values[0]) or None for x in _flatten(state)]
        return self._shapes[shape]

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


# Programs.

_MACHINES: dict[Any, Machine | None] = {}

_VALUES: dict[Algorithm, set[str]] = defaultdict(set)
"""Names of the hyperparameters whose values a formula branches on: each value is a program."""

_MOST = 16
"""Programs of an algorithm that branches on values; with more of them it runs as written."""


def _is_static(name: str, value: Any) -> bool:
    """Tell whether a hyperparameter is part of the program: a truth value, or an absent term."""
    if isinstance(value, torch.Tensor):
        return False
    return not is_number(value) or (value == 0 and name != "lr")


def _machine(
    algorithm: Algorithm, hyperparameters: dict[str, Any], inputs: frozenset[str], layout: _Layout
) -> Machine | None:
    """Return what runs an algorithm's program, or None if its formula cannot be made one."""
    if not layout.flat:
        return None
    absent = dict.fromkeys(algorithm.inputs.keys() - inputs)
    tensors = [k for k, v in hyperparameters.items() if isinstance(v, torch.Tensor)]
    values = _VALUES.get(algorithm, set())
    static = {
        k: v
        for k, v in hyperparameters.items()
        if _is_static(k, v) or (k in values and k not in tensors)
    }
    static |= absent
    key = (algorithm, tuple(static.items()), tuple(tensors))
    if key not in _MACHINES:
        dynamic = [k for k in hyperparameters if k not in static and k not in tensors]
        try:
            if values and sum(known[0] is algorithm for known in _MACHINES) >= _MOST:
                return None
            given = {name: INPUTS[name] for name in inputs}
            program = Program(
                algorithm, static, dynamic, tensors, given, layout.full, layout.rebuild, _flatten
            )
        except NotTraceableError as error:
            if error.key in dynamic and error.key != "lr":
                _VALUES[algorithm].add(error.key)
                return _machine(algorithm, hyperparameters, inputs, layout)
            _MACHINES[key] = None
        else:
            _MACHINES[key] = Machine(program)
    return _MACHINES[key]


def _compiled(compiled: Any, fused: Any) -> bool | None:
    """Return what a group's ``compile`` is; ``fused`` is torch's word for it."""
    chosen = fused or (fused if compiled is None else compiled)
    return None if chosen is None else bool(chosen)


def _check_compiled(algorithm: Algorithm, params: Sequence[torch.Tensor]) -> None:
    """Refuse what runs as it is written, unless its operations are loops."""
    if not algorithm.leafwise or any(p.device.type != HOST for p in params):
        raise NotImplementedError(
            f"compile = True for {algorithm.name}: allowed for algorithms whose state is made of "
            "scalars and of arrays like the parameter, and on the CPU for those whose formula "
            "depends on the shape of the parameter"
        )
    try:
        need_compiler()
    except NoKernelsError as error:
        raise RuntimeError(f"compile = True on {HOST}: {error}") from error


def _leaves_of(
    params: Sequence[torch.Tensor], compiled: bool | None
) -> Callable[[Iterable[torch.Tensor]], Leaves]:
    """Return what makes trees of tensors that are where the parameters are.

    NumPy computes in the memory of those on the CPU: a call costs it a third of torch's.
    """
    if any(p.device.type != HOST for p in params):
        return lambda tensors: Leaves((x.resolve_neg() for x in tensors), EAGER)
    backend = HOST_ARRAYS[compiled]
    return lambda tensors: Leaves((x.resolve_neg().numpy() for x in tensors), backend)


def _tensor(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.from_numpy(np.asarray(x))


def _owned(*inputs: Any) -> Callable[[Any], Any]:
    """Return a function that copies a field which is an input or another, or a view of one."""
    taken = list(inputs)

    def own(x: Any) -> Any:
        base = x._base if isinstance(x, torch.Tensor) else getattr(x, "base", None)
        if any(x is other or base is other for other in taken):
            x = x.clone() if isinstance(x, torch.Tensor) else np.array(x)
        taken.append(x)
        return x

    return own


_GRADIENT = operator.attrgetter("grad")
_KIND = operator.attrgetter("layout", "dtype", "shape")


_ALLOWED = (
    "allowed are tensors whose numbers lie in memory of their own, so none that compute them "
    "otherwise, as DTensor does"
)


def _is_memory(kind: type) -> bool:
    """Tell whether tensors of a type are what their memory holds: others say how they compute."""
    return getattr(kind, "__torch_dispatch__", None) is torch.Tensor.__torch_dispatch__


def _check_memory(params: Sequence[torch.Tensor], group: dict[str, Any]) -> None:
    """Refuse parameters and gradients of types that compute otherwise, by name or number."""
    if all(map(_is_memory, {*map(type, params), *map(type, map(_GRADIENT, params))})):
        return
    names = group.get("param_names") or range(len(group["params"]))
    for name, p in zip(names, group["params"], strict=True):
        for what, x in (("parameter", p), ("gradient of parameter", p.grad)):
            if x is not None and p.grad is not None and not _is_memory(type(x)):
                raise TypeError(f"{what} {name!r} of type {type(x).__name__}: {_ALLOWED}")


def _check_gradients(params: Sequence[torch.Tensor]) -> None:
    if list(map(_KIND, map(_GRADIENT, params))) != list(map(_KIND, params)):
        for p in params:
            _check_gradient(p, p.grad)


def _check_gradient(p: torch.Tensor, grad: Any, name: str = "gradient") -> None:
    """Refuse a gradient, or what is like it, that does not fit its parameter."""
    if not isinstance(grad, torch.Tensor):
        raise TypeError(f"{name} of type {type(grad).__name__}: allowed are tensors")
    if grad.layout != torch.strided:
        raise TypeError(f"{name} of layout {grad.layout}: allowed are dense gradients")
    if grad.device != p.device:
        raise ValueError(f"{name} on {grad.device}: allowed is {p.device}")
    if grad.shape != p.shape:
        raise ValueError(f"{name} of shape {tuple(grad.shape)}: allowed is {tuple(p.shape)}")
    dtype = WORKING_DTYPE[p.dtype]
    if not grad.is_floating_point() or torch.promote_types(grad.dtype, dtype) != dtype:
        raise TypeError(
            f"{name} of dtype {grad.dtype} for a parameter of dtype {p.dtype}: allowed are real "
            f"dtypes that {dtype} holds"
        )


def _check_fields(what: str, fields: dict[str, Any], layout: _Layout, p: torch.Tensor) -> None:
    """Refuse a parameter's state that does not have the layout's names, or not its shape."""
    if set(fields) != set(layout.names):
        raise ValueError(
            f"{what} has the fields {sorted(map(str, fields))} for a parameter: allowed are "
            f"{sorted(layout.names)}"
        )
    for name, shape in zip(layout.names, layout.shapes(p), strict=True):
        if shape is not None and fields[name].shape != shape:
            raise ValueError(
                f"{what} has {name} of shape {tuple(fields[name].shape)} for a parameter of "
                f"shape {tuple(p.shape)}"
            )


# What is kept from step to step.


class _Plan:
    """What a group's values ask for.

    Args:
        values: of the group.
        algorithm: that they select.
        hyperparameters: of that algorithm.
        inputs: names of what it is given besides the gradient.
    """

    def __init__(
        self,
        values: list[Any],
        algorithm: Algorithm,
        hyperparameters: dict[str, Any],
        inputs: frozenset[str],
    ) -> None:
        self.values, self.inputs = values, inputs
        self.algorithm, self.hyperparameters = algorithm, hyperparameters
        self.layout = _Layout.of(algorithm, hyperparameters)
        self.machine = _machine(algorithm, hyperparameters, inputs, self.layout)
        # Others may change while they are the same object.
        fixed = bool | int | float | str | None
        parts = [x for v in values for x in (v if isinstance(v, tuple) else (v,))]
        self.is_fixed = all(isinstance(x, fixed) for x in parts)


class _Inputs(NamedTuple):
    """What an algorithm is given besides the gradients: scalars, and tensors by parameter."""

    scalars: dict[str, torch.Tensor]
    tensors: dict[str, dict[Any, torch.Tensor]]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.scalars.keys() | self.tensors.keys())


_NO_INPUTS = _Inputs({}, {})


class _Staged:
    """Stages of a group's parameters, with what they were made for."""

    def __init__(self, plan: _Plan, compiled: bool | None, params: list[Any]) -> None:
        assert plan.machine is not None
        self._machine, self._compiled, self._params = plan.machine, compiled, params
        self._kinds: dict[Any, list[Any]] = defaultdict(list)
        for p in params:
            self._kinds[WORKING_DTYPE[p.dtype], p.device].append(p)
        self._kernels = {
            (dtype, device): plan.machine.kernels(device, dtype, compiled)
            for dtype, device in self._kinds
        }
        self.stages: list[Stage] = []

    def holds(self, plan: _Plan, compiled: bool | None, params: list[Any]) -> bool:
        """Tell whether they can be used again."""
        return (
            self._machine is plan.machine
            and self._compiled == compiled
            and _are(params, self._params)
            and all(stage.holds() for stage in self.stages)
        )

    def run(
        self,
        plan: _Plan,
        states: Mapping[Any, dict[str, Any]],
        step_dtype: str | None,
        inputs: _Inputs,
    ) -> None:
        """Advance the parameters; a state that is empty starts."""
        if not self.stages:
            layout, program = plan.layout, self._machine.program
            start = functools.partial(_started, plan=plan)
            for (dtype, device), params in self._kinds.items():
                own, kernels = [states[p] for p in params], self._kernels[dtype, device]
                stage = Stage(
                    params, own, layout.names, layout.full, dtype, program, kernels, start
                )
                self.stages.append(stage)
        hyperparameters = plan.hyperparameters | inputs.scalars
        self._machine.run(self.stages, hyperparameters, inputs.tensors, step_dtype)


def _started(p: torch.Tensor, plan: _Plan) -> dict[str, torch.Tensor]:
    """Return the state of a parameter before its first step."""
    work = p.detach().to(WORKING_DTYPE[p.dtype])
    state = plan.algorithm.start(Leaves([work], EAGER), plan.hyperparameters)
    fields = (leaves.values[0] for leaves in _flatten(state))
    return dict(zip(plan.layout.names, map(_owned(work), fields), strict=True))


def _are(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Tell whether these are the same objects."""
    return len(found) == len(expected) and all(map(operator.is_, found, expected))


# Classes.

_CLASSES: dict[str, type[CoreOptimizer]] = {}


def _is_ours(algorithm: Algorithm) -> bool:
    return ALGORITHMS.get(algorithm.name) is algorithm


def _flags(algorithm: Algorithm) -> tuple[str, ...]:
    """Return the names of the flags that torch's class of this algorithm has."""
    table = FLAGS.get(algorithm.name, {}) if _is_ours(algorithm) else {}
    return tuple(dict.fromkeys(name for names in table for name in names))


def _names(algorithm: Algorithm) -> set[str]:
    """Return the names of an algorithm's hyperparameters as torch has them."""
    return set(join_tuples(algorithm.defaults()))


def _tuples(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return which of torch's tuples hold which of these hyperparameters: two at least."""
    known = set(names)
    found = {t: tuple(n for n in inside if n in known) for t, inside in _TUPLES.items()}
    return {t: inside for t, inside in found.items() if len(inside) > 1}


def join_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Replace ``b1``, ``b2`` by ``betas`` and so on, where the first of them stood."""
    joined = dict(values)
    for name, inside in _tuples(values).items():
        whole = tuple(values[n] for n in inside)
        renamed = {(name if n == inside[0] else n): v for n, v in joined.items()}
        joined = {n: v for n, v in renamed.items() if n not in inside} | {name: whole}
    return joined


def _split_tuples(algorithm: Algorithm, values: dict[str, Any]) -> dict[str, Any]:
    """Replace ``betas`` by ``b1``, ``b2`` and so on."""
    values = dict(values)
    for name, inside in _tuples(algorithm.defaults()).items():
        whole = values.pop(name, None)
        if whole is not None:
            if not isinstance(whole, tuple | list) or len(whole) != len(inside):
                raise TypeError(f"{name} = {whole!r}: allowed are tuples of {len(inside)} numbers")
            values |= dict(zip(inside, whole, strict=True))
    return values


def _signature(algorithm: Algorithm, dialect: str | None) -> inspect.Signature:
    """Return the arguments of the class: torch.optim's order, keywords from maximize on."""
    differing = algorithm.differing()
    parameter = inspect.Parameter
    values = join_tuples(algorithm.defaults(dialect))
    names = list(values)
    keywords = names.index("maximize") if "maximize" in names else len(names)
    tuples = _tuples(algorithm.defaults())

    def default(name: str) -> Any:
        return None if differing & {name, *tuples.get(name, ())} else values[name]

    rest = {n: default(n) for n in names[keywords:]} | dict.fromkeys(_flags(algorithm), False)
    extra = {"dialect": dialect, "compile": None, "step_dtype": None} | _ADAPTER
    rest |= {n: v for n, v in extra.items() if n not in values}
    positional = _POSITIONAL.get(algorithm.name, ()) if _is_ours(algorithm) else ()
    parameters: dict[str, Any] = {"params": parameter.empty}
    parameters |= {n: default(n) for n in names[:keywords]} | {n: rest.pop(n) for n in positional}
    kinds = dict.fromkeys(parameters, parameter.POSITIONAL_OR_KEYWORD)
    parameters |= rest
    return inspect.Signature(
        [
            parameter(n, kinds.get(n, parameter.KEYWORD_ONLY), default=v)
            for n, v in parameters.items()
        ]
    )


_MEANINGS = {
    "params": "the tensors to train, or dictionaries of groups, as for any optimizer of torch.",
    "dialect": "whose mathematics and defaults you get; an argument of ``None`` is the dialect's.",
    "compile": "run the step as one kernel for all parameters; ``None``: where one can be made, "
    "``False``: nowhere. The bits are the same.",
    "step_dtype": '``"float32"``: add the float32 step to a bfloat16 or float16 parameter with one '
    "rounding.",
    "amsgrad": "run AMSGrad instead, as torch does.",
    "decoupled_weight_decay": "run AdamW instead, as torch does.",
    "foreach": "accepted, without effect.",
    "capturable": "must be ``False``.",
    "differentiable": "must be ``False``.",
    "fused": "the same as ``compile``.",
}
"""What the arguments mean that are the classes' own."""
_ERRORS = """TypeError: for an argument of the wrong kind, or one that the algorithm does not have.
ValueError: for a value that is not allowed."""


def _documented(algorithm: Algorithm, signature: inspect.Signature) -> str | None:
    """Return the docstring of a class: the equations, and what each argument means."""
    source = inspect.getmodule(algorithm.update)
    if not _is_ours(algorithm) or source is None:
        return algorithm.update.__doc__
    text = inspect.getdoc(algorithm.update) or ""
    tuples = _tuples(algorithm.defaults())

    def told(name: str) -> str:
        if name in tuples:
            inside = (f"``{n}``, {meaning(text, n)}" for n in tuples[name])
            return "; ".join(part.rstrip(".") for part in inside) + "."
        return meaning(text, name) or _MEANINGS.get(name, "")

    meanings = {name: told(name) for name in signature.parameters}
    meanings["params"] = _MEANINGS["params"]  # not those of the formula
    return with_arguments(source.__doc__, meanings, Raises=_ERRORS)


def _make_class(algorithm: Algorithm) -> type[CoreOptimizer]:
    dialect = algorithm.default_dialect
    signature = _signature(algorithm, dialect)

    def __init__(self: CoreOptimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        for name in kwargs.keys() - signature.parameters.keys():
            own, how = _OTHERWISE.get(name, (_ELSEWHERE.get(name), ""))
            known = f"it is called {own!r} here" if own in signature.parameters else None
            known = f"{own!r} stands for it here, {how}" if known and how else known
            raise TypeError(
                f"{algorithm.title} has no argument {name!r}: "
                f"{known or nearest(name, signature.parameters)}"
            )
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        CoreOptimizer.__init__(self, **bound.arguments)

    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *signature.parameters.values(),
        ]
    )
    return type(
        algorithm.title,
        (CoreOptimizer,),
        {
            "__init__": __init__,
            "__doc__": _documented(algorithm, signature),
            "__module__": "optstudy_torch" if _is_ours(algorithm) else algorithm.update.__module__,
            "algorithm": algorithm,
        },
    )


def from_core(algorithm: str | Algorithm) -> type[CoreOptimizer]:
    """Return the ``torch.optim.Optimizer`` class of an algorithm.

    Its arguments are the algorithm's hyperparameters, several of them in one tuple where
    torch.optim has one (``b1`` and ``b2`` in ``betas``), and

    - ``dialect``: whose mathematics and defaults (see ``optstudy_core.defaults``);
    - ``compile``: run the step as one kernel for all parameters (the same bits; ``fused`` means
      this too): a loop in C on the CPU, made by the machine's C compiler (``cc``, or ``$CC``) and
      kept in ``$XDG_CACHE_HOME/optstudy`` or ``~/.cache/optstudy``; on a GPU one of Triton. A rule
      that depends on the shape of a parameter takes several loops on the CPU, none on a GPU.
      ``None``: where a kernel can be made; ``True``: the same, or an error; ``False``: NumPy's
      operations on the CPU, elsewhere torch's;
    - ``step_dtype``: ``"float32"`` adds the float32 step to a bfloat16 or float16 parameter
      with one rounding, instead of rounding the step first;
    - ``amsgrad`` and ``decoupled_weight_decay``, where torch.optim has them: run the algorithm
      that torch.optim runs;
    - ``foreach``: accepted, without effect; ``capturable``, ``differentiable``: refused.

    A group takes all of them too, under the same names. ``None`` is the value of its dialect.

    Args:
        algorithm: a name of ``optstudy_core.ALGORITHMS``, or an ``Algorithm`` of your own.

    Raises:
        ValueError: if the name is unknown.

    >>> from_core("adam").__name__
    'Adam'
    """
    algorithm = find(algorithm)
    if not _is_ours(algorithm):
        return _make_class(algorithm)
    if algorithm.name not in _CLASSES:
        _CLASSES[algorithm.name] = _make_class(algorithm)
    return _CLASSES[algorithm.name]
