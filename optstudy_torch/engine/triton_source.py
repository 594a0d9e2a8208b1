"""Programs written in Triton: the text of lines and numbers, and the start of a kernel.

Triton differs from IEEE 754 in these points, which are fixed here:

- Triton contracts a product and a sum to a fused multiply-add; ``enable_fp_fusion=False`` stops
that.
- ``x / y`` of float32 is ``div.full``, off by a unit in the last place for a fifth of quotients; we
  use ``div_rn``. ``sqrt`` of float32 is approximate; we use ``sqrt_rn``. In float64 both are exact.
- ``maximum`` and ``minimum`` lose NaN without an option.
- A number in the text or an argument of a kernel is rounded to float32. So numbers are in a float64
  tensor, and are rounded to the dtype of the other operand.
"""

from __future__ import annotations

import functools
import hashlib
import linecache
from collections.abc import Iterable
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import torch

from .c_compiler import compiler
from .source import INFIX, Text
from .trace import DOUBLE, TRUTH, WORKING

BLOCK = 1024
"""Number of elements that one instance of a kernel computes, or reads at once."""

WARPS = 4
_COUNTS = ["count", "leaves"]  # new values of these arguments need no new kernel
LANGUAGE = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
    torch.bool: "tl.int1",
}
_FORMS = INFIX | {
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} != {0}, {0}, ({0} > 0).to({0}.dtype) - ({0} < 0).to({0}.dtype))",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "where": "tl.where({0}, {1}, {2})",
    "isfinite": "tl.abs({0}) < float('inf')",
    "logical_not": "{0} == 0",
    "zeros_like": "({0} == {0}).to({0}.dtype) * 0",
    "ones_like": "({0} == {0}).to({0}.dtype) * 0 + 1",
}
_ROUNDED = {
    torch.float32: {"divide": "tl.div_rn({0}, {1})", "sqrt": "tl.sqrt_rn({0})"},
    torch.float64: {"divide": "{0} / {1}", "sqrt": "tl.sqrt({0})"},
}


def dtype_of(kind: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of values of a kind."""
    return {WORKING: dtype, DOUBLE: torch.float64, TRUTH: torch.bool}[kind]


def text_of(dtype: torch.dtype) -> Text:
    """Return a text in Triton."""
    casts = {kind: f"({{0}}).to({LANGUAGE[dtype_of(kind, dtype)]})" for kind in (WORKING, DOUBLE)}
    forms = {kind: _FORMS | casts | _ROUNDED[dtype_of(kind, dtype)] for kind in casts}
    return Text(lambda operation, kind: forms[kind][operation])


def loads(text: Text, dtype: torch.dtype) -> list[str]:
    """Return lines that read the numbers and round each once."""
    return [
        f"h{i} = tl.load(c + {i}).to({LANGUAGE[dtype_of(kind, dtype)]})"
        for i, (_, kind) in enumerate(text.numbers)
    ]


def kernel_of(name: str, arguments: Iterable[str], lines: Iterable[str]) -> Any:
    """Return a kernel with these lines."""
    import triton
    import triton.language as tl

    text = "\n    ".join([f"def {name}({', '.join(arguments)}):", *lines]) + "\n"
    # Equal texts have equal names, so the table of sources does not grow.
    file = f"<optstudy {name} {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope: dict[str, Any] = {"tl": tl, "triton": triton, "__name__": __name__}
    exec(compile(text, file, "exec"), scope)
    return triton.jit(do_not_specialize=_COUNTS)(scope[name])


def start(kernel: Any, instances: int, device: torch.device, *arguments: Any) -> None:
    """Start a kernel on a device, current or not."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(instances,)](*arguments, BLOCK, num_warps=WARPS, enable_fp_fusion=False)


@functools.cache
def has_triton() -> bool:
    """Return whether kernels can be compiled."""
    there = find_spec("triton") is not None and torch.version.hip is None
    return there and compiler() is not None
