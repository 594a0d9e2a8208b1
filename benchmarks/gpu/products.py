"""Compare products of int8 digits on a GPU with the float64 product, and time them."""

from __future__ import annotations

from typing import Any

from .sums import ROUNDS, milliseconds

SIZES = (256, 512, 1024, 2048, 4096)


def measure(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """Return a row for each number of rows and columns: whether the bits are equal, and times."""
    import torch

    from optstudy_torch.engine import integer_products

    rows = []
    for size in sizes:
        generator = torch.Generator("cuda").manual_seed(size)
        # Integers of 20 bits, as the products of Muon have them.
        x, y = (
            torch.randint(-(2**20), 2**20 + 1, (size, size), generator=generator, device="cuda")
            .to(torch.float64)
            .mul_(2.0**-20)
            for _ in range(2)
        )
        row: dict[str, Any] = {
            "size": size,
            "float64 ms": milliseconds(lambda x=x, y=y: x @ y, ROUNDS),
        }
        narrow = x.float(), y.float()
        row["float32 ms"] = milliseconds(lambda pair=narrow: pair[0] @ pair[1], ROUNDS)
        if integer_products.are_exact(x.device):
            row["same bits"] = torch.equal(integer_products.product(x, y), x @ y)
            row["int8 ms"] = milliseconds(lambda x=x, y=y: integer_products.product(x, y), ROUNDS)
        row["used"] = integer_products.are_faster(x, y)
        rows.append(row)
    return rows
