"""The runner of a loop from a paper, and pairs of our dialect "paper" and a loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from parity.pairs import Arrays, Peer, Problem, Runner, core

State = dict[str, Any]
"""The state of a rule, with ``value`` and ``hessian`` of the step."""

Rule = Callable[[State, Any, Any, int, float], Any]
"""A function of the state, the parameters, the gradient, t and the rate: the new parameters."""


def runner(rule: Rule, lr: float, whole: bool = False) -> Runner:
    """Return a function that trains with a rule, leaf by leaf.

    Args:
        rule: the rule of one leaf.
        lr: the learning rate for problems without one.
        whole: whether the rule gets all leaves as one vector.
    """

    def run(problem: Problem) -> list[Arrays]:
        theta = list(problem.begin)
        states: list[State] = [defaultdict(float) for _ in theta]
        found = []
        for t, grads in enumerate(problem.grads, 1):
            rate = lr if problem.rates is None else problem.rates[t - 1]
            for number, s in enumerate(states):
                given = problem.inputs[t - 1]
                s["value"], s["hessian"] = given["value"], given["hessian"][number]
            with np.errstate(all="ignore"):
                theta = [
                    np.asarray(rule(s, p, g, t, rate), problem.dtype)
                    for s, p, g in zip(states, theta, grads, strict=True)
                ]
            found.append(theta)
        return found

    def run_whole(problem: Problem) -> list[Arrays]:
        def join(arrays: Arrays) -> Arrays:
            return [np.concatenate([np.ravel(x) for x in arrays])]

        ends = np.cumsum([x.size for x in problem.begin])[:-1]
        inputs = [row | {"hessian": join(row["hessian"])} for row in problem.inputs]
        joined = replace(
            problem,
            begin=join(problem.begin),
            grads=[*map(join, problem.grads)],
            inputs=tuple(inputs),
        )
        return [
            [x.reshape(p.shape) for x, p in zip(np.split(row[0], ends), problem.begin, strict=True)]
            for row in run(joined)
        ]

    return run_whole if whole else run


def pair(
    algorithm: str,
    rule: Rule,
    *,
    lr: float = 1e-3,
    scheduled: bool = True,
    whole: bool = False,
    **ours: Any,
) -> Peer:
    """Return a pair of our dialect "paper" and a loop.

    Args:
        algorithm: a name in ``ALGORITHMS`` or ``WRAPPERS``.
        rule: the loop.
        lr: the learning rate of both.
        scheduled: whether the rule reads the learning rate at every step.
        whole: whether the rule gets all leaves as one vector.
        ours: our hyperparameters.
    """
    return Peer(
        algorithm,
        "paper",
        "the paper's pseudocode",
        {"lr": lr} | ours,
        core(algorithm, "paper", lr=lr, **ours),
        runner(rule, lr, whole),
        scheduled=scheduled,
    )
