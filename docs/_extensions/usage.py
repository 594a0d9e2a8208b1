"""Two parts of the page of an algorithm: the usage at its beginning, the signatures at its end."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import optstudy_jax
import optstudy_torch
from optstudy_core import Algorithm
from optstudy_core.arrays.numbers import is_number

DOCS = Path(__file__).parents[1]
GUIDES = {"muon": "groups.md"}
"""Pages with the usage of an algorithm, in their first two Python blocks."""


GIVEN = {"value": "loss", "hessian": "hessian"}
"""The argument of a step for each input besides the gradient."""


def shown(algorithm: Algorithm) -> str:
    """Return Markdown that makes and steps the optimizer, in PyTorch and in Flax."""
    guide = GUIDES.get(algorithm.name)
    if guide is not None:
        return _beginning(guide)
    more = ", `loss_of`, the loss as a function of the parameters, and a `key`"
    more = more if "hessian" in algorithm.inputs else ""
    return "\n\n".join(
        f"In {framework}, with {names}:\n\n```python\n{code}```"
        for framework, names, code in (
            ("PyTorch", "a `model` and its `loss`", torch_code(algorithm)),
            ("Flax", f"an nnx `model`, its `loss` and `gradients`{more}", jax_code(algorithm)),
        )
    )


def torch_code(algorithm: Algorithm) -> str:
    """Return the code of a step in PyTorch, which reads ``model`` and ``loss``."""
    rate = f", lr={_rate(algorithm)}".removesuffix(", lr=")
    estimate = "hessian = optstudy_torch.hutchinson(loss, list(model.parameters()))\n"
    inputs = ", ".join(f"{name}={GIVEN[name]}" for name in algorithm.inputs)
    return (
        "import optstudy_torch\n\n"
        f"optimizer = optstudy_torch.{algorithm.title}(model.parameters(){rate})\n\n"
        "optimizer.zero_grad()\n"
        + estimate * ("hessian" in algorithm.inputs)
        + f"loss.backward()\noptimizer.step({inputs})\n"
    )


def jax_code(algorithm: Algorithm) -> str:
    """Return the code of a step in Flax, which reads ``model``, ``loss`` and ``gradients``."""
    estimate = (
        "params = nnx.state(model, nnx.Param)\n"
        "hessian = optstudy_jax.hutchinson(loss_of, params, key)\n"
    )
    inputs = "".join(f", {name}={GIVEN[name]}" for name in algorithm.inputs)
    return (
        "import optstudy_jax\nfrom flax import nnx\n\n"
        f"tx = optstudy_jax.{algorithm.name}({_rate(algorithm)})\n"
        "optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)\n\n"
        + estimate * ("hessian" in algorithm.inputs)
        + f"optimizer.update(model, gradients{inputs})\n"
    )


def _rate(algorithm: Algorithm) -> str:
    """Return the default learning rate as text; empty if the algorithm has none."""
    lr = algorithm.defaults().get("lr")
    return f"{lr:g}" if is_number(lr) else ""


def signatures(algorithm: Algorithm) -> str:
    """Return the directives that document the class and the function, for links to them."""
    named: tuple[tuple[str, str, Any], ...] = (
        ("class", f"optstudy_torch.{algorithm.title}", getattr(optstudy_torch, algorithm.title)),
        ("function", f"optstudy_jax.{algorithm.name}", getattr(optstudy_jax, algorithm.name)),
    )
    directives = []
    for kind, name, of in named:
        arguments = str(inspect.signature(of).replace(return_annotation=inspect.Signature.empty))
        directives.append(f".. py:{kind}:: {name}{arguments}")
    return "```{eval-rst}\n" + "\n\n".join(directives) + "\n```"


def _beginning(guide: str) -> str:
    """Return the beginning of a page, from after the title to the second Python block."""
    text = (DOCS / guide).read_text(encoding="utf-8").partition("\n")[2]
    found = re.match(r"(.*?^```python\n.*?^```\n){2}", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{guide} does not begin with two blocks in Python")
    more = f"[The rest](../../{guide}): heads, layers of your own, cautious decay."
    return f"{found[0].strip()}\n\n{more}"
