"""The packages of the extra ``records``."""

from __future__ import annotations


def need_tensorboard(otherwise: str = "; or pass tensorboard=False") -> None:
    """Raise an error if TensorBoard is not installed.

    Args:
        otherwise: the end of the message: an alternative to the installation.

    Raises:
        ImportError: if TensorBoard is missing; the message says how to install it.
    """
    _need("tensorboard", otherwise)


def need_safetensors() -> None:
    """Raise an error if safetensors is not installed.

    Raises:
        ImportError: if safetensors is missing; the message says how to install it.
    """
    _need("safetensors", "")


def _need(package: str, otherwise: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed: pip install 'optstudy[records]'{otherwise}"
        ) from error
