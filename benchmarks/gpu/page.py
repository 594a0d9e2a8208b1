"""The page ``docs/gpu.md``, from what was measured."""

from __future__ import annotations

import json
from typing import Any


def page(found: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in found.items() if "speed" not in k}, indent=1)[:6000]
