"""Cases of the epoch methods: some epochs of training with one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from parity.case import Special, draw_leaf
from parity.saved import MOST_STEPS, Saved, hexadecimal, plain, whole
from parity.structures import DTYPES, STRUCTURES, leaf_dtype

STEPS: Final = 2  # steps of an epoch
EPOCHS: Final = 8
LR: Final = 0.05
LEAVES: Final = 4  # special values of other leaves are ignored
OPTIMIZERS: Final = ("sgd", "adam")

Tree = list[np.ndarray]


@dataclass(frozen=True)
class EpochCase:
    """Some epochs of training with one method.

    Attributes:
        structure: the name of a tree in ``STRUCTURES``.
        dtype: the dtype of the parameters.
        algorithm: the optimizer.
        options: the arguments of the method.
        seed: the seed of parameters and gradients.
        losses: the mean loss of each epoch.
        specials: values at single places of gradients (``step`` counts over all epochs).
    """

    structure: str
    dtype: str
    algorithm: str
    options: Mapping[str, Any]
    seed: int
    losses: tuple[float, ...]
    specials: tuple[Special, ...] = ()

    @property
    def steps(self) -> int:
        """The number of epochs."""
        return len(self.losses)

    def values(self) -> tuple[Tree, list[list[Tree]], Tree]:
        """Return the parameters, the gradients of each epoch and step, and the target of EVE."""
        leaves = STRUCTURES[self.structure]
        rng = np.random.default_rng(self.seed)
        total = self.steps * STEPS
        columns, target = [], []
        for number, leaf in enumerate(leaves):
            drift = rng.normal(size=leaf.shape)
            kind = leaf_dtype(leaf, self.dtype)
            column = draw_leaf(rng, "ordinary", total, leaf.shape)
            for t in range(total):  # mostly in one direction, for angles of every kind
                sign = -1.0 if t // STEPS % 4 == 3 else 1.0
                column[t + 1] = column[t + 1] + sign * drift
            for special in self.specials:
                if special.leaf == number and column[0].size and special.step < total:
                    flat = column[special.step + 1].reshape(-1)
                    flat[special.index % flat.size] = special.value
            with np.errstate(over="ignore"):
                columns.append([np.asarray(x, np.float64).astype(kind) for x in column])
                # In the direction of most gradients, so that some steps lead there.
                target.append(np.asarray(column[0] - 0.9 * np.sign(drift)).astype(kind))
        grads = [
            [[c[1 + k * STEPS + i] for c in columns] for i in range(STEPS)]
            for k in range(self.steps)
        ]
        return [c[0] for c in columns], grads, target

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON values, floats as hexadecimal strings."""
        return {
            "structure": self.structure,
            "dtype": self.dtype,
            "algorithm": self.algorithm,
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in self.options.items()},
            "seed": self.seed,
            "losses": [x.hex() for x in self.losses],
            "specials": [[s.step, s.leaf, s.index, s.value.hex()] for s in self.specials],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EpochCase:
        """Return the case in JSON values.

        Raises:
            ValueError: if the values are no case.
        """
        saved = Saved(data, "case")
        losses = saved.entries("losses")
        whole(len(losses), "the number of losses", 1, MOST_STEPS)
        return cls(
            structure=saved.text("structure", STRUCTURES),
            dtype=saved.text("dtype", DTYPES),
            algorithm=saved.text("algorithm", OPTIMIZERS),
            options={k: plain(v, k) for k, v in saved.mapping("options").items()},
            seed=saved.whole("seed", 0, 2**63 - 1),
            losses=tuple(hexadecimal(x, "losses") for x in losses),
            specials=tuple(
                Special(*special) for special in saved.special(LEAVES, len(losses) * STEPS)
            ),
        )

    def check(self, method: Any) -> None:
        """Refuse options that the method does not have.

        Args:
            method: an ``EpochMethod``.

        Raises:
            ValueError: if an option is unknown; the message has the allowed options.
        """
        if not any(dict(options) == self.options for options in method.options):
            raise ValueError(f"options = {self.options!r}: allowed are {list(method.options)}")
