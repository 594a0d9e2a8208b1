"""The leaves of a model by kind: labels for ``optax.multi_transform``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from optstudy_core.catalogue import kinds as core
from optstudy_core.catalogue.kinds import Kinds, Use

from ._models import children
from ._paths import leaf_name


class Split(core.Split):
    """The leaves of a model by kind; made by :func:`optstudy_jax.split`.

    ``print(split)`` shows the kind of each leaf.
    """

    def labels(self, labels: Iterable[str]) -> Callable[[Any], Any]:
        """Return the labels of the leaves, as a function of a tree with these leaves.

        Args:
            labels: kinds, and ``"rest"`` for all other kinds. A dictionary of transformations by
                label is accepted.

        Returns:
            the argument ``param_labels`` of ``optax.multi_transform``.

        Raises:
            ValueError: if a kind is unknown, or if a kind of the model has no label. The function
                raises it for a tree with other leaves.
        """
        found = self.labels_by_name(labels)

        def label(path: tuple[Any, ...], _: Any) -> str:
            name = leaf_name(path)
            if name not in found:
                raise ValueError(f"leaf {name!r}: allowed are those of the model that was split")
            return found[name]

        return lambda tree: jax.tree_util.tree_map_with_path(label, tree)


def split(model: Any, kinds: Kinds | None = None, *, wrt: Any = None) -> Split:
    """Return the leaves of a model by kind, from the types of its layers.

    The kinds are ``hidden`` (weights of linear layers, convolutions and attention), ``embedding``,
    ``head``, ``norm``, ``bias`` and ``other`` (leaves of layers of other types). The head is the
    weight of the last hidden layer that the model declares. There is no head if the number of
    outputs of that layer is the width of an embedding.

    Args:
        model: a model of ``flax.nnx``, or any tree of arrays. The leaves of a tree have the kinds
            in ``kinds``; all others are ``other``.
        kinds: kinds that override the types: a dictionary from patterns of names
            (``layers/0/kernel``) to kinds (also kinds of your own), where the first match decides;
            or a function of a name and a leaf. If it names a head, no other layer is a head.
        wrt: the trained variables of the model, as for ``nnx.Optimizer``; ``None``: ``nnx.Param``.

    Raises:
        ValueError: if a pattern matches no leaf.

    >>> import optax
    >>> from flax import nnx
    >>> import optstudy_jax
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(
    ...     nnx.Embed(9, 4, rngs=rngs), nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 9, rngs=rngs)
    ... )
    >>> print(split(model))
    hidden: 1 tensor, 32 elements
      layers/1/kernel     Linear  (4, 8)
    embedding: 1 tensor, 36 elements
      layers/0/embedding  Embed   (9, 4)
    head: 1 tensor, 72 elements
      layers/2/kernel     Linear  (8, 9)
    bias: 2 tensors, 17 elements
      layers/1/bias       Linear  (8,)
      layers/2/bias       Linear  (9,)
    >>> rules = {
    ...     "hidden": optstudy_jax.in_torch_layout(optstudy_jax.muon(0.02)),
    ...     "rest": optstudy_jax.adamw(3e-4),
    ... }
    >>> tx = optax.multi_transform(rules, split(model).labels(rules))
    """
    nnx = sys.modules.get("flax.nnx")  # a model of it has imported it
    if nnx is None or not isinstance(model, nnx.Module):
        leaves = jax.tree_util.tree_leaves_with_path(model)
        return Split([Use(leaf_name(path), (), "", leaf) for path, leaf in leaves], kinds)
    return Split(_uses(nnx, model, nnx.Param if wrt is None else wrt), kinds)


def _uses(nnx: Any, model: Any, wrt: Any) -> list[Use]:
    """Return the places of the variables of a model, in declared order."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.state(model, wrt))
    trained = {leaf_name(path): leaf for path, leaf in leaves}
    names = {
        id(node): "/".join(map(str, path))
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Variable)
    }
    seen: set[int] = set()

    def walk(node: Any) -> Iterator[Use]:
        if id(node) in seen:
            return
        seen.add(id(node))
        types = tuple(kind.__name__ for kind in type(node).__mro__)
        for attribute, child in children(node, nnx):
            if not isinstance(child, nnx.Variable):
                yield from walk(child)
            elif names[id(child)] in trained:
                name, outputs = names[id(child)], getattr(node, "out_features", None)
                yield Use(name, types, str(attribute), trained[name], outputs)

    return list(walk(model))
