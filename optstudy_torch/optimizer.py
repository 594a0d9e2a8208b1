"""torch optimizers around the pure functions of the core."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch

from optstudy_core import Algorithm
from optstudy_core.catalogue.algorithm import INPUTS

from ._arguments import (
    ADAPTER,
    ON_TENSORS,
    arguments_of,
    compiled_of,
    completed,
    group_of,
    rule_of,
    selected,
)
from ._callers import check_all_here, is_asked_by_checkpoint
from ._evaluated import bring_average, bring_back, check_trained
from ._flat import check_flat, has_matrices
from ._gathered import gathered
from ._interrupts import Uninterrupted
from ._meshes import Door, Entered, local, placed, started, whole
from ._on_tensors import OnTensors, begun, check_recorded, check_step, is_asked
from ._plans import NO_INPUTS, Inputs, Plan, Staged, are
from ._saved import check_depth, check_saved, complete_states, parts_of, with_tuples
from ._scheduled import COUNT, Schedules, apart, at, own_values, steps_of
from ._shapes import Step
from ._states import Layout, check_fields, tensor_of
from ._tensors import (
    check_dtypes,
    check_gradient,
    check_gradients,
    check_kind,
    check_memory,
    check_once,
)
from .torch_optim import from_torch_optim

# torch.compiler.disable would import the compiler (seconds) as soon as this module is imported;
# what torch.optim itself uses imports it when it is needed.
_outside_compilation: Any = getattr(torch, "_disable_dynamo", torch.compiler.disable)


class Ready(NamedTuple):
    """A group whose parameters can take a step."""

    number: int
    plan: Plan
    params: list[Any]
    group: dict[str, Any]
    staged: Staged | None
    inputs: Inputs
    entered: Entered


def _left(name: str, groups: list[int], done: int, begun: bool) -> str:
    """Say how a step that failed has left the groups.

    >>> _left("Adam", [0, 1, 3], 1, True)
    'Adam: step stopped: taken by groups [0], maybe in part by group 1, not by groups [3]'
    """
    part = f", maybe in part by group {groups[done]}" if begun else ""
    rest = groups[done + begun :]
    return f"{name}: step stopped: taken by groups {groups[:done]}{part}, not by groups {rest}"


class CoreOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that runs an algorithm of the core.

    Made by :func:`~optstudy_torch.from_core`. Per parameter, ``state[p]`` holds the fields of the
    algorithm's state under their names (``m``, ``v``, ``t``, …), in float32 for float32, bfloat16
    and float16 parameters and in float64 for float64. ``.grad`` is never written to. A parameter
    whose ``.grad`` is ``None`` keeps its state.

    A parameter may be a ``DTensor``: fields with its shape are placed like it, others are plain
    tensors. Then all processes have to call :meth:`step`, with gradients of the same
    parameters.

    Attributes:
        schedules: for each group, what takes the place of its hyperparameters: functions of
            ``group["scheduled_steps"]``, by the core's names. ``state_dict`` has the count, and
            copies and pickles have the functions as well.
    """

    algorithm: ClassVar[Algorithm]

    def __init__(self, params: Any, **arguments: Any) -> None:
        arguments, self._class_schedules = apart(self.algorithm, arguments)
        self.schedules: list[Schedules] = []
        completed(self.algorithm, arguments)  # refused here, even if each group has its own
        # None stays: in a group it is the value of the group's dialect.
        defaults = {k: v for k, v in arguments.items() if k not in ADAPTER}
        defaults |= {k: True for k in ON_TENSORS if arguments.get(k)}
        compiled = compiled_of(arguments.get("compile"), arguments.get("fused"))
        self._forget()
        super().__init__(params, defaults | {"compile": compiled})

    def _forget(self) -> None:
        """Let go of what is kept from step to step, beside the state."""
        self._plans: dict[int, Plan] = {}
        self._staged: dict[int, Staged] = {}
        self._seen: list[dict[str, Any]] = []
        self._door = Door()
        self._had_matrices: dict[int, bool] = {}
        if not hasattr(self, "_in_turn"):  # no part of the state: copies have one of their own
            self._in_turn = threading.RLock()

    # Hyperparameters and groups.

    def _rule(self, group: dict[str, Any]) -> Algorithm:
        return rule_of(group, self.algorithm)

    def _rules(self) -> list[Algorithm]:
        """Return the algorithms of the groups, each once."""
        return list(dict.fromkeys(map(self._rule, self.param_groups)))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own values for any argument of the class.

        A group may name its algorithm, ``{"params": …, "algorithm": "adamw", "lr": 3e-4}``. It
        then takes the arguments of that algorithm's class, with the defaults of that class; of
        this class's own values it has ``compile``, ``step_dtype`` and ``maximize``. Norms over all
        parameters, in the algorithms that have them, are over the parameters of the group.

        Args:
            param_group: a dictionary with ``"params"``, one or more tensors, and those values.

        Raises:
            TypeError, ValueError: for a value that is not allowed; the message has the group's
                number.
        """
        schedules: Schedules = {}
        if isinstance(param_group, dict):
            try:
                rule = rule_of(param_group, self.algorithm)
                given = own_values(rule, param_group)
                param_group, schedules = apart(rule, param_group)
                if rule is self.algorithm:
                    inherited = self._class_schedules.items()
                    schedules = {k: f for k, f in inherited if k not in given} | schedules
                if schedules:
                    param_group.setdefault(COUNT, 0)
                param_group = group_of(param_group, self.algorithm, self.defaults)
            except (TypeError, ValueError, NotImplementedError) as error:
                raise type(error)(f"group {len(self.param_groups)}: {error}") from error
        asked = [k for k in ON_TENSORS if isinstance(param_group, dict) and k in param_group]
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        added = self.defaults.keys() & {*ON_TENSORS} - {*asked}
        for name in added | self.defaults.keys() - arguments_of(self._rule(group)):
            del group[name]  # torch's class has added it
        try:
            check_once(group["params"])
            check_dtypes(group["params"])
            algorithm, _ = selected(self._rule(group), group)
            if algorithm.check_shape is not None:
                for p in group["params"]:
                    algorithm.check_shape(tuple(p.shape), group["dialect"])
            check_flat(group["params"], False, algorithm)
            check_all_here(algorithm)
        except (TypeError, ValueError):
            del self.param_groups[-1]
            raise
        self._had_matrices[len(self.param_groups) - 1] = has_matrices(group["params"])
        self.schedules.append(schedules)
        self._set_scheduled()

    def _set_scheduled(self, steps: int = 0) -> None:
        """Let schedules set the hyperparameters of the next step, after so many more steps."""
        for group, schedules in zip(self.param_groups, self.schedules, strict=False):
            if schedules:
                group[COUNT] += steps
                group |= at(self._rule(group), group, schedules, group[COUNT])

    # The step.

    def step(self, closure: Callable[[], Any] | None = None, **inputs: Any) -> Any:
        """Advance every parameter that has a gradient.

        Args:
            closure: evaluates the loss and the gradients again, and returns the loss.
            inputs: what the algorithm asks for besides (``algorithm.inputs``): ``value``, the loss,
                where no closure returns it; ``hessian``, a tensor like each of the parameters of
                all groups, in their order, as ``torch.autograd.grad`` returns them (anything for
                those of a group whose algorithm does not ask for it).

        Returns:
            what the closure returned, else ``None``.

        Raises:
            TypeError: for a sparse or complex gradient, or an input that is missing or unknown.
            ValueError: for a hyperparameter that is not allowed, a tensor of the wrong shape, or
                flat parameters (FSDP1, DeepSpeed) for a rule with sums or of rows and columns.
            RuntimeError: after :meth:`eval`.

        A step that is refused changes nothing. So does one that fails before the first parameter is
        written: by then all values are checked, kernels and memory for the states are there (a
        state that has started is as before). An error after that leaves each group as before or
        as after, and has a note that names those that have taken the step, and those that have not.
        Each group computes first, and writes then; the note names a group that was being written,
        which may have taken the step in part. On the CPU no error of ours, and no lack of memory
        for an array, comes in between. On a GPU an error may be told later, by torch.

        Ctrl-C (SIGINT) in the main thread either comes before the first parameter is written, or
        waits until all groups have taken the step; a second one does not wait. So do other signals
        for which the program has a function of Python, such as SIGTERM.

        Of several threads that call it on one optimizer, one takes its step after the other. What
        they do besides (the closure, gradients, hooks) is not in this order. Optimizers with
        parameters of their own may take steps at the same time.
        """
        loss, rules = None, self._rules()
        asked = set().union(*(algorithm.inputs for algorithm in rules))
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if "value" in asked:
                inputs = {"value": loss} | inputs
        inputs = {name: x for name, x in inputs.items() if x is not None}
        if closure is None and self._is_priming(inputs):
            self._prime()
            return None
        for algorithm in rules:
            own = [name for name in inputs if name in algorithm.inputs or name not in asked]
            algorithm.check_inputs(own, ": call step(closure), or step(value=loss)")
        self._advance(self._inputs(inputs))
        return loss

    def _inputs(self, given: dict[str, Any]) -> Inputs:
        """Return what the algorithm is given: scalars, and tensors by parameter."""
        if not given:
            return NO_INPUTS
        params = [(p, group) for group in self.param_groups for p in group["params"]]
        scalars: dict[str, torch.Tensor] = {}
        tensors: dict[str, dict[Any, torch.Tensor]] = {}
        for name, x in given.items():
            if not INPUTS[name]:
                scalar = (
                    whole(x.detach())
                    if isinstance(x, torch.Tensor)
                    else torch.tensor(float(x), device="cpu")
                )
                if scalar.numel() != 1:
                    raise ValueError(f"{name} of shape {tuple(x.shape)}: allowed are scalars")
                scalars[name] = scalar.reshape(())
                continue
            if len(x) != len(params):
                raise ValueError(f"{name} of length {len(x)}: allowed is {len(params)}")
            tensors[name] = {}
            for (p, group), own in zip(params, x, strict=True):
                if name in self._rule(group).inputs:
                    tensors[name][p] = own
                    if p.grad is not None:
                        check_gradient(p, own, name)
                        check_kind(name, own, p)
        return Inputs(scalars, tensors)

    def _is_priming(self, inputs: dict[str, Any]) -> bool:
        """Tell whether a first step has to do nothing but let states begin.

        So torch.distributed.checkpoint calls it, which knows no inputs: rates and gradients are 0.
        Some rules would divide by the norm of such gradients.
        """
        rates = [g["lr"] for g in self.param_groups if "lr" in g]
        tensors = [x for x in rates if isinstance(x, torch.Tensor)]
        if any(self.state.values()) or any(not torch.is_tensor(x) and x != 0 for x in rates):
            return False
        rules = self._rules()
        required = {name for rule in rules for name, needed in rule.inputs.items() if needed}
        if not (required - inputs.keys() or is_asked_by_checkpoint()) or any(map(bool, tensors)):
            return False
        params = [p for group in self.param_groups for p in group["params"]]
        grads = [p.grad for p in params if p.grad is not None]
        return bool(grads) and not any(bool(local(g).any()) for g in grads)

    @torch.no_grad()
    def _prime(self) -> None:
        """Let states begin, with stand-ins for the inputs."""
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        asked = {name for rule in self._rules() for name in rule.inputs}
        stand_ins = {name: grads if INPUTS[name] else 0.0 for name in asked}
        with self._in_turn:
            try:
                self._ready(self._inputs(stand_ins))
            finally:
                self._door.leave(self.param_groups)

    @_outside_compilation
    @torch.no_grad()
    def _advance(self, inputs: Inputs) -> None:
        with self._in_turn:
            try:
                ready = self._ready(inputs)
                with Uninterrupted():
                    self._write(ready)
                    self._set_scheduled(steps=1)
            finally:
                self._door.leave(self.param_groups)

    def _ready(self, inputs: Inputs) -> list[Ready]:
        """Refuse what can be refused, make room for states, and return what the step does."""
        states = list(self.state.values())
        if not are(states, self._seen):
            self._staged.clear()
        ready: list[Ready] = []
        for number, group in enumerate(self.param_groups):  # a step that is refused changes nothing
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            check_memory(params, group)
            check_gradients(params)
            own_inputs = inputs.of(self._rule(group))
            plan = self._plan(number, group, own_inputs)
            if plan.layout.averages:
                check_trained(type(self).__name__, params, self.state)
            entered = Entered(params, [], {})
            on_tensors = is_asked(group)
            check_recorded(group, params, self.state if plan.layout.names else {})
            if on_tensors:
                check_step(group, plan, params, own_inputs)
            elif plan.machine is not None:
                entered = self._door.enter(params, self.state)
            staged = self._staged.get(number)
            held = staged is not None and entered.knows(self.state)
            if not (held and staged and staged.holds(plan, group["compile"], entered.params)):
                self._staged.pop(number, None)
                staged = None
                had_matrices = self._had_matrices.get(number, False)
                check_flat(group["params"], had_matrices, plan.algorithm)
                for p in params:
                    if self.state[p]:
                        plan.complete(p, self.state[p], partial(started, p, *plan.rule))
                        what = f"the state of {plan.algorithm.name}"
                        check_fields(what, self.state[p], plan.layout, p)
                if plan.machine is not None and not on_tensors:
                    entered.open(self.state)
                    staged = Staged(plan, group["compile"], entered.params)
            ready.append(Ready(number, plan, params, group, staged, own_inputs, entered))
            if staged is not None:
                self._staged[number] = staged
        for own in ready:
            if own.staged is not None:
                own.staged.prepare(own.plan, own.entered.states, own.entered.joints)
                own.entered.close(self.state)
                continue
            for p in own.params:
                if own.plan.layout.names and not self.state[p]:
                    through = own.group.get("differentiable")
                    first = begun(p, own.plan) if through else started(p, *own.plan.rule)
                    self.state[p].update(first)
        self._seen = list(self.state.values())
        return ready

    def _write(self, ready: list[Ready]) -> None:
        """Advance parameters and states; an error says which groups it left behind."""
        done, begun = 0, False
        try:
            for _, plan, params, group, staged, inputs, entered in ready:
                if staged is not None:
                    write = staged.ready(plan, group["step_dtype"], entered.inputs(inputs))
                    begun = True
                    write()
                    del write  # which holds what the group has computed
                    entered.written()
                elif is_asked(group):
                    alone = OnTensors(params, self.state, group, plan, inputs)
                    alone.compute()
                    begun = True
                    alone.write()
                else:
                    for some in gathered(params, self.state, inputs, plan.rule):
                        step = Step(some.params, some.states, group, plan, some.inputs)
                        step.compute()
                        begun = True
                        step.write()
                        some.put_back()
                done, begun = done + 1, False
        except BaseException as error:
            self._staged.clear()
            error.add_note(_left(type(self).__name__, [r.number for r in ready], done, begun))
            raise

    def _plan(self, number: int, group: dict[str, Any], inputs: Inputs) -> Plan:
        """Return what a group's values ask for, made again if one of them is another object."""
        values = [value for name, value in group.items() if name != "params"]
        plan = self._plans.get(number)
        if plan is None or not are(values, plan.values) or plan.inputs != inputs.names:
            chosen = selected(self._rule(group), group)
            plan = self._plans[number] = Plan(values, *chosen, inputs.names)
        if not plan.is_fixed:
            del self._plans[number]
        return plan

    # The average of the weights.

    def eval(self) -> None:
        """Put the average of the weights into the parameters, where the rule keeps one.

        To be called before an evaluation or a saving of the model, as by Accelerate and the
        Trainer of transformers, with Schedule-Free SGD and AdamW and rules that are ``averaged``;
        for others nothing happens. Until :meth:`train` there is no step.

        Under FSDP2 call ``model.reshard()`` after it and after :meth:`train`, if the model was just
        evaluated: what FSDP2 has gathered then are the parameters of before.

        Raises:
            ValueError: for Schedule-Free rules with β₁ = 0, whose average cannot be found.
        """
        with self._in_turn:
            for group in self.param_groups:
                rule = selected(self._rule(group), group)
                bring_average(group["params"], self.state, *rule)

    def train(self) -> None:
        """Put the parameters back that are trained, bit for bit; nothing without :meth:`eval`."""
        with self._in_turn:
            for group in self.param_groups:
                bring_back(group["params"], self.state)

    # Saved states.

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as torch's optimizers do.

        Once a parameter has a state, all have one that want a gradient: one that had none yet has
        the state from which it will begin. So all processes save the same fields.
        """
        hook = self.register_state_dict_post_hook(complete_states, prepend=True)
        try:
            with self._in_turn:
                return super().state_dict()
        finally:
            hook.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state saved by ``state_dict``; its dtypes stay (torch alone would cast them).

        All of it is checked before any of it is loaded.

        Args:
            state_dict: that state, of the same algorithm and parameters of the same shapes; also
                one of torch.optim's class with this algorithm (see
                :func:`optstudy_torch.to_torch_optim` for the way back).

        Raises:
            ValueError: if the state is of another algorithm or other parameters.
        """
        loaded: dict[str, Any] = {}
        if not isinstance(state_dict, dict):
            raise ValueError(
                f"state_dict of type {type(state_dict).__name__}: allowed are saved ones"
            )
        check_depth(state_dict)
        groups, _ = parts_of(state_dict)
        if groups and not any("algorithm" in group for group in groups):
            state_dict = from_torch_optim(self, state_dict)

        def check(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
            state_dict = with_tuples(state_dict)
            check_saved(self, state_dict)
            loaded.update(state_dict)
            return state_dict

        def keep_dtypes(_: Any) -> None:
            for saved, group in zip(loaded["param_groups"], self.param_groups, strict=True):
                layout = Layout.of(*selected(self._rule(group), group))
                for i, p in zip(saved["params"], group["params"], strict=True):
                    for name, value in loaded["state"].get(i, {}).items():
                        # A copy, as torch makes one, but in the working dtype.
                        own = layout.converted(name, tensor_of(value).detach(), p)
                        self.state[p][name] = placed(own, p)

        # After the hooks that change what is loaded, and before those that look at the result.
        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(keep_dtypes, prepend=True)
        try:
            with self._in_turn:
                super().load_state_dict(state_dict)
                for group, schedules in zip(self.param_groups, self.schedules, strict=False):
                    if schedules and COUNT not in group:
                        group[COUNT] = steps_of(self._rule(group), group, self.state)
                self._set_scheduled()
        finally:
            before.remove()
            after.remove()

    def __getstate__(self) -> dict[str, Any]:
        own = {"schedules": self.schedules, "_class_schedules": self._class_schedules}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("schedules", [{} for _ in self.param_groups])
        self.__dict__.setdefault("_class_schedules", {})
        self._forget()
        if not self.defaults.get("differentiable"):
            self.defaults.pop("differentiable", None)  # torch adds it, where a state is loaded only
        for group in self.param_groups:
            if self._rule(group) is self.algorithm:
                for name, value in self.defaults.items():
                    group.setdefault(name, value)
