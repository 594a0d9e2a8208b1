"""Local tensors of sharded parameters, for a step.

For a parameter that is a ``DTensor`` (FSDP2, HSDP, tensor parallel), a step uses the local tensors
of the parameter, the gradient and the fields of the state. The engine computes on plain tensors
only, and joins sums of a tensor with a :class:`~optstudy_torch.engine.joined_sums.Joint`. A rule
that runs as written depends on rows and columns, so it gets gathered whole tensors.

In ``optimizer.state`` a field with the shape of the parameter is a ``DTensor`` with its placements.
Other fields are plain tensors, the same in every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from optstudy_core import Algorithm

from ._plans import Inputs
from ._states import Layout
from ._states import started as of_plain
from ._tensors import is_shared
from .engine.joined_sums import Joint


def whole(x: Any) -> Any:
    """Return a gathered ``DTensor`` (all processes must call); other values unchanged."""
    return x.detach().full_tensor() if is_shared(x) else x


def placed(x: torch.Tensor, p: torch.Tensor) -> Any:
    """Return a field of the state in the form for its parameter.

    Args:
        x: a plain tensor, the same in every process, or a ``DTensor``.
        p: the parameter; a field of the same shape gets the same placements.
    """
    if not is_shared(p) or x.shape != p.shape or x.ndim == 0:
        return whole(x)
    mesh, placements = _where(p)
    if is_shared(x) and _where(x) == (mesh, placements):
        return x
    return distributed(whole(x), p)


def local(x: Any) -> Any:
    """Return the local part of a tensor."""
    return local_like(x, x) if is_shared(x) else x


def let_go_of_gathered(model: torch.nn.Module | None) -> None:
    """Let FSDP2 drop its gathered parameters.

    A forward pass without gradients, such as an evaluation, keeps them in the model in place of the
    parameters. The next pass uses them, even if the parameters have changed.
    """
    for module in [] if model is None else model.modules():
        if hasattr(module, "unshard") and hasattr(module, "reshard"):  # FSDPModule, not imported
            module.reshard()  # type: ignore[operator]


def _where(x: Any) -> tuple[Any, tuple[Any, ...]]:
    return x.device_mesh, tuple(x.placements)


def distributed(x: torch.Tensor, p: Any) -> Any:
    """Return a replicated tensor as a ``DTensor`` like ``p``, without communication."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh, placements = _where(p)
    everywhere = [Replicate() for _ in placements]
    whole = DTensor.from_local(x, mesh, everywhere, run_check=False)
    local = whole.redistribute(mesh, placements).to_local()
    return shared(local.clone(), p)  # a view would keep the whole tensor in memory


def shared(local: torch.Tensor, p: Any) -> Any:
    """Return a ``DTensor`` like ``p`` with a local part."""
    from torch.distributed.tensor import DTensor

    mesh, placements = _where(p)
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=p.shape, stride=p.stride()
    )


def local_like(x: Any, p: Any) -> torch.Tensor:
    """Return the local part of ``x`` with the placements of ``p``."""
    if _where(x) != _where(p):  # for example a Partial gradient
        x = x.detach().redistribute(*_where(p))
    own: Any = x.to_local()
    own = own.wait() if hasattr(own, "wait") else own
    plain: torch.Tensor = own.detach()
    return plain


class Part:
    """The local part of a parameter and of its state.

    Attributes:
        tensor: a tensor in the memory of the parameter, kept from step to step.
        joint: the distribution of the parameter over processes.
        state: plain tensors by name.
    """

    def __init__(self, p: Any) -> None:
        self.tensor = local_like(p, p)
        self.joint, self._placements = Joint.of(p), tuple(p.placements)
        self.state: dict[str, Any] = {}
        self._pairs: dict[str, tuple[Any, Any]] = {}  # in the state of the optimizer, and here

    def holds(self, p: Any) -> bool:
        """Return whether the parameter is still at the same address."""
        own, kept = local_like(p, p), self.tensor
        return (
            _where(p) == (self.joint.mesh, self._placements)
            and tuple(p.shape) == self.joint.shape
            and own.data_ptr() == kept.data_ptr()
            and (own.shape, own.stride()) == (kept.shape, kept.stride())
            and (own.dtype, own.device) == (kept.dtype, kept.device)
        )

    def knows(self, state: dict[str, Any]) -> bool:
        """Return whether the state of the optimizer is that from :meth:`close`."""
        pairs = self._pairs
        return state.keys() == pairs.keys() and all(x is pairs[n][0] for n, x in state.items())

    def open(self, p: Any, state: dict[str, Any]) -> None:
        """Read the state of the optimizer."""
        self.state.clear()
        for name, x in state.items():
            own = state[name] = placed(x, p)
            self.state[name] = local_like(own, p) if is_shared(own) else own
        self._pairs = {name: (x, self.state[name]) for name, x in state.items()}

    def close(self, p: Any, state: dict[str, Any]) -> None:
        """Write new values to the state of the optimizer."""
        for name, x in self.state.items():
            if name not in self._pairs or self._pairs[name][1] is not x:
                like = x.shape == self.tensor.shape and x.ndim
                state[name] = shared(x, p) if like else x
                self._pairs[name] = state[name], x


class Entered:
    """Parameters in the form for the engine.

    Attributes:
        params: plain tensors with gradients.
        states: the states of these tensors.
        joints: the distributions of tensors that are local parts.
    """

    def __init__(self, given: Sequence[Any], params: list[Any], states: Mapping[Any, Any]) -> None:
        self.params, self.states = params, states
        self.joints: dict[torch.Tensor, Joint] = {}
        self._given = given
        self._parts: list[tuple[Any, Part]] = []

    def inputs(self, inputs: Inputs) -> Inputs:
        """Return the inputs of the algorithm, by the plain tensors."""
        if not self._parts or not inputs.tensors:
            return inputs
        pairs = list(zip(self._given, self.params, strict=True))
        tensors = {
            name: {own: own_of[p] if own is p else local_like(own_of[p], p) for p, own in pairs}
            for name, own_of in inputs.tensors.items()
        }
        return Inputs(inputs.scalars, tensors)

    def knows(self, states: Mapping[Any, dict[str, Any]]) -> bool:
        """Return whether the states of the optimizer are those of the parts."""
        return all(part.knows(states[p]) for p, part in self._parts)

    def open(self, states: Mapping[Any, dict[str, Any]]) -> None:
        """Read the checked states of the optimizer."""
        for p, part in self._parts:
            part.open(p, states[p])

    def close(self, states: Mapping[Any, dict[str, Any]]) -> None:
        """Write new values to the states of the optimizer."""
        for p, part in self._parts:
            part.close(p, states[p])

    def written(self) -> None:
        """Tell autograd that the parameters have changed."""
        if self._parts:
            torch.autograd.graph.increment_version([p for p, _ in self._parts])


class Door:
    """The local parts of the parameters of an optimizer, kept from step to step."""

    def __init__(self) -> None:
        self._parts: dict[Any, Part] = {}  # no weak references: swap_tensors refuses them
        self._inside: list[Any] = []

    def enter(self, given: Sequence[Any], states: Mapping[Any, dict[str, Any]]) -> Entered:
        """Return parameters with gradients in the form for the engine.

        A gradient with other placements than its parameter is redistributed first.
        """
        if not any(map(is_shared, given)):
            return Entered(given, list(given), states)
        entered = Entered(given, [], {})
        own: dict[Any, dict[str, Any]] = {}
        for p in given:
            if not is_shared(p):
                entered.params.append(p)
                own[p] = states[p]
                continue
            part = self._parts.get(p)
            if part is None or not part.holds(p):
                part = self._parts[p] = Part(p)
            give(part.tensor, local_like(p.grad, p))
            self._inside.append(p)
            entered._parts.append((p, part))
            entered.params.append(part.tensor)
            entered.joints[part.tensor] = part.joint
            own[part.tensor] = part.state
        entered.states = own
        return entered

    def leave(self, groups: Sequence[dict[str, Any]]) -> None:
        """Release the gradients, and parameters that are no longer in the groups."""
        for p in self._inside:
            self._parts[p].tensor.grad = None
        if len(self._parts) > len(self._inside):
            present = {p for group in groups for p in group["params"]}
            self._parts = {p: part for p, part in self._parts.items() if p in present}
        self._inside.clear()


def give(tensor: torch.Tensor, grad: torch.Tensor) -> None:
    """Set the gradient of a tensor, of any dtype."""
    tensor.grad = None
    if grad.dtype != tensor.dtype:
        tensor.grad_dtype = grad.dtype
    tensor.grad = grad


def started(p: Any, algorithm: Algorithm, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a parameter before its first step, in the form for the optimizer."""
    layout = Layout.of(algorithm, hyperparameters)
    rule = algorithm, hyperparameters, layout
    if not (is_shared(p) and layout.flat):
        return {name: placed(x, p) for name, x in of_plain([whole(p)], *rule)[0].items()}
    part, found = Part(p), dict[str, Any]()
    part.state.update(of_plain([part.tensor], *rule, [part.joint])[0])
    part.close(p, found)
    return found
