"""Estimates of the Hessian's diagonal, for the algorithms that ask for one (``hessian``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def hutchinson(
    loss: torch.Tensor,
    params: Sequence[torch.Tensor],
    signs: Sequence[torch.Tensor] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> list[torch.Tensor]:
    """Return Hutchinson's estimate of the diagonal of the Hessian of a loss: z·(Hz).

    For independent signs z its mean is the diagonal. It costs about two gradients. Call it before
    ``loss.backward()``, which frees the graph; no ``.grad`` is written.

    Args:
        loss: 0-d tensor that was computed from ``params``.
        params: what it is differentiated by, e.g. ``list(model.parameters())``.
        signs: z, like the parameters, each +1 or −1; drawn if ``None``.
        generator: what they are drawn from; ``None`` for torch's own of the device.

    Returns:
        a tensor like each of the parameters, for ``optimizer.step(hessian=…)``; zeros for one that
        the loss does not depend on, or that enters linearly.

    Source: Hutchinson 1989 (`hutchinson1989stochastic`), as in Sophia (`liu2024sophia`).

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> [h.tolist() for h in hutchinson((x**3).sum(), [x])]  # 6·x: exact where H is diagonal
    [[6.0, 12.0]]
    """
    params = list(params)
    if signs is None:
        drawn = [torch.randint(0, 2, p.shape, generator=generator, device=p.device) for p in params]
        signs = [(2 * z - 1).to(p.dtype) for z, p in zip(drawn, params, strict=True)]
    grads = torch.autograd.grad(
        loss, params, create_graph=True, allow_unused=True, materialize_grads=True
    )
    reached = [(g, z) for g, z in zip(grads, signs, strict=True) if g.requires_grad]
    if not reached:
        return [torch.zeros_like(p) for p in params]
    products = torch.autograd.grad(
        [g for g, _ in reached],
        params,
        [z for _, z in reached],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return [(h * z).detach() for h, z in zip(products, signs, strict=True)]
