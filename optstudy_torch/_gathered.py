"""Whole tensors of sharded parameters, for rules of rows and columns.

One communication for each group of processes sends the pieces of all tensors. The work of a rule of
matrices, such as Muon, is divided: each matrix goes to one process, which computes its step and
sends the pieces to the others. Other rules cost less than communication, so every process computes
all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from optstudy_core import Algorithm
from optstudy_core.arrays.blocks import ARGUMENTS, matrices_of

from ._meshes import distributed, give, local, local_like, placed, shared, whole
from ._plans import Inputs
from ._states import WORKING_DTYPE
from ._tensors import is_shared

_GATHERED = 1 << 26
"""The number of elements of parameters that a process gathers at once."""

_ALIGNED = 8
"""Bytes of the widest dtype; sent tensors begin at multiples."""

Like = tuple[tuple[int, ...], torch.dtype, torch.device]


class Cut(NamedTuple):
    """The sharding of a tensor over a group of processes, along one dimension."""

    group: Any
    dim: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, p: Any) -> Cut | None:
        """Return the sharding of a parameter; ``None`` if it is whole, or sharded several times."""
        from torch.distributed.tensor import Shard

        places = [(i, x) for i, x in enumerate(p.placements) if not x.is_replicate()]
        if len(places) != 1 or type(places[0][1]) is not Shard:
            return None
        (number, place) = places[0]
        return cls(p.device_mesh.get_group(number), place.dim, tuple(p.shape))

    def ends(self, rank: int, ranks: int) -> tuple[int, int]:
        """Return the begin and the end of the piece of a process, as in ``torch.chunk``."""
        size = self.shape[self.dim]
        length = -(-size // ranks)
        return min(rank * length, size), min((rank + 1) * length, size)

    def piece(self, x: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
        """Return the piece of a whole tensor that belongs to a process."""
        begin, end = self.ends(rank, ranks)
        return x.narrow(self.dim, begin, end - begin)

    def piece_shape(self, rank: int, ranks: int) -> tuple[int, ...]:
        """Return the shape of the piece of a process."""
        begin, end = self.ends(rank, ranks)
        return (*self.shape[: self.dim], end - begin, *self.shape[self.dim + 1 :])


# Division of work.


def cost_of(shape: tuple[int, ...], hyperparameters: Mapping[str, Any]) -> int | None:
    """Return the approximate number of products in a step; ``None`` without matrices.

    >>> cost_of((4, 2, 3), {"output_axis": None, "reduction_axis": None, "split": 2})
    48
    >>> cost_of((4,), {"output_axis": None, "reduction_axis": None, "split": None})
    4
    """
    given = {name: hyperparameters[name] for name in ARGUMENTS & hyperparameters.keys()}
    if not given:
        return None
    found = matrices_of(shape, **given)
    if found is None:
        return math.prod(shape)
    sizes = [(end - begin, found.columns) for _, begin, end in found.blocks]
    return sum(rows * columns * min(rows, columns) for rows, columns in sizes)


def owners(costs: Sequence[int], ranks: int) -> list[int]:
    """Return the process for each matrix: the most expensive first, to the least busy process.

    >>> owners([1, 5, 3, 3], 2)
    [0, 0, 1, 1]
    """
    loads, found = [0] * ranks, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        found[i] = min(range(ranks), key=loads.__getitem__)
        loads[found[i]] += costs[i]
    return found


# Communication.


def exchanged(
    outgoing: Sequence[Sequence[torch.Tensor]],
    incoming: Sequence[Sequence[Like]],
    group: Any,
    device: torch.device,
) -> list[list[torch.Tensor]]:
    """Send tensors of any dtype to each process of a group, in one communication.

    Args:
        outgoing: the tensors for each process.
        incoming: the expected tensors from each process.
        group: the group of processes, all of which must call.
        device: the device for communication of the group.

    Returns:
        the tensors from each process, as views of one buffer.
    """
    sent = [[part for x in own for part in _bytes(x, device)] for own in outgoing]
    sizes = [[_room(like) for like in own] for own in incoming]
    nothing = torch.empty(0, dtype=torch.uint8, device=device)
    received = nothing.new_empty(sum(map(sum, sizes)))
    torch.distributed.all_to_all_single(
        received,
        torch.cat([nothing, *(part for own in sent for part in own)]),
        [sum(own) for own in sizes],
        [sum(map(len, own)) for own in sent],
        group=group,
    )
    parts = iter(received.split([size for own in sizes for size in own]))
    return [[_tensor(next(parts), like) for like in own] for own in incoming]


def _bytes(x: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
    flat = x.detach().resolve_neg().to(device).reshape(-1)  # a column has another stride
    own = flat.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    return [own, own.new_zeros(-len(own) % _ALIGNED)]


def _room(like: Like) -> int:
    shape, dtype, _ = like
    return -(-math.prod(shape) * dtype.itemsize // _ALIGNED) * _ALIGNED


def _tensor(part: torch.Tensor, like: Like) -> torch.Tensor:
    shape, dtype, device = like
    return part[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape).to(device)


class Batch:
    """Parameters that are sharded over a group of processes.

    Args:
        params: the parameters.
        cuts: the sharding of each parameter.
        owner: for each parameter, the process that computes its step; ``None``: all processes.

    Attributes:
        params: the parameters.
    """

    def __init__(
        self, params: Sequence[Any], cuts: Mapping[Any, Cut], owner: Mapping[Any, int | None]
    ) -> None:
        self.params, self._cuts, self._owner = params, cuts, owner
        self._group = cuts[params[0]].group
        self._rank = torch.distributed.get_rank(self._group)
        self._ranks = torch.distributed.get_world_size(self._group)
        self._device = params[0].device

    def gather(self, tensors: Mapping[Any, Sequence[torch.Tensor]]) -> dict[Any, list[Any]]:
        """Return whole tensors of the parameters that this process computes.

        Args:
            tensors: for each parameter, the pieces of this process.
        """
        every = range(self._ranks)
        mine = self._of(self._rank)
        found = exchanged(
            [[x for p in self._of(rank) for x in tensors[p]] for rank in every],
            [
                [
                    (self._cuts[p].piece_shape(rank, self._ranks), x.dtype, x.device)
                    for p in mine
                    for x in tensors[p]
                ]
                for rank in every
            ],
            self._group,
            self._device,
        )
        pieces = zip(*found, strict=True)
        return {p: [torch.cat(next(pieces), self._cuts[p].dim) for _ in tensors[p]] for p in mine}

    def scatter(
        self, made: Mapping[Any, Sequence[torch.Tensor]], like: Mapping[Any, Sequence[Like]]
    ) -> dict[Any, list[torch.Tensor]]:
        """Return the results for this process: pieces of sharded tensors, and whole other tensors.

        Args:
            made: whole tensors for each parameter that this process computes.
            like: shape, dtype and device of the results of this process, for each parameter.
        """
        if all(self._owner[p] is None for p in self.params):
            return {p: [self._kept(p, x, self._rank) for x in made[p]] for p in self.params}
        every = range(self._ranks)
        found = exchanged(
            [
                [self._kept(p, x, rank) for p in self._of(self._rank) for x in made[p]]
                for rank in every
            ],
            [[x for p in self._of(rank) for x in like[p]] for rank in every],
            self._group,
            self._device,
        )
        parts = {rank: iter(own) for rank, own in zip(every, found, strict=True)}
        return {p: [next(parts[rank]) for _ in like[p]] for rank in every for p in self._of(rank)}

    def _of(self, rank: int) -> list[Any]:
        """Return the parameters that a process computes."""
        return [p for p in self.params if self._owner[p] in (None, rank)]

    def _kept(self, p: Any, x: torch.Tensor, rank: int) -> torch.Tensor:
        """Return the part of a tensor for a process."""
        cut = self._cuts[p]
        like = tuple(x.shape) == cut.shape and x.ndim
        return cut.piece(x, rank, self._ranks) if like else x


class Gathered:
    """Whole tensors of some parameters, with gradients and states.

    Args:
        given: parameters with gradients.
        batches: the sharded parameters.
        states: the state of each parameter.
        inputs: the inputs of the algorithm.

    Attributes:
        params: plain tensors of the parameters that this process computes.
        states: the states of these tensors.
        inputs: the inputs by these tensors.
    """

    def __init__(
        self,
        given: Sequence[Any],
        batches: Sequence[Batch],
        states: Mapping[Any, dict[str, Any]],
        inputs: Inputs,
    ) -> None:
        self._batches, self._states = batches, states
        self._whole: dict[Any, torch.Tensor] = {}
        self.states: dict[Any, dict[str, Any]] = {}
        self.inputs = Inputs(inputs.scalars, {name: {} for name in inputs.tensors})
        apart = {p for batch in batches for p in batch.params}
        for p in given:
            if p not in apart:
                fields = {n: whole(x) for n, x in states[p].items()} if is_shared(p) else states[p]
                own = {n: whole(tensors[p]) for n, tensors in inputs.tensors.items()}
                self._enter(p, whole(p), whole(p.grad), fields, own)
        for batch in batches:
            self._gather(batch, inputs.tensors)
        order = [p for p in given if p in self._whole]
        self.params = [self._whole[p] for p in order]

    def _enter(self, p: Any, full: Any, grad: Any, fields: Any, own: Mapping[str, Any]) -> None:
        full = full.detach() if is_shared(p) else p
        if full is not p:
            give(full, grad)
        self._whole[p], self.states[full] = full, fields
        for name, x in own.items():
            self.inputs.tensors[name][full] = x

    def _gather(self, batch: Batch, inputs: Mapping[str, Mapping[Any, Any]]) -> None:
        names, tensors = {}, {}
        for p in batch.params:
            state = self._states[p]
            state.update({name: placed(x, p) for name, x in state.items()})
            names[p] = sorted(name for name, x in state.items() if is_shared(x))
            fields = [state[name] for name in names[p]]
            own = [p, p.grad, *fields, *(given[p] for given in inputs.values())]
            tensors[p] = [local_like(x, p) for x in own]
        for p, (full, grad, *others) in batch.gather(tensors).items():
            count = len(names[p])
            state = self._states[p] | dict(zip(names[p], others[:count], strict=True))
            self._enter(p, full, grad, state, dict(zip(inputs, others[count:], strict=True)))

    def put_back(self) -> None:
        """Send to each process its part of the parameters and states."""
        apart = {p for batch in self._batches for p in batch.params}
        for p, full in self._whole.items():
            if is_shared(p) and p not in apart:
                p.copy_(distributed(full, p))
                own = {n: placed(x, p) for n, x in self.states[full].items()}
                self._states[p].update(own)
        for batch in self._batches:
            self._put_back(batch)

    def _put_back(self, batch: Batch) -> None:
        names = {p: sorted(self._states[p]) for p in batch.params}
        made = {
            p: [self._whole[p], *(self.states[self._whole[p]][n] for n in names[p])]
            for p in batch.params
            if p in self._whole
        }
        like = {
            p: [
                _kind(p, p.dtype),
                *(_kind(self._states[p][n], WORKING_DTYPE[p.dtype]) for n in names[p]),
            ]
            for p in batch.params
        }
        for p, (own, *fields) in batch.scatter(made, like).items():
            p.copy_(shared(own, p))
            state = self._states[p]
            for name, x in zip(names[p], fields, strict=True):
                # A view would keep the whole tensor in memory.
                state[name] = shared(x.clone(), p) if is_shared(state[name]) else x.clone()


def _kind(x: torch.Tensor, dtype: torch.dtype) -> Like:
    """Return shape, dtype and device of a gathered tensor; ``dtype``: that of non-counts."""
    return tuple(local(x).shape), dtype if x.is_floating_point() else x.dtype, x.device


def gathered(
    given: Sequence[Any],
    states: Mapping[Any, dict[str, Any]],
    inputs: Inputs,
    rule: tuple[Algorithm, Mapping[str, Any]],
) -> Iterator[Gathered]:
    """Yield parameters as whole tensors; some at a time, if the algorithm allows it.

    Args:
        given: parameters with gradients.
        states: the states of the parameters.
        inputs: the inputs of the algorithm.
        rule: the algorithm and its hyperparameters.
    """
    algorithm, hyperparameters = rule
    cuts = {p: cut for p in given if is_shared(p) and (cut := Cut.of(p))}
    ranks = {cut.group: torch.distributed.get_world_size(cut.group) for cut in cuts.values()}
    costs = {p: cost_of(cut.shape, hyperparameters) for p, cut in cuts.items()}
    apart = not algorithm.has_global_sums  # parameters are independent
    divided = apart and None not in costs.values()

    def made(some: Sequence[Any]) -> Gathered:
        batches = []
        for group, count in ranks.items():
            own = [p for p in some if p in cuts and cuts[p].group is group]
            found = owners([costs[p] or 0 for p in own], count) if divided else [None] * len(own)
            if own:
                batches.append(Batch(own, cuts, dict(zip(own, found, strict=True))))
        return Gathered(some, batches, states, inputs)

    size, some = 0.0, list[Any]()
    for p in given:
        own = p.numel() if is_shared(p) else 0
        own = own / ranks[cuts[p].group] if divided and p in cuts else own
        if apart and some and own and size + own > _GATHERED:
            yield made(some)
            size, some = 0, []
        size += own
        some.append(p)
    yield made(some)
