"""Groups of the file of a training, and the transformations that have them."""

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
    """Return what a transformation tells of its leaves; ``None``: nothing."""
    return tx.update.parts(params) if hasattr(tx.update, "parts") else None


def group_of(part: Part, names: Sequence[str], count: int, tx: Any) -> Group:
    """Return leaves that are trained alike as a group of the file, whose arrays are PyTorch's.

    Args:
        part: of :func:`parts_of`.
        names: of all leaves.
        count: of steps, where a schedule is.
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
    """Tell whether the last axis is the outputs, and all others the inputs, as in Flax.

    In PyTorch's order of axes the outputs are the first, which ``None`` says where that is usual.
    The step of Muon and of AdaMuon is the same then, in whatever order the columns are. Shampoo and
    SOAP keep a matrix of the columns, which has their order, and NorMuon adds them in that order.
    """
    values = part.hyperparameters
    last = values.get("output_axis") in (-1, (-1,)) and values.get("reduction_axis") is None
    return (
        part.algorithm.name in ("adamuon", "muon") and last and not hasattr(tx.update, "torch_axes")
    )


def prefix_of(made: Model, params: Any) -> str:
    """Return what stands before the names of the optimizer's parameters in those of the model."""
    name = next((name for name, _ in named(params)), "")
    return "" if name in made.arrays else "params/"


def in_layout(tx: Any, algorithm: Algorithm) -> bool:
    """Tell whether the state of a rule of rows and columns is that of arrays as in PyTorch."""
    return algorithm.leafwise and hasattr(tx.update, "torch_axes")


def check_layout(
    algorithm: Algorithm, tx: Any, made: Model, names: Sequence[str], params: Any
) -> None:
    """Refuse a rule of rows and columns to which a kernel is not as in PyTorch.

    Args:
        algorithm: the rule.
        tx: the transformation.
        made: the model.
        names: of the parameters of the rule.
        params: all that are trained.

    Raises:
        ValueError: naming the parameter.
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
                f"{name}: {algorithm.name} looks at rows and columns, which are others in PyTorch: "
                "expected is the optimizer in in_torch_layout, outside of everything else"
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
                    f"{name}: {groups[name].algorithm} looks at rows and columns, and this has "
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
    """Return a transformation of several, each of its leaves; the other leaves stand still."""

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
    """Refuse another dialect; return the hyperparameters that differ, a sentence each."""
    parts = parts_of(tx, params)
    if parts is None:
        return ["hyperparameters of the optimizer are not known here: compare those of the file"]
    names = [prefix + name for name, _ in named(params)]
    told: dict[str, None] = {}
    for part in parts:
        mine = group_of(part, names, 0, tx)
        for name in mine.parameters:
            group = groups.get(name)
            if group is None:
                raise ValueError(f"optimizer: {name} is not trained in the file")
            if len({group.dialect, mine.dialect} - {None}) > 1:
                raise ValueError(
                    f"dialect {group.dialect!r} of {name}; expected is {mine.dialect!r}"
                )
            for key, value in group.hyperparameters.items():
                own = mine.hyperparameters.get(key)
                if own != value and key not in part.schedules:
                    told[f"{key} = {own}, in the file {value} ({name})"] = None
    return list(told)
