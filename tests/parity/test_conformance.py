"""Dialect by dialect against the libraries themselves, in float64: the table of ``parity.peers``.

Changes of the formulas at the end of the file show that no term can be missing.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

import numpy as np
import optax
import pytest
import torch
from harness import slow
from new_algorithm import without_peer

import optstudy_jax
import optstudy_torch
from optstudy_core import ALGORITHMS, WRAPPERS, Algorithm, adam, amsgrad
from optstudy_core.parts import bias_correction
from parity import conformance, peers
from parity.__main__ import main
from parity.conformance import BOUND, distance, measure, problem
from parity.differences import EXPECTED, Difference, Kind
from parity.pairs import Peer, Problem, Runner, core
from parity.peers import optax as optax_peers
from parity.peers import torch_optim

pytestmark = pytest.mark.usefixtures("compiled_quickly")

PEERS, _ = peers.collect()


SLOW = ("adafactor", "adamuon", "muon", "normuon", "shampoo", "soap")
"""Seconds to tens of them for each."""
COMPILED = ("optax", "keras")  # a second for each pair


def _is_quick(peer: Peer) -> bool:
    """Take an algorithm's first pair with each peer that compiles nothing, or its first of all.

    That the formulas stay is the subject of the golden bits.
    """
    own = [p for p in PEERS if p.algorithm == peer.algorithm]
    own = [p for p in own if p.dialect not in COMPILED or p.algorithm == "adam"] or own[:1]
    return peer is next((p for p in own if p.name == peer.name), None) and (
        peer.algorithm not in SLOW
    )


def each_peer(peers: Iterable[Peer]) -> Any:
    return pytest.mark.parametrize("peer", [pytest.param(peer, id=peer.label) for peer in peers])


@each_peer(filter(_is_quick, PEERS))
def test_first_settings_are_the_same_or_differ_for_a_known_cause(peer: Peer) -> None:
    found = measure(peer, float32=False, quick=True)
    assert found.expected, f"{found.float64:.1e}: {found.verdict}"


@pytest.mark.slow
@each_peer(PEERS)
def test_same_as_the_library_or_different_for_a_known_cause(peer: Peer) -> None:
    found = measure(peer, float32=False)
    assert found.expected, f"{found.float64:.1e}: {found.verdict}"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_dialect_has_a_peer(name: str) -> None:
    assert not without_peer(name)  # each missing one is named with its place


def test_every_wrapper_has_a_peer() -> None:
    assert set(WRAPPERS) <= {peer.algorithm for peer in PEERS}


def test_a_peer_appears_once() -> None:
    labels = [peer.label for peer in PEERS]
    assert len(labels) == len(set(labels))


# Our functions and classes, in the other library's dialect.


def wide(leaves: Any) -> Any:
    return [x.ndim > 1 for x in leaves]


def test_a_mask_in_jax() -> None:
    given = {"weight_decay": 0.1, "mask": wide}
    ours = optax_peers.runner(lambda lr: optstudy_jax.adamw(lr, dialect="optax", **given), 1e-2)
    theirs = optax_peers.runner(lambda lr: optax.adamw(lr, **given), 1e-2)
    assert distance(few(), ours, theirs) <= BOUND


@pytest.mark.parametrize("name", ["SGD", "AdamW", slow("Adam"), slow("AMSGrad")])
def test_optaxs_dialect_in_torch(name: str) -> None:
    cls, function = getattr(optstudy_torch, name), getattr(optax, name.lower())
    ours = torch_optim.runner(lambda p: cls(p, lr=1e-3, dialect="optax"))
    assert distance(few(), ours, optax_peers.runner(function, 1e-3)) <= BOUND


def test_the_default_weight_decays() -> None:
    """By default it is torch's, a hundred times optax's."""
    ours = optax_peers.runner(optstudy_jax.adamw, 1e-3)
    torchs = optax_peers.runner(lambda lr: optax.adamw(lr, weight_decay=1e-2), 1e-3)
    assert distance(few(), ours, torchs) <= BOUND
    assert distance(few(), ours, optax_peers.runner(optax.adamw, 1e-3)) > BOUND


# The dialects do differ, and a missing term is seen.


REFERENCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
}


def few() -> Problem:
    """Return what is trained, with few steps."""
    return problem(steps=conformance.FEW_STEPS)


@functools.cache
def reference(name: str) -> Any:
    cls, given = REFERENCES[name]
    return torch_optim.runner(lambda p: cls(p, foreach=False, **given))(few())


def distance_with(name: str, update: Any) -> float:
    """Return how far from torch.optim an algorithm is with another update function."""
    own = ALGORITHMS[name]
    given = {k: v for k, v in REFERENCES[name][1].items() if k != "amsgrad"}

    @functools.wraps(own.update)  # with its signature
    def changed(*args: Any, **kwargs: Any) -> Any:
        return update(*args, **kwargs)

    ours = core(Algorithm(name, own.init, changed, own.dialects), "torch", **given)
    return distance(few(), ours, lambda _: reference(name))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_unchanged_update(name: str) -> None:
    assert distance_with(name, ALGORITHMS[name].update) <= BOUND


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad"])
@pytest.mark.parametrize("moment", [0, 1], ids=["m", "v"])
def test_a_missing_bias_correction_is_seen(
    name: str, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    correction, calls = bias_correction.correction, itertools.cycle([0, 1])

    def one_only(b: Any, t: Any) -> Any:  # it is called for m and v in turn
        return correction(b, t) if next(calls) != moment else 1.0

    for module in (adam, amsgrad):
        monkeypatch.setattr(module, "correction", one_only)
    assert distance_with(name, ALGORITHMS[name].update) > BOUND


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("adam", "eps", 0.0),
        ("adam", "eps", 1.00001e-8),
        ("adam", "eps_root", 1e-16),  # as if eps were inside the root too
        ("adam", "b1", 0.9000000001),
        ("adam", "b2", 0.9990000001),
        ("adam", "maximize", True),
        ("adam", "weight_decay", 1e-6),
        ("adamw", "eps", 0.0),
        ("adamw", "weight_decay", 0.0),
        ("adamw", "weight_decay", 0.0100001),
        ("adamw", "lr_in_decay", False),
        ("amsgrad", "eps", 0.0),
        ("amsgrad", "corrected_maximum", True),
        ("amsgrad", "correct_bias", False),
        ("sgd", "momentum", 0.9000000001),
        ("sgd", "dampening", 0.0),
        ("sgd", "weight_decay", 0.0),
    ],
)
def test_a_changed_term_is_seen(name: str, argument: str, value: Any) -> None:
    update = ALGORITHMS[name].update
    assert distance_with(name, lambda *a, **kw: update(*a, **(kw | {argument: value}))) > BOUND


def test_dampening_at_the_first_step_is_seen() -> None:
    update = ALGORITHMS["sgd"].update

    def damped(state: Any, *args: Any, **given: Any) -> Any:
        return update(state._replace(t=0 * state.t + 1), *args, **given)

    assert distance_with("sgd", damped) > BOUND


def test_a_missing_maximum_is_seen() -> None:
    update = ALGORITHMS["amsgrad"].update

    def forgetful(state: Any, *args: Any, **given: Any) -> Any:
        return update(state._replace(v_max=0 * state.v_max), *args, **given)

    assert distance_with("amsgrad", forgetful) > BOUND


# The measurement itself.


def plus(change: Callable[[float], float]) -> Runner:
    """Return a run whose last parameters are changed by ``change``."""

    def run(p: Problem) -> Any:
        rows = [[np.array(x) for x in row] for row in core("sgd", "torch")(p)]
        for x in rows[-1]:
            x[...] = np.vectorize(change)(x)
        return rows

    return run


@pytest.mark.parametrize(
    ("change", "far"),
    [
        (lambda x: x, 0.0),
        (lambda x: x * (1 + 1e-9), 1e-9),
        (lambda x: float("nan"), float("inf")),
        (lambda x: float("inf"), float("inf")),
    ],
)
def test_the_distance(change: Callable[[float], float], far: float) -> None:
    found = distance(few(), plus(change), core("sgd", "torch"))
    # Of the largest value that the parameter had, so at most what was changed.
    assert found == far or 0.1 * far < found <= 1.01 * far


def test_two_nans_are_no_difference() -> None:
    nans = plus(lambda _: float("nan"))
    assert distance(few(), nans, nans) == 0.0


def pair(name: str, ours: Runner) -> Peer:
    return Peer("sgd", "torch", name, {}, ours, core("sgd", "torch"))


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = core("sgd", "torch"), core("sgd", "torch", momentum=0.5)
    quick = functools.partial(measure, float32=False, quick=True)
    found = [quick(pair("itself", ours)) for ours in (same, other)]
    assert [m.verdict for m in found] == ["same", "**differs**"]
    assert [m.expected for m in found] == [True, False]
    apart = found[1].float64
    for largest in (2 * apart, apart, apart / 2):
        known = Difference("a cause", "definition", largest)
        monkeypatch.setitem(EXPECTED, "sgd torch: itself()", known)
        first, second = (quick(m.peer) for m in found)
        assert (first.expected, first.verdict) == (False, "same, but listed as different")
        assert second.expected == (largest >= apart)
        assert second.verdict == ("differs: a cause" if largest >= apart else "**differs**")


def test_what_is_expected_to_differ_is_a_pair_and_is_explained() -> None:
    """A pair that is gone takes its entry with it: the list can only shrink or be explained."""
    labels = {peer.label for peer in PEERS}
    assert not EXPECTED.keys() - labels
    for label, difference in EXPECTED.items():
        assert difference.cause, label
        assert difference.kind in get_args(Kind), label
        assert BOUND < difference.largest < math.inf, label
        assert re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*#\d+)?", difference.issue), label


def test_in_float32_one_rounding_is_one_unit() -> None:
    def run(p: Problem) -> Any:
        # A zero stays: the number after it is no small part of what it was before.
        rows = core("sgd", "torch")(p)
        return [[np.where(x == 0, x, np.nextafter(x, x.dtype.type(9))) for x in r] for r in rows]

    found = measure(pair("itself", run)).ulp
    assert len(found) == len(conformance.CHECKPOINTS)
    assert all(1.0 <= x <= 2.0 for x in found)


def test_the_command(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [pair("itself", core("sgd", "torch", **x)) for x in ({}, {"lr": 2e-3})]
    monkeypatch.setattr(peers, "collect", lambda: (few[:1], {"optax": "optax is not installed"}))
    monkeypatch.setattr(conformance, "STEPS", conformance.FEW_STEPS)
    monkeypatch.setattr(conformance, "CHECKPOINTS", (1, 10))
    path = tmp_path / "conformance.md"
    assert main(["conformance", "--algorithms", "sgd", "--write", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert "| sgd | torch | itself | defaults | 0.0e+00 | 0 / 0 | same |" in text
    assert "not run: optax is not installed" in text
    assert "| sgd | paper |" in text
    # The rows of other algorithms stay, if they are of the same versions.
    row = "| yogi | optax | a peer | beta='\\|' | 0.0e+00 | 0 | same |"
    path.write_text(text + row + "\n", encoding="utf-8")
    assert main(["conformance", "--algorithms", "sgd", "--write", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == text + row + "\n"
    path.write_text(text.replace("numpy", "numpy 0.1, numpy"), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["conformance", "--algorithms", "sgd", "--write", str(path)])
    assert "measure all algorithms" in capsys.readouterr().err
    monkeypatch.setattr(peers, "collect", lambda: (few, {}))
    assert main(["conformance", "--algorithms", "sgd"]) == 1
    assert "not as expected" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["conformance", "--algorithms", "sdg"])
    assert stopped.value.code == 2
    assert "did you mean 'sgd'" in capsys.readouterr().err
