"""Loops written from the pseudocode of the papers, for dialects that no library ships.

Each is the rule of one element, with powers and counters as the paper has them; a dictionary holds
what it carries, which starts from 0. A loop and its pair stand in one file, by the kind of rule.
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
