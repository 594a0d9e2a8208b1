"""Exact sums over tensors that are sharded over processes, all sums of a phase at once.

A sum is a few passes over its vectors: the largest magnitude, then integers. Each process passes
over its part, and a reduction joins the parts: of maxima, or of integers modulo 2⁶⁴, exact in any
order. So the result has the same bits as in one process.

A function of the core that needs such a pass stops there, and is called again after the processes
have joined the pass. So one reduction joins the passes of many sums.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from optstudy_core.arrays.bits import from_bits, size, to_bits
from optstudy_core.arrays.exact_sum import Library, Parts, Terms, Vector

from .errors import NoKernelsError
from .exact_sums_in_c import EACH, IN_C, kind_of_length

Function = Callable[..., Any]
"""``vector_…`` of the geometry of the core."""


class Joint(NamedTuple):
    """The distribution of a tensor over processes.

    Attributes:
        mesh: the mesh of processes.
        sharded: mesh dimensions over which the tensor is sharded; over others it is replicated.
        shape: the shape of the whole tensor.
    """

    mesh: Any
    sharded: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, x: Any) -> Joint:
        """Return the distribution of a ``DTensor``."""
        places = enumerate(x.placements)
        sharded = tuple(i for i, p in places if not (p.is_replicate() or p.is_partial()))
        return cls(x.device_mesh, sharded, tuple(x.shape))


class Share(NamedTuple):
    """The local part of a tensor; the order of its elements does not matter."""

    tensor: torch.Tensor
    joint: Joint

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return self.joint.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensor."""
        return self.tensor.dtype


def share_of(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return a leaf of each vector, with shares instead of equally sharded ``DTensor``s."""
    first = row[0]
    if not any(hasattr(x, "placements") for x in row):
        return tuple(row)
    from torch.distributed.tensor import Replicate

    for x in row:
        if not hasattr(x, "placements"):
            raise ValueError(
                f"trees differ: a sharded tensor and one of {type(x).__name__}; allowed are two "
                "sharded ones or two others"
            )
    mesh = first.device_mesh
    placements = [Replicate() if p.is_partial() else p for p in first.placements]
    alike = [x.detach().redistribute(mesh, placements) for x in row]
    joint = Joint.of(alike[0])
    return tuple(Share(x.to_local(), joint) for x in alike)


class _Waiting(Exception):  # noqa: N818
    """A function needs a pass that the processes have not joined yet."""


class _Joined(Library):
    """Passes of another library over the local parts, joined over processes.

    Args:
        library: the library for plain tensors.
    """

    def __init__(self, library: Library) -> None:
        self._library, self.xp = library, library.xp
        self._known: list[list[Any]] = []
        self._next = 0
        self.operation = ""
        self.asked: list[tuple[Joint | None, list[Any]]] = []

    def call(self, function: Function, vectors: Sequence[Vector]) -> Any:
        """Return the result of a function of vectors.

        Raises:
            _Waiting: if the function needs the joined ``asked``, see :meth:`tell`.
        """
        self._next = 0
        return function(self, *vectors)

    def tell(self, joined: Sequence[torch.Tensor]) -> None:
        """Store the joined ``asked`` of all processes: vectors of int64 or of float64."""
        reduce = torch.amax if self.operation == "max" else torch.sum
        values = reduce(torch.stack(list(joined)), 0)
        self._known.append(self._values(from_bits(values) if self.operation == "max" else values))

    def _values(self, joined: torch.Tensor) -> list[Any]:
        """Return a vector as scalars."""
        return list(joined.cpu().numpy() if self.xp is np else joined.unbind())

    def _keeps(self, leaf: torch.Tensor) -> bool:
        """Return whether a pass includes a leaf; other processes may have elements of it."""
        return size(leaf) > 0

    def largest(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        def own(vectors: Sequence[Vector]) -> list[Any]:
            return [x for pair in self._library.largest(terms, vectors) for x in pair]

        def ends(*block: Any) -> Iterator[Any]:
            for term in terms(*block):
                yield from (term, term)

        found = self._pass("max", own, ends, vectors)
        return list(zip(found[::2], found[1::2], strict=True))

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        return self._pass(
            "sum", lambda own: self._library.totals(parts, own, after), parts, vectors
        )

    def plain(self, terms: Terms, vectors: Sequence[Vector]) -> list[Any]:
        return self._pass("plain", lambda own: self._library.plain(terms, own), terms, vectors)

    def wrap(self, scalar: Any) -> Any:
        return self._library.wrap(scalar)

    def unwrap(self, scalar: Any) -> Any:
        return self._library.unwrap(scalar)

    def _pass(
        self,
        operation: str,
        own: Callable[[Sequence[Vector]], list[Any]],
        each: Callable[..., Any],
        vectors: Sequence[Vector],
    ) -> list[Any]:
        """Return the values of a pass, joined over all processes.

        Args:
            operation: the operation that joins values.
            own: a function that returns the values of the local parts.
            each: a function of a block that yields an item for each value.
            vectors: vectors of one shape.
        """
        self._next += 1
        if self._next <= len(self._known):
            return self._known[self._next - 1]
        rows: dict[Any, list[tuple[torch.Tensor, ...]]] = {}
        joints: dict[Any, Joint | None] = {}
        for row in zip(*vectors, strict=True):
            first = row[0]
            joint = first.joint if isinstance(first, Share) and first.joint.sharded else None
            key = joint and (joint.mesh, joint.sharded)
            local = tuple(x.tensor if isinstance(x, Share) else x for x in row)
            joints[key] = joint
            if self._keeps(local[0]):
                rows.setdefault(key, []).append(local)
        self.operation, self.asked = operation, []
        for key, joint in joints.items():
            found = rows.get(key)
            if found is None:
                nothing = (self._nothing(vector[0]) for vector in vectors)
                self.asked.append((joint, [0 for _ in each(*nothing)]))
            else:
                self.asked.append(
                    (joint, own([list(column) for column in zip(*found, strict=True)]))
                )
        raise _Waiting

    def _nothing(self, like: Any) -> Any:
        tensor = like.tensor if isinstance(like, Share) else like
        nothing = tensor.new_zeros(0, dtype=torch.float64)
        return nothing.numpy() if self.xp is np else nothing


class _JoinedEach(_Joined):
    """The same for a separate sum of each leaf: a scalar is an array with one element each.

    Args:
        leaves: the number of leaves.
    """

    def __init__(self, leaves: int) -> None:
        super().__init__(EACH)
        self._leaves = leaves

    def count(self, vector: Vector) -> int:
        return EACH.count(vector)

    def sizes(self, vector: Vector) -> Any:
        return EACH.sizes(vector)

    def totals(self, parts: Parts, vectors: Sequence[Vector], after: Sequence[Any]) -> list[Any]:
        sums = self._pass("sum", lambda own: EACH.sums(parts, own), parts, vectors)
        return EACH.padded(sums, parts, vectors)

    def _keeps(self, leaf: torch.Tensor) -> bool:
        return True

    def _values(self, joined: torch.Tensor) -> list[Any]:
        return list(joined.numpy().reshape(self._leaves, -1).T)


class Job(NamedTuple):
    """A sum: a function of vectors, and the library for plain tensors."""

    function: Function
    vectors: Sequence[Vector]
    exact: bool
    library: Library

    @property
    def kind(self) -> Any:
        """A key that is equal for jobs of one call, and the same on all processes."""
        leaves = [x for vector in self.vectors for x in vector]
        if not self.exact or len(leaves) > len(self.vectors) or not isinstance(leaves[0], Share):
            return None
        mesh, sharded, _ = leaves[0].joint
        dtypes = tuple(x.dtype for x in leaves)
        return self.function, mesh, sharded, kind_of_length(leaves[0]), dtypes


class _Call:
    """Jobs that are computed together.

    Args:
        jobs: the jobs by number.
        each: whether one pass goes over all leaves.
    """

    def __init__(self, jobs: dict[int, Job], each: bool) -> None:
        self.jobs, first = jobs, next(iter(jobs.values()))
        self._function, self._exact = first.function, first.exact
        columns = zip(*(job.vectors for job in jobs.values()), strict=True)
        self._vectors = [[x for vector in column for x in vector] for column in columns]
        self.library = _JoinedEach(len(jobs)) if each else _Joined(first.library)
        self._each = each

    def run(self) -> dict[int, Any]:
        """Return the results of the functions, by the number of the job.

        Raises:
            _Waiting: if the processes must join what ``library`` asks for.
            NoKernelsError: if the jobs cannot be computed together.
        """
        function = functools.partial(self._function, exact=self._exact)
        found = self.library.call(function, self._vectors)
        if not self._each:
            found = [found]
        elif isinstance(found, tuple):  # of arrays with one element for each job
            found = zip(*found, strict=True)
        return dict(zip(self.jobs, found, strict=True))


def joined_sums(jobs: Sequence[Job]) -> list[Any]:
    """Return the results of functions of vectors with tensors and shares as leaves.

    All processes of the meshes must call this function, with the same functions and whole tensors.
    The communication does not depend on how each process computes.
    """
    alike: dict[Any, dict[int, Job]] = {}
    for i, job in enumerate(jobs):
        kind = job.kind
        alike.setdefault(i if kind is None else kind, {})[i] = job
    waiting: list[_Call] = []
    for own in alike.values():
        each = len(own) > 1 and all(job.library is IN_C for job in own.values())
        parts = [own] if each else [{i: job} for i, job in own.items()]
        waiting += [_Call(part, each) for part in parts]
    found: dict[int, Any] = {}
    while waiting:
        left: list[_Call] = []
        for call in waiting:
            left += _left_of(call, found)
        if left:
            _join([call.library for call in left], _device_of(jobs))
        waiting = left
    return [found[i] for i in range(len(jobs))]


def _left_of(call: _Call, found: dict[int, Any]) -> list[_Call]:
    """Run a call; return it if it waits, or separate calls if the jobs need them."""
    try:
        found |= call.run()
    except _Waiting:
        return [call]
    except NoKernelsError:
        alone = [_Call({i: job}, False) for i, job in call.jobs.items()]
        return [left for one in alone for left in _left_of(one, found)]
    return []


def _device_of(jobs: Sequence[Job]) -> torch.device:
    leaves = [x for job in jobs for vector in job.vectors for x in vector]
    device: torch.device = next(x.tensor for x in leaves if isinstance(x, Share)).device
    return device


def _join(libraries: Sequence[_Joined], device: torch.device) -> None:
    """Join all requests, in one reduction for each operation and group of processes."""
    asked: dict[Any, list[torch.Tensor]] = {}
    where: list[list[tuple[Any, int]]] = []
    for library in libraries:
        own = []
        for joint, values in library.asked:
            key = library.operation, joint and (joint.mesh, joint.sharded)
            vectors = asked.setdefault(key, [])
            own.append((key, len(vectors)))
            vectors.append(_vector(values, library.operation, device))
        where.append(own)
    joined = {key: _reduced(key, vectors) for key, vectors in asked.items()}
    for library, own in zip(libraries, where, strict=True):
        library.tell([joined[key][i] for key, i in own])


def _vector(values: list[Any], operation: str, device: torch.device) -> torch.Tensor:
    """Return scalars as a vector for a reduction, maxima as integers.

    The bits of positive numbers, then NaN, have the order of the numbers. A maximum of floats loses
    NaN in some communication libraries.
    """
    dtype = torch.int64 if operation == "sum" else torch.float64
    if any(isinstance(x, torch.Tensor) for x in values):
        vector = torch.stack([torch.as_tensor(x, dtype=dtype, device=device) for x in values])
    else:
        # Leaf by leaf, if there are several.
        vector = torch.as_tensor(np.array(values).T.reshape(-1), dtype=dtype, device=device)
    if operation == "max":
        vector = to_bits(torch.where(vector < 0, 0.0, vector).abs())
    return vector


def _reduced(key: Any, vectors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    operation, group = key
    if group is None:  # every process has all elements
        return vectors
    from torch import distributed

    mesh, sharded = group
    whole = torch.cat(list(vectors))
    reduction = distributed.ReduceOp.MAX if operation == "max" else distributed.ReduceOp.SUM
    for dim in sharded:
        distributed.all_reduce(whole, reduction, mesh.get_group(dim))
    return whole.split([len(x) for x in vectors])
