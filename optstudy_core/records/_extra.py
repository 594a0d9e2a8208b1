"""What the extra ``records`` installs."""

from __future__ import annotations


def need_tensorboard(otherwise: str = "; or pass tensorboard=False") -> None:
    """Refuse to go on without TensorBoard.

    Args:
        otherwise: how to do without it.

    Raises:
        ImportError: saying how to install it, or to do without.
    """
    _need("tensorboard", otherwise)


def need_safetensors() -> None:
    """Refuse to go on without safetensors.

    Raises:
        ImportError: saying how to install it.
    """
    _need("safetensors", "")


def _need(package: str, otherwise: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed: pip install 'optstudy[records]'{otherwise}"
        ) from error
