"""The parameters of a model by kind: groups of several algorithms in one optimizer."""

from __future__ import annotations

from typing import Any

import torch

from optstudy_core.catalogue import kinds as core
from optstudy_core.catalogue.kinds import Kinds, Use


class Split(core.Split):
    """The parameters of a model by kind; made by :func:`optstudy_torch.split`.

    ``print(split)`` shows the kind of each parameter.
    """

    def __init__(self, model: torch.nn.Module, kinds: Kinds | None) -> None:
        uses = _uses(model)
        super().__init__(uses, kinds)
        self._params = {use.name: use.value for use in uses}

    def groups(self, **values: dict[str, Any]) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer.

        Args:
            values: for each kind, the values of its group; ``rest`` stands for all other kinds.

        Returns:
            one group for each argument, in order, with the parameters that require a gradient.
            Groups without parameters are left out.

        Raises:
            ValueError: if a kind is unknown, or if a kind of the model has no values.
        """
        labels = self.labels_by_name(values)
        found = {
            label: [self._params[name] for name, own in labels.items() if own == label]
            for label in values
        }
        return [{"params": found[k], **given} for k, given in values.items() if found[k]]


def split(model: torch.nn.Module, kinds: Kinds | None = None) -> Split:
    """Return the parameters of a model by kind, from the types of its layers.

    The kinds are ``hidden`` (weights of linear layers, convolutions and attention), ``embedding``,
    ``head``, ``norm``, ``bias`` and ``other`` (parameters of layers of other types). The head is
    the weight of the last hidden layer that the model declares. There is no head if the number of
    outputs of that layer is the width of an embedding. A weight that is both an embedding and a
    head is an embedding. Parameters that require no gradient are ``frozen``, and in no group.

    Args:
        model: a model of PyTorch; it may be wrapped.
        kinds: kinds that override the types: a dictionary from patterns of names to kinds (also
            kinds of your own), ``{"blocks.*.router.weight": "other"}``, where the first match
            decides; or a function of a name and a parameter. If it names a head, no other layer is
            a head.

    Raises:
        ValueError: if a pattern matches no parameter.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 9))
    >>> print(split(model))
    hidden: 1 tensor, 32 elements
      1.weight  Linear     (8, 4)
    embedding: 1 tensor, 36 elements
      0.weight  Embedding  (9, 4)
    head: 1 tensor, 72 elements
      3.weight  Linear     (9, 8)
    norm: 2 tensors, 16 elements
      2.weight  LayerNorm  (8,)
      2.bias    LayerNorm  (8,)
    bias: 2 tensors, 17 elements
      1.bias    Linear     (8,)
      3.bias    Linear     (9,)
    >>> from optstudy_torch import Muon
    >>> rest = {"algorithm": "adamw", "lr": 3e-4}
    >>> optimizer = Muon(split(model).groups(hidden={"lr": 0.02}, rest=rest))
    """
    return Split(model, kinds)


def _uses(model: torch.nn.Module) -> list[Use]:
    names: dict[int, str] = {}
    uses = []
    for prefix, layer in model.named_modules():
        types = tuple(kind.__name__ for kind in type(layer).__mro__)
        outputs = getattr(layer, "out_features", getattr(layer, "out_channels", None))
        for attribute, p in layer.named_parameters(recurse=False, remove_duplicate=False):
            name = names.setdefault(id(p), f"{prefix}.{attribute}" if prefix else attribute)
            uses.append(Use(name, types, attribute, p, outputs, p.requires_grad))
    return uses
