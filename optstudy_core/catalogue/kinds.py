"""Kinds of parameters, from the types of their layers, to choose an algorithm for each kind.

Muon is for hidden matrices; embeddings, the head, norms and biases do better with AdamW. The type
of its layer, in PyTorch and in Flax, gives the kind of a parameter:

- ``hidden``: weights of linear layers, convolutions and attention;
- ``embedding``: tables of embeddings, also if the head uses the same table;
- ``head``: the weight of the last hidden layer, in the order in which the model declares its
  layers. If the number of outputs of that layer is the width of an embedding, there is no such
  layer, and the table of the embedding is the head;
- ``norm``: scales and shifts of layers with a name that ends in ``Norm``;
- ``bias``: parameters with ``bias`` in their name;
- ``other``: all other parameters, such as those of layers of your own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from optstudy_core.arrays.numbers import nearest

KINDS = ("hidden", "embedding", "head", "norm", "bias", "other")
"""The kinds of parameters, by the type of the layer."""

REST = "rest"
"""The label of all other kinds."""

FROZEN = "frozen"
"""The kind of parameters that require no gradient, and are in no group."""

HIDDEN = frozenset(
    {
        *("Linear", "Bilinear", "_ConvNd", "MultiheadAttention"),  # of torch.nn
        *("LinearGeneral", "Einsum", "Conv", "ConvTranspose"),  # of flax.nnx, and its Linear
    }
)
"""Names of classes with weights between hidden layers."""

EMBEDDINGS = frozenset({"Embedding", "EmbeddingBag", "Embed"})
"""Names of classes with a table as weight."""

_NORM = re.compile(r"Norm(\dd)?$")

_STRONGEST = ("embedding", "head", "norm", "bias", "other", "hidden")
"""The order of preference for a parameter with several kinds: hidden only as the last choice."""

Kinds = Mapping[str, str] | Callable[[str, Any], str | None]
"""Kinds by patterns of names (``"blocks.*.router.weight"``), where the first match decides; or a
function of a name and a parameter. Without a result, the type of the layer decides."""


class Use(NamedTuple):
    """A place of a parameter in a model.

    Attributes:
        name: the name of the parameter; a parameter with several places has one name.
        types: the names of the classes of its layer, from special to general; empty if not known.
        attribute: the name of the parameter in the layer.
        value: the parameter, with ``shape``.
        outputs: the number of outputs of the layer, if the layer has it as an attribute.
        trained: whether the parameter requires a gradient.
    """

    name: str
    types: tuple[str, ...]
    attribute: str
    value: Any
    outputs: Any = None
    trained: bool = True


class Part(NamedTuple):
    """A parameter of a split.

    Attributes:
        name: the name of the parameter.
        layer: the type of its layer.
        shape: its shape.
        kind: one of :data:`KINDS`, or a kind of your own.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    kind: str


class Split:
    """The parameters of a model by kind; ``print`` shows a table.

    Attributes:
        parts: a :class:`Part` for each parameter, in the order of the model.
    """

    def __init__(self, uses: Sequence[Use], kinds: Kinds | None = None) -> None:
        said = _said(uses, kinds)
        found: dict[str, list[str]] = {}
        head = None if "head" in said.values() else _head(uses)
        for i, use in enumerate(uses):
            found.setdefault(use.name, []).append("head" if i == head else _kind(use))
        first = {use.name: use for use in reversed(uses)}
        self.parts: list[Part] = []
        for name, several in found.items():
            use = first[name]
            kind = said.get(name) or min(several, key=_STRONGEST.index)
            kind = kind if use.trained else FROZEN
            layer = use.types[0] if use.types else ""
            self.parts.append(Part(name, layer, tuple(use.value.shape), kind))

    def labels_by_name(self, labels: Iterable[str]) -> dict[str, str]:
        """Return the label of each parameter that requires a gradient.

        Args:
            labels: kinds, and ``"rest"`` for all other kinds.

        Raises:
            ValueError: if a label is no kind, or a kind of the model has no label.
        """
        labels = list(labels)
        own = dict.fromkeys(part.kind for part in self.parts if part.kind != FROZEN)
        for label in labels:
            if label not in {*KINDS, *own, REST}:
                raise ValueError(
                    f"{label!r}: {nearest(label, [*{**own, **dict.fromkeys(KINDS)}, REST])}"
                )
        left = [kind for kind in own if kind not in labels]
        if left and REST not in labels:
            raise ValueError(
                f"no values for {', '.join(left)}: pass values for every kind of the model, or "
                f"{REST!r} for all other kinds"
            )
        return {
            part.name: part.kind if part.kind in labels else REST
            for part in self.parts
            if part.kind != FROZEN
        }

    def __str__(self) -> str:
        """Return the table."""
        lines = []
        kinds = dict.fromkeys((*KINDS, *(part.kind for part in self.parts)))
        width = max((len(part.name) for part in self.parts), default=0)
        wide = max((len(part.layer) for part in self.parts), default=0)
        for kind in sorted(kinds, key=lambda kind: kind == FROZEN):  # at the end
            own = [part for part in self.parts if part.kind == kind]
            if own:
                count = sum(math.prod(part.shape) for part in own)
                tensors = f"{len(own)} tensor{'s' * (len(own) != 1)}"
                lines.append(f"{kind}: {tensors}, {count:,} elements")
                lines += [f"  {p.name:<{width}}  {p.layer:<{wide}}  {p.shape}" for p in own]
        return "\n".join(lines)


def _said(uses: Sequence[Use], kinds: Kinds | None) -> dict[str, str]:
    """Return the kinds that the user has given."""
    if kinds is None:
        return {}
    if callable(kinds):
        own = {use.name: kinds(use.name, use.value) for use in uses}
        return {name: kind for name, kind in own.items() if kind is not None}
    for pattern in kinds:
        if not any(fnmatchcase(use.name, pattern) for use in uses):
            names = list(dict.fromkeys(use.name for use in uses))
            raise ValueError(f"kinds: {pattern!r} matches no parameter; {nearest(pattern, names)}")
    found = {}
    for use in uses:
        fitting = (kind for pattern, kind in kinds.items() if fnmatchcase(use.name, pattern))
        kind = next(fitting, None)
        if kind is not None:
            found[use.name] = kind
    return found


def _kind(use: Use) -> str:
    """Return the kind of a parameter in one of its places."""
    if any(_NORM.search(name) for name in use.types):
        return "norm"
    if EMBEDDINGS.intersection(use.types):
        return "embedding"
    if "bias" in use.attribute:
        return "bias"
    return "hidden" if HIDDEN.intersection(use.types) and len(use.value.shape) > 1 else "other"


def _head(uses: Sequence[Use]) -> int | None:
    """Return the number of the place that is the head, if there is one."""
    last = next((i for i in reversed(range(len(uses))) if _kind(uses[i]) == "hidden"), None)
    widths = {use.value.shape[-1] for use in uses if _kind(use) == "embedding"}
    return last if last is not None and uses[last].outputs not in widths else None
