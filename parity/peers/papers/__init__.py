"""Loops written from the pseudocode of papers, for dialects without a library.

Each loop is the rule of one element, with powers and counters as in the paper. A dictionary holds
the state, which starts at 0. A loop and its pair are in one file, by the kind of rule.
"""

from __future__ import annotations

from . import adam, gradient, layerwise, matrices, rates, wrappers

PEERS = [
    *gradient.PEERS,
    *adam.PEERS,
    *layerwise.PEERS,
    *rates.PEERS,
    *matrices.PEERS,
    *wrappers.PEERS,
]
