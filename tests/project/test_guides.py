"""The guides' code runs, and their tables are the code's."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from typing import Any

import optax
import pytest
import torch
from harness import ROOT, slow
from pages import Block, blocks, check_command, commands

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, defaults

DOCS = ROOT / "docs"
GUIDES = (
    "start",
    "porting",
    "schedules",
    "around",
    "numerics",
    "epoch_methods",
    "own_optimizer",
    "groups",
    "recording",
    "trainers",
    "devices",
    "diverge",
    "instruments",
    "records",
    "beyond_one_process",
    "compare",
)
PAGES = {name: blocks(DOCS / f"{name}.md") for name in GUIDES}
COMMANDS = {
    command: None
    for name, found in PAGES.items()
    for command in commands(found)
    if not command.startswith(("pip ", "tensorboard "))
}


pytestmark = pytest.mark.usefixtures("alone", "compiled_quickly")


PYTHON = {name: [b for b in found if b.language == "python"] for name, found in PAGES.items()}


def those(how: str) -> list[Any]:
    """The blocks that are run in this way, as parameters of a test."""
    found = [(name, block) for name in GUIDES for block in PYTHON[name] if block.how == how]
    return [pytest.param(block, id=f"{name}-{block.line}") for name, block in found]


LONG = (
    "own_optimizer",
    "groups",
    "recording",
    "diverge",
    "porting",
    "beyond_one_process",
)  # a quarter of a minute each


@pytest.mark.parametrize("name", [slow(n) if n in LONG else n for n in GUIDES])
def test_code_of_page_runs(name: str) -> None:
    namespace: dict[str, Any] = {"__name__": f"guide_{name}"}
    for block in PYTHON[name]:
        if not block.how:
            block.run(namespace)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in GUIDES if any(b.how == "slow" for b in PYTHON[n])])
def test_code_of_page_runs_with_what_is_slow(name: str) -> None:
    namespace: dict[str, Any] = {"__name__": f"guide_{name}"}
    for block in PYTHON[name]:
        if block.how in {"", "slow"}:
            block.run(namespace)


@pytest.mark.slow
@pytest.mark.parametrize("block", those("alone"))
def test_code_runs_in_its_own_process(block: Block) -> None:
    name, _, value = block.of_what.partition("=")
    paths = os.pathsep.join([str(DOCS.parent), *sys.path])
    environment = os.environ | {name: value, "PYTHONPATH": paths}
    command = [sys.executable, "-W", "error", "-c", block.code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_command_exists(command: str) -> None:
    check_command(command)


# Tables of the page on porting.

PORTING = (DOCS / "porting.md").read_text(encoding="utf-8")


def table(heading: str, page: str = PORTING) -> list[list[str]]:
    """The rows of the first table after a heading, without its head."""
    lines = page[page.index(f"## {heading}\n") :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| "))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows[2:]


def test_rates_of_the_page_are_those_of_torch_and_of_the_code() -> None:
    sentence = re.search(
        r"The default learning rate does not depend.*?uses torch.s\.", PORTING, flags=re.DOTALL
    )
    assert sentence is not None
    names = "Adamax NAdam Adagrad RMSprop Rprop ASGD Adafactor Adadelta Adam AdamW SGD RAdam"
    given = dict.fromkeys(names.split(), 1e-3) | {"Adamax": 2e-3, "NAdam": 2e-3, "Adadelta": 1.0}
    given |= dict.fromkeys(["Adagrad", "RMSprop", "Rprop", "ASGD", "Adafactor"], 1e-2)
    for name, lr in given.items():
        theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(2, 2))])
        assert theirs.param_groups[0]["lr"] == lr
        for dialect in {"torch", "optax"} & set(ALGORITHMS[name.lower()].dialects):
            assert defaults(name.lower(), dialect)["lr"] == lr
        assert lr == 1e-3 or name in sentence[0]


def test_names_of_the_page_exist() -> None:
    for theirs, ours, function, peers, _ in table("Names"):
        for code in re.findall(r"`(\w+)", theirs):
            assert hasattr(torch.optim, code)
        for code in re.findall(r"`(\w+)", ours):
            assert hasattr(optstudy_torch, code)
        for code in re.findall(r"`(\w+)`", function):
            assert hasattr(optstudy_jax, code)
        for code in re.findall(r"`(\w+)`", peers):
            assert hasattr(optax, code)


def test_schedules_of_the_page_exist() -> None:
    for theirs, peers in table("Schedules"):
        for code in re.findall(r"`(\w+)", theirs):
            assert hasattr(torch.optim.lr_scheduler, code)
        for code in re.findall(r"`([\w.]+)(?=[(`])", peers):
            found: Any = optax
            for part in code.split("."):
                found = getattr(found, part)


def test_arguments_of_the_page_exist() -> None:
    classes = [optstudy_torch.from_core(name) for name in ALGORITHMS]
    functions = [optstudy_jax.from_core(name) for name in ALGORITHMS]
    known = {
        column: {name for made in several for name in inspect.signature(made).parameters}
        for column, several in ((1, classes), (2, functions))
    }
    for row in table("Arguments"):
        for column, names in known.items():
            for code in re.findall(r"`(\w+)(?:=\S*)?`", row[column]):
                assert code in names
        if row[1] == "the same":
            for code in re.findall(r"`(\w+)`", row[0]):
                assert code in known[1]
                if row[2] == "the same":
                    assert code in known[2]
