"""Estimates of the Hessian of a loss: the diagonal, the trace and the largest eigenvalue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from optstudy_core import instruments


def hutchinson(
    loss: torch.Tensor,
    params: Sequence[torch.Tensor],
    signs: Sequence[torch.Tensor] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> list[torch.Tensor]:
    """Return Hutchinson's estimate of the diagonal of the Hessian of a loss: z·(Hz).

    For independent signs z, the expected value is the diagonal. The cost is about two gradients.
    Call this function before ``loss.backward()``, which frees the graph. It writes no ``.grad``.

    Args:
        loss: 0-d tensor that was computed from ``params``.
        params: the parameters to differentiate by, e.g. ``list(model.parameters())``.
        signs: z, tensors like the parameters with elements +1 or −1; random if ``None``.
        generator: the generator of random signs; ``None`` for the default generator of torch.

    Returns:
        a list of tensors like the parameters, for ``optimizer.step(hessian=…)``. The tensor is zero
        if the loss does not depend on the parameter, or depends on it linearly.

    Source: Hutchinson 1989 (`hutchinson1989stochastic`), as in Sophia (`liu2024sophia`).

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> [h.tolist() for h in hutchinson((x**3).sum(), [x])]  # 6·x: exact where H is diagonal
    [[6.0, 12.0]]
    """
    params = list(params)
    if signs is None:
        signs = _signs(params, generator)
    products = _products(loss, params)(signs)
    return [(h * z).detach() for h, z in zip(products, signs, strict=True)]


def curvature(
    loss: torch.Tensor, params: Sequence[torch.Tensor], *, samples: int = 1, iterations: int = 20
) -> dict[str, float]:
    """Return the trace and the largest eigenvalue of the Hessian of a loss, for a recorder.

    Usage: ``recorder.end_epoch(metrics=curvature(loss, params))``. The random vectors come from a
    separate generator with a fixed seed, so the generators of the training do not change. The
    function writes no ``.grad``.

    Args:
        loss: 0-d tensor that was computed from ``params``.
        params: the parameters to differentiate by, e.g. ``list(model.parameters())``.
        samples: the number of random vectors for the estimate of the trace (Hutchinson).
        iterations: the number of power iterations.

    Returns:
        ``hessian_trace`` and ``hessian_largest``, numbers by name; see ``hessian_trace`` and
        ``largest_eigenvalue`` in :mod:`optstudy_core.instruments`.

    Raises:
        ValueError: if ``samples`` or ``iterations`` is less than 1.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> found = curvature((x**3).sum(), [x])
    >>> found["hessian_trace"], round(found["hessian_largest"], 4)
    (18.0, 12.0)
    """
    for name, value in {"samples": samples, "iterations": iterations}.items():
        if value < 1:
            raise ValueError(f"{name} = {value!r}: allowed are whole numbers from 1")
    params = list(params)
    generator = torch.Generator().manual_seed(0)
    product = _products(loss, params)
    draws = [_signs(params, generator) for _ in range(samples)]
    trace = instruments.hessian_trace(product, draws)
    start = [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in params]
    largest = instruments.largest_eigenvalue(product, start, iterations)
    return {"hessian_trace": trace.item(), "hessian_largest": largest.item()}


def _signs(params: Sequence[torch.Tensor], generator: torch.Generator | None) -> list[torch.Tensor]:
    made = []
    for p in params:
        device = p.device if generator is None else generator.device
        drawn = torch.randint(0, 2, p.shape, generator=generator, device=device)
        made.append((2 * drawn - 1).to(p.device, p.dtype))
    return made


def _products(
    loss: torch.Tensor, params: Sequence[torch.Tensor]
) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
    """Return a function that multiplies the Hessian of a loss with a vector."""
    grads = torch.autograd.grad(
        loss, params, create_graph=True, allow_unused=True, materialize_grads=True
    )

    def product(vector: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        reached = [(g, z) for g, z in zip(grads, vector, strict=True) if g.requires_grad]
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
        return [x.detach() for x in products]

    return product
