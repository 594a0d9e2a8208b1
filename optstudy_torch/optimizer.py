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

# torch.compiler.disable would import the compiler (seconds) together with this module. The function
# that torch.optim uses imports it when it is needed.
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
    """Return a message that says which groups a failed step has reached.

    >>> _left("Adam", [0, 1, 3], 1, True)
    'Adam: step stopped: taken by groups [0], maybe in part by group 1, not by groups [3]'
    """
    part = f", maybe in part by group {groups[done]}" if begun else ""
    rest = groups[done + begun :]
    return f"{name}: step stopped: taken by groups {groups[:done]}{part}, not by groups {rest}"


class CoreOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that runs an algorithm of the core.

    Made by :func:`~optstudy_torch.from_core`. For each parameter ``p``, ``state[p]`` holds the
    fields of the state of the algorithm under their names (``m``, ``v``, ``t``, …). The fields are
    float32 for float32, bfloat16 and float16 parameters, and float64 for float64 parameters. No
    method writes to ``.grad``. A parameter with ``.grad`` ``None`` keeps its state.

    A parameter may be a ``DTensor``. Fields with its shape are then placed like the parameter, and
    other fields are plain tensors. All processes must call :meth:`step`, with gradients of the same
    parameters.

    Attributes:
        schedules: for each group, the schedules of its hyperparameters: functions of
            ``group["scheduled_steps"]``, by the names of the core. ``state_dict`` has the count;
            copies and pickles also have the functions.
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
        """Clear the caches between steps; the state stays."""
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
        then has the arguments and the defaults of the class of that algorithm, and takes
        ``compile``, ``step_dtype``, ``maximize``, ``capturable`` and ``differentiable`` from the
        optimizer. Norms over all parameters, in algorithms that have them, cover the parameters of
        the group.

        Args:
            param_group: a dictionary with ``"params"``, one or more tensors, and the values.

        Raises:
            TypeError, ValueError: for a value that is not allowed; the message has the number of
                the group.
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
        """Add steps to the count of the schedules, and set the values of the next step."""
        for group, schedules in zip(self.param_groups, self.schedules, strict=False):
            if schedules:
                group[COUNT] += steps
                group |= at(self._rule(group), group, schedules, group[COUNT])

    # The step.

    def step(self, closure: Callable[[], Any] | None = None, **inputs: Any) -> Any:
        """Advance every parameter that has a gradient.

        Args:
            closure: a function that evaluates the loss and the gradients, and returns the loss.
            inputs: the other inputs of the algorithm (``algorithm.inputs``). ``value`` is the loss,
                if no closure returns it. ``hessian`` is a list with a tensor like each parameter of
                all groups, in order, as from ``torch.autograd.grad`` (any value for groups with an
                algorithm that does not need it).

        Returns:
            the result of the closure, or ``None``.

        Raises:
            TypeError: for a sparse or complex gradient, or a missing or unknown input.
            ValueError: for a hyperparameter that is not allowed, a tensor of the wrong shape, or
                flat parameters (FSDP1, DeepSpeed) for a rule with sums or of rows and columns.
            RuntimeError: after :meth:`eval`.

        A step that is refused changes nothing. A step that fails before the first parameter is
        written changes no parameter and no state that has started. By then all values are checked,
        and kernels and memory for the states are there. Each group computes first and then writes.
        After a later error each group has taken the step or not, and a note of the error lists the
        groups of both kinds. The note also names a group that was being written, which may have
        taken the step in part. On the CPU, neither optstudy nor a lack of memory for an array
        raises an error while a group is written. On a GPU, torch may report an error later.

        Ctrl-C (SIGINT) in the main thread takes effect before the first parameter is written, or
        after all groups have taken the step; a second Ctrl-C does not wait. The same holds for
        other signals with a handler in Python, such as SIGTERM.

        If several threads call this method of one optimizer, their steps run one after the other.
        The closures, gradients and hooks of the threads are not ordered. Optimizers of different
        parameters may take steps at the same time.
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
        """Return the inputs of the algorithm: scalars, and tensors by parameter."""
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
        """Return whether this step must only create the states.

        torch.distributed.checkpoint takes such a step: without inputs, with rates and gradients of
        0. Some rules would divide by the norm of these gradients.
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
        """Create the states, with placeholders for the inputs."""
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
        """Check everything, allocate states, and return the groups that take the step."""
        states = list(self.state.values())
        if not are(states, self._seen):
            self._staged.clear()
        ready: list[Ready] = []
        for number, group in enumerate(self.param_groups):  # a refused step changes nothing
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
        """Write parameters and states; a note of an error says which groups are done."""
        done, begun = 0, False
        try:
            for _, plan, params, group, staged, inputs, entered in ready:
                if staged is not None:
                    write = staged.ready(plan, group["step_dtype"], entered.inputs(inputs))
                    begun = True
                    write()
                    del write  # it holds the results of the group
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
        """Return the plan for the values of a group; a new plan if a value is another object."""
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
        """Switch to the parameters for evaluation, if the rule keeps an average of the weights.

        Call this method before you evaluate or save the model; Accelerate and the Trainer of
        transformers call it. It works for Schedule-Free SGD and AdamW, and for rules with
        ``averaged``; for other rules it does nothing. Steps are refused until :meth:`train`.

        Under FSDP2, call ``model.reshard()`` after this method and after :meth:`train` if the model
        was just evaluated, because FSDP2 still holds the gathered parameters of the evaluation.

        Raises:
            ValueError: for Schedule-Free rules with β₁ = 0, which do not determine the average.
        """
        with self._in_turn:
            for group in self.param_groups:
                rule = selected(self._rule(group), group)
                bring_average(group["params"], self.state, *rule)

    def train(self) -> None:
        """Switch back to the parameters for training, bit for bit; does nothing without eval."""
        with self._in_turn:
            for group in self.param_groups:
                bring_back(group["params"], self.state)

    # Saved states.

    def state_dict(self) -> dict[str, Any]:
        """Return the state, like the optimizers of torch.

        Once one parameter has a state, the result has a state for all parameters that require a
        gradient. A parameter without a step has its initial state. So all processes save the same
        fields.
        """
        hook = self.register_state_dict_post_hook(complete_states, prepend=True)
        try:
            with self._in_turn:
                return super().state_dict()
        finally:
            hook.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state from ``state_dict``, in its dtypes (torch would cast them).

        The whole state is checked before any part is loaded.

        Args:
            state_dict: a state of the same algorithm, for parameters of the same shapes. A state of
                the class of torch.optim with this algorithm is also accepted (see
                :func:`optstudy_torch.to_torch_optim` for the other direction).

        Raises:
            ValueError: if the state belongs to another algorithm or to other parameters.
        """
        loaded: dict[str, Any] = {}
        if not isinstance(state_dict, dict):
            raise ValueError(
                f"state_dict of type {type(state_dict).__name__}: allowed are saved ones"
            )
        check_depth(state_dict)
        groups, _ = parts_of(state_dict)
        if groups and not any("algorithm" in group for group in groups):
            try:
                state_dict = from_torch_optim(self, state_dict)
            except TypeError as error:
                raise ValueError(f"state_dict without the name of an algorithm: {error}") from error

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

        # After the hooks that change the state to load, and before the hooks that use the result.
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
            self.defaults.pop("differentiable", None)  # torch adds it when it loads a state
        for group in self.param_groups:
            if self._rule(group) is self.algorithm:
                for name, value in self.defaults.items():
                    group.setdefault(name, value)
