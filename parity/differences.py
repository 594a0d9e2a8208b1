"""The expected differences: the pairs of :mod:`parity.peers` with other formulas or precision.

A pair that is not in the list must have the same formula. A pair in the list must differ, but by no
more than the given distance. A difference that is gone or has grown is a failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal["precision", "definition", "cancellation"]
"""A smaller dtype for a part; another formula; a difference of almost equal numbers."""


class Difference(NamedTuple):
    """The reason for a difference between a library and optstudy.

    Attributes:
        cause: the cause in words, for the table.
        kind: the kind of the cause.
        largest: the largest distance in float64 from this cause.
        issue: an issue of the library about it, ``owner/name#number``; empty if none is known.
    """

    cause: str
    kind: Kind
    largest: float
    issue: str = ""


_PARTS = Difference("Keras computes parts in float32", "precision", 1e-6)

EXPECTED: Final[Mapping[str, Difference]] = {
    "muon torch: torch.optim.Muon()": Difference(
        "torch iterates in bfloat16", "precision", 0.1, "pytorch/pytorch#160213"
    ),
    "radam torch: torch.optim.RAdam(betas=(0.9, 0.99999))": Difference(
        "ρₜ in torch cancels for β₂ near 1", "cancellation", 1e-9
    ),
    "averaged torch: torch.optim.swa_utils.AveragedModel("
    "avg_fn='get_ema_avg_fn(0.97)')": Difference(
        "torch starts the average at the first weights, optstudy corrects its bias",
        "definition",
        10.0,
    ),
    "rmsprop optax: optax.rmsprop(learning_rate=0.001, centered=True, bias_correction=True, "
    "eps=1e-05)": Difference(
        "at the first step the corrected variance is 0 except for rounding", "cancellation", 1e-5
    ),
    "muon optax: optax.contrib.muon(learning_rate=0.001)": Difference(
        "optax uses Nesterov momentum in the AdamW of other leaves", "definition", 1.0
    ),
    "adafactor optax: optax.adafactor(learning_rate=0.01)": Difference(
        "optax computes t^-0.8 in float32", "precision", 1e-6
    ),
    "adafactor keras: keras.optimizers.Adafactor()": _PARTS,
    "adafactor keras: keras.optimizers.Adafactor(clip_threshold=0.9)": _PARTS,
    "adafactor keras: keras.optimizers.Adafactor(learning_rate=0.5, beta_2_decay=-0.6, "
    "epsilon_1=1e-06, epsilon_2=0.1, clip_threshold=2.0, weight_decay=0.1)": Difference(
        "Keras measures the parameters after the decay, and computes parts in float32",
        "definition",
        1.0,
    ),
}
"""By the label of the pair."""
