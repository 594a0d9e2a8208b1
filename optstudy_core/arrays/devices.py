"""The devices of arrays."""

from __future__ import annotations

from typing import Any

import array_api_compat


def device_of(x: Any) -> Any:
    """Return the device for new arrays; in JAX arrays go to the device of their use."""
    return None if array_api_compat.is_jax_array(x) else array_api_compat.device(x)
