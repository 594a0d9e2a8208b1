"""Groups in the file of a training, and the transformations for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optstudy_core import ALGORITHMS, Algorithm
from optstudy_core.travel.file import Group
from optstudy_core.travel.plan import known_algorithm

from ._fields import named
from ._models import Model
from ._paths import leaf_name
from .functions import from_core
from .layout import in_torch_layout
from .schedules import at
from .transform import Part


def parts_of(tx: Any, params: Any) -> list[Part] | None:
    """Return the parts of a transformation; ``None`` if it does not tell them."""
    return tx.update.parts(params) if hasattr(tx.update, "parts") else None


def group_of(part: Part, names: Sequence[str], count: int, tx: Any) -> Group:
    """Return a part as a group of the file, which has the order of axes of PyTorch.

    Args:
        part: an element of the result of :func:`parts_of`.
        names: the names of all leaves.
        count: the step count for schedules.
        tx: the transformation.
    """
    values = dict(part.hyperparameters)
    values |= {k: at(f, jnp.asarray(count, jnp.int32)) for k, f in part.schedules.items()}
    if _has_outputs_last(part, tx):
        usual = part.algorithm.defaults(part.dialect)["output_axis"]
        values["output_axis"] = None if usual is None else 0
    plain = {k: v.item() if hasattr(v, "item") else v for k, v in values.items()}
    return Group(tuple(names[i] for i in part.leaves), part.algorithm.name, part.dialect, plain)


def _has_outputs_last(part: Part, tx: Any) -> bool:
    """Return whether the last axis has the outputs, and all others the inputs, as in Flax.

    In PyTorch the first axis has the outputs (``None``, if that is the default). Then the steps of
    Muon and AdaMuon do not depend on the order of the columns. Shampoo and SOAP keep a matrix in
    the order of the columns, and NorMuon adds columns in that order.
    """
    values = part.hyperparameters
    last = values.get("output_axis") in (-1, (-1,)) and values.get("reduction_axis") is None
    return (
        part.algorithm.name in ("adamuon", "muon") and last and not hasattr(tx.update, "torch_axes")
    )


def prefix_of(made: Model, params: Any) -> str:
    """Return the prefix of the names of parameters in the model."""
    name = next((name for name, _ in named(params)), "")
    return "" if name in made.arrays else "params/"


def in_layout(tx: Any, algorithm: Algorithm) -> bool:
    """Return whether the state of a rule of rows and columns has the order of axes of PyTorch."""
    return algorithm.leafwise and hasattr(tx.update, "torch_axes")


def check_layout(
    algorithm: Algorithm, tx: Any, made: Model, names: Sequence[str], params: Any
) -> None:
    """Refuse a rule of rows and columns that gets a kernel in another order than in PyTorch.

    Args:
        algorithm: the rule.
        tx: the transformation.
        made: the model.
        names: the names of the parameters of the rule.
        params: all trained parameters.

    Raises:
        ValueError: if the order differs; the message names the parameter.
    """
    if not algorithm.leafwise:
        return
    axes_of = getattr(tx.update, "torch_axes", lambda name, leaf: None)
    prefix, order = prefix_of(made, params), [name for name, _ in named(params)]
    own = [part for part in parts_of(tx, params) or () if _has_outputs_last(part, tx)]
    last = {order[i] for part in own for i in part.leaves}
    for name in names:
        turn = made.turns[prefix + name]
        axes = axes_of(name, made.arrays[prefix + name])
        if name in last:
            fits = turn.axes is not None or len(turn.shape) < 2
        else:
            fits = (axes and tuple(axes)) == turn.axes
        if turn.flat != turn.shape or not fits:
            raise ValueError(
                f"{name}: {algorithm.name} depends on rows and columns, which differ in PyTorch. "
                "Put in_torch_layout around the whole optimizer."
            )


def made_of(groups: Mapping[str, Group], made: Model, prefix: str) -> Any:
    """Return a transformation with the groups of a file."""
    labels: dict[str, str] = {}
    kinds: dict[Any, str] = {}
    txs: dict[str, Any] = {}
    own: dict[str, Group] = {}
    for name, group in groups.items():
        label = kinds.setdefault(id(group), str(len(kinds)))
        labels[name.removeprefix(prefix)] = label
        if label not in txs:
            txs[label], own[label] = _one(group), group
    axes = None
    if any(ALGORITHMS[g.algorithm].leafwise for g in own.values()):
        for name in groups:
            if made.turns[name].flat != made.turns[name].shape:
                raise ValueError(
                    f"{name}: {groups[name].algorithm} depends on rows and columns, and {name} has "
                    "other axes in PyTorch: expected is an elementwise rule"
                )
        axes = {name: made.turns[prefix + name].axes for name in labels}
    if len(txs) == 1 and len(labels) == len(made.outline.parameters):
        tx = txs["0"]
    else:
        tx = _split(txs, labels)
    return tx if axes is None else in_torch_layout(tx, lambda name, leaf: axes.get(name))


def _one(group: Group) -> Any:
    algorithm = known_algorithm(group)
    values = dict(group.hyperparameters)
    if "lr" in values:
        values["learning_rate"] = values.pop("lr")
    try:
        return from_core(algorithm)(**values, dialect=group.dialect)
    except TypeError as error:
        raise ValueError(f"groups: {error}") from error


def _split(txs: Mapping[str, Any], labels: Mapping[str, str]) -> Any:
    """Return a transformation of several, each for its leaves; other leaves do not change."""

    def labelled(params: Any) -> Any:
        return jax.tree.map_with_path(lambda path, _: labels.get(leaf_name(path), "-"), params)

    tx = optax.multi_transform({**txs, "-": optax.set_to_zero()}, labelled)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return tx.update(updates, state, params, **extra)

    def parts(params: Any) -> list[Part]:
        names = [name for name, _ in named(params)]
        found = []
        for label, one in txs.items():
            (part,) = one.update.parts(params)
            leaves = [i for i, name in enumerate(names) if labels.get(name) == label]
            found.append(part._replace(leaves=leaves))
        return found

    update.parts = parts  # type: ignore[attr-defined]
    return optax.GradientTransformationExtraArgs(tx.init, update)


def compared(tx: Any, params: Any, groups: Mapping[str, Group], prefix: str) -> list[str]:
    """Refuse another dialect; return the differing hyperparameters, one sentence for each."""
    parts = parts_of(tx, params)
    if parts is None:
        return ["the hyperparameters of the optimizer are not known: compare them with the file"]
    names = [prefix + name for name, _ in named(params)]
    told: dict[str, None] = {}
    for part in parts:
        mine = group_of(part, names, 0, tx)
        for name in mine.parameters:
            group = groups.get(name)
            if group is None:
                raise ValueError(f"optimizer trains {name}, which the file does not train")
            if len({group.dialect, mine.dialect} - {None}) > 1:
                raise ValueError(
                    f"dialect {group.dialect!r} of {name}; expected is {mine.dialect!r}"
                )
            for key, value in group.hyperparameters.items():
                own = mine.hyperparameters.get(key)
                if own != value and key not in part.schedules:
                    told[f"{key} = {own}, in the file {value} ({name})"] = None
    return list(told)
