"""The table of peers: one module for each library, imported if the library is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from parity.pairs import Peer

MODULES = {"torch": "torch_optim", "optax": "optax", "keras": "keras", "numpy": "papers"}
"""The module with the peers of each library (papers need only NumPy)."""


def collect() -> tuple[list[Peer], dict[str, str]]:
    """Return the peers of the installed libraries, and the reasons for missing libraries."""
    found: list[Peer] = []
    missing: dict[str, str] = {}
    for library, module in MODULES.items():
        if find_spec(library) is None:
            missing[library] = f"{library} is not installed"
        else:
            found += import_module(f".{module}", __name__).PEERS
    return found, missing


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries."""
    return {library: version(library) for library in MODULES if find_spec(library) is not None}
