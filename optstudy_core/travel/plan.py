"""How a training of a file goes into a model: what is done before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from optstudy_core.catalogue.algorithm import Algorithm
from optstudy_core.catalogue.table import ALGORITHMS

from .file import Group, Training
from .layers import Names, Outline, Pair, match, notes
from .moves import Array, Fields, Move, check_dtypes, check_rule, moves


class Plan(NamedTuple):
    """What goes where.

    Attributes:
        training: of the file.
        outline: of the model.
        pairs: the layers that are the same.
        moved: what each parameter and buffer of the model is made of.
        groups: of its trained parameters, in the order of the groups.
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
            training: of a file.
            outline: of the model that it goes into.
            names: of layers, given by hand.

        Raises:
            ValueError: if the training does not fit the model.
        """
        pairs = match(training.outline, outline, names)
        moved = moves(pairs, training.outline, outline)
        check_dtypes(moved, training.outline, outline)
        left = [name for name in outline.parameters if name not in moved]
        if left:
            raise ValueError(f"parameters {', '.join(left)} of the model are missing")
        return cls(training, outline, pairs, moved, _groups(training, moved))

    def arrays(self) -> dict[str, Array]:
        """Return parameters and buffers of the model by name, in PyTorch's order of axes."""
        return {name: x.gathered(self.training.arrays) for name, x in self.moved.items()}

    def state(self, name: str) -> Fields | None:
        """Return the state of a parameter of the model; ``None`` if it has taken no step."""
        return self.moved[name].state(self.training.states, self.training.outline.shapes)

    def notes(self, proved: bool) -> list[str]:
        """Return what file and model have of their own, a sentence each."""
        return notes(self.pairs, self.training.outline, self.outline, proved)

    @property
    def names(self) -> dict[str, str]:
        """The layers of the model by those of the file."""
        return {x.theirs.name: x.ours.name for x in self.pairs}


def _groups(training: Training, moved: Mapping[str, Move]) -> dict[str, Group]:
    by_name = {name: group for group in training.groups for name in group.parameters}
    for group in training.groups:
        algorithm = ALGORITHMS.get(group.algorithm)
        own = {n: m for n, m in moved.items() if {*m.sources} & {*group.parameters}}
        unknown = algorithm is None  # a rule of the user's own may have sums
        has_sums = unknown or algorithm.has_sums
        check_rule(own, group.algorithm, has_sums, not unknown and algorithm.leafwise)
    groups = {}
    for name, move in moved.items():
        found = {id(by_name[s]): by_name[s] for s in move.sources if s in by_name}
        if not found:
            continue
        first, *rest = found.values()
        if any(x[1:] != first[1:] for x in rest) or not {*move.sources} <= by_name.keys():
            raise ValueError(f"{name}: {', '.join(move.sources)} are trained with other values")
        groups[name] = first
    order = {id(group): i for i, group in enumerate(training.groups)}
    return dict(sorted(groups.items(), key=lambda entry: order[id(entry[1])]))


def known_algorithm(group: Group) -> Algorithm:
    """Return the algorithm of a group from whose values an optimizer can be made.

    Raises:
        ValueError: if the file does not have all that it needs.
    """
    algorithm = ALGORITHMS.get(group.algorithm)
    if algorithm is None:
        raise ValueError(f"algorithm {group.algorithm!r}: give an optimizer that has it")
    if group.hyperparameters.keys() != algorithm.defaults().keys():
        raise ValueError(
            f"groups without hyperparameters of {algorithm.name}: give an optimizer that has them"
        )
    return algorithm
