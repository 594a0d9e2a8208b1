"""Meshes of devices, of one process and of two (what they do: ``support/jax_meshes.py``)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from adapters import RULES
from harness import ROOT
from quickly import flags

QUICK = ["lamb", "sm3"]
SOME = [list(RULES)[i : i + 8] for i in range(0, len(RULES), 8)]
"""All rules. To begin a process takes as long as a rule."""


def run(*processes: Sequence[Sequence[str]], devices: int = 8, quickly: bool = True) -> None:
    """Call functions with arguments: in each process one after the other, all processes at once.

    XLA compiles quickly, unless what it rounds is the subject.
    """
    many = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {
        "XLA_FLAGS": f"{many} {flags()}" if quickly else many,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(ROOT / "tests" / "support" / "jax_meshes.py")]
    started = [
        subprocess.Popen(
            [*command, json.dumps(calls)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for calls in processes
    ]
    errors = [process.communicate(timeout=600)[1] for process in started]
    for process, error in zip(started, errors, strict=True):
        assert process.returncode == 0, error


@pytest.mark.slow
@pytest.mark.parametrize("names", SOME)
def test_states_lie_where_the_parameters_lie_and_steps_are_compiled_once(names: list[str]) -> None:
    """With the bits of one device, on axes of both kinds."""
    run([["trained_on_a_mesh", *names]], quickly=False)


@pytest.mark.slow
def test_wrappers_in_one_another_follow_a_schedule() -> None:
    run([["wrappers_in_one_another_under_a_schedule"]])


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("optax._src.sharding_test") is None, reason="not run: optax is there without tests"
)
def test_states_lie_as_optaxs_own_tests_ask() -> None:
    run([["states_lie_as_optaxs_tests_ask"]])


def test_steps_corners_communication_and_places(tmp_path: Path) -> None:
    """In one process: to begin another takes as long as any of these."""
    run(
        [
            ["trained_on_a_mesh", *QUICK],
            ["parts_are_joined_in_corners"],
            ["communicates_no_more_than_optax", *QUICK],
            ["models_of_nnx_say_where_they_lie", "sm3"],
            ["checkpoints_onto_other_meshes", str(tmp_path)],
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("names", SOME)
def test_a_step_sends_no_more_than_what_is_known(names: list[str]) -> None:
    """And no more than optax, but for what ``support/communication.py`` lists, with the reason."""
    run([["communicates_no_more_than_optax", *names]])


@pytest.mark.slow
def test_models_of_nnx_say_where_they_lie() -> None:
    run([["models_of_nnx_say_where_they_lie", "adamw", "adafactor", "muon", "shampoo"]])


@pytest.mark.slow
def test_two_processes_record_and_save_what_they_hold_together(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run(*[[["one_of_two_processes", i, port, str(tmp_path)]] for i in "01"], devices=2)
