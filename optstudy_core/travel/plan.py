"""The plan for loading a training of a file into a model, made before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from optstudy_core.catalogue.algorithm import Algorithm
from optstudy_core.catalogue.table import ALGORITHMS

from .file import Group, Training
from .layers import Names, Outline, Pair, match, notes
from .moves import Array, Fields, Move, check_dtypes, check_rule, moves


class Plan(NamedTuple):
    """The sources in the file of all parameters and buffers of a model.

    Attributes:
        training: the training in the file.
        outline: the outline of the model.
        pairs: pairs of the same layers in the file and in the model.
        moved: the parts of each parameter and buffer of the model.
        groups: the groups of the trained parameters of the model, in the order of the groups.
    """

    training: Training
    outline: Outline
    pairs: list[Pair]
    moved: Mapping[str, Move]
    groups: Mapping[str, Group]

    @classmethod
    def of(cls, training: Training, outline: Outline, names: Names | None) -> Plan:
        """Return the plan.

        Args:
            training: the training in a file.
            outline: the outline of the model to load it into.
            names: names of layers, given by hand.

        Raises:
            ValueError: if the training does not fit the model.
        """
        pairs = match(training.outline, outline, names)
        moved = moves(pairs, training.outline, outline)
        check_dtypes(moved, training.outline, outline)
        left = [name for name in outline.parameters if name not in moved]
        if left:
            raise ValueError(f"parameters {', '.join(left)} of the model are not in the file")
        return cls(training, outline, pairs, moved, _groups(training, moved))

    def arrays(self) -> dict[str, Array]:
        """Return parameters and buffers of the model by name, in the order of axes of PyTorch."""
        return {name: x.gathered(self.training.arrays) for name, x in self.moved.items()}

    def state(self, name: str) -> Fields | None:
        """Return the state of a parameter of the model; ``None`` if it has taken no step."""
        return self.moved[name].state(self.training.states, self.training.outline.shapes)

    def notes(self, proved: bool) -> list[str]:
        """Return the differences between file and model, one sentence for each."""
        return notes(self.pairs, self.training.outline, self.outline, proved)

    @property
    def names(self) -> dict[str, str]:
        """The names of the layers of the model, by the names in the file."""
        return {x.theirs.name: x.ours.name for x in self.pairs}


def _groups(training: Training, moved: Mapping[str, Move]) -> dict[str, Group]:
    by_name = {name: group for group in training.groups for name in group.parameters}
    for group in training.groups:
        algorithm = ALGORITHMS.get(group.algorithm)
        own = {n: m for n, m in moved.items() if {*m.sources} & {*group.parameters}}
        if algorithm is None:  # a rule of the user's own may have sums
            check_rule(own, group.algorithm, has_sums=True, has_axes=False)
        else:
            check_rule(own, algorithm.name, algorithm.has_sums, algorithm.leafwise)
    groups = {}
    for name, move in moved.items():
        found = {id(by_name[s]): by_name[s] for s in move.sources if s in by_name}
        if not found:
            continue
        first, *rest = found.values()
        if any(x[1:] != first[1:] for x in rest) or not {*move.sources} <= by_name.keys():
            raise ValueError(
                f"{name}: {', '.join(move.sources)} are trained with different hyperparameters"
            )
        groups[name] = first
    order = {id(group): i for i, group in enumerate(training.groups)}
    return dict(sorted(groups.items(), key=lambda entry: order[id(entry[1])]))


def known_algorithm(group: Group) -> Algorithm:
    """Return the algorithm of a group, for an optimizer with the values of the group.

    Raises:
        ValueError: if the file lacks the algorithm or hyperparameters.
    """
    algorithm = ALGORITHMS.get(group.algorithm)
    if algorithm is None:
        raise ValueError(f"algorithm {group.algorithm!r} is unknown: pass an optimizer that has it")
    if group.hyperparameters.keys() != algorithm.defaults().keys():
        raise ValueError(
            f"groups lack hyperparameters of {algorithm.name}: pass an optimizer that has them"
        )
    return algorithm
