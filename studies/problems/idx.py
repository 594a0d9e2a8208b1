"""Images and labels in the IDX format of MNIST, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import math
import pathlib
import zlib
from typing import Final

import numpy as np

from studies.study import Batch

_IMAGES: Final = 2051
_LABELS: Final = 2049
_HEADER: Final = {_IMAGES: 16, _LABELS: 8}


def read(folder: pathlib.Path) -> Batch:
    """Return all images of a folder, inputs of shape (n, pixels) in [0, 1], and their classes.

    The files are ``*-images-idx3-ubyte`` and ``*-labels-idx1-ubyte`` with the same beginning of the
    name, also with ``.gz``.

    Raises:
        FileNotFoundError: if the folder does not exist, or has no such files.
        ValueError: if a file is damaged or of another kind. The message names the file, and says
            what was expected and what was found.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    files = sorted(f for f in folder.glob("*-images-idx3-ubyte*") if f.is_file())
    if not files:
        raise FileNotFoundError(f"{folder}: expected a file *-images-idx3-ubyte[.gz], found none")
    parts = []
    for file in files:
        other = file.with_name(file.name.replace("images", "labels").replace("idx3", "idx1"))
        if not other.is_file():
            raise FileNotFoundError(f"{other}: this file is missing, but {file.name} exists")
        images, labels = _array(file, _IMAGES), _array(other, _LABELS)
        if len(images) != len(labels):
            raise ValueError(
                f"{other}: expected {len(images)} labels, one an image, found {len(labels)}"
            )
        if labels.max(initial=0) > 9:
            raise ValueError(f"{other}: expected labels from 0 to 9, found {labels.max()}")
        if not len(images) or images.shape[1] != images.shape[2] or images.shape[1] < 4:
            raise ValueError(
                f"{file}: expected square images of 4 pixels or more, found shape {images.shape}"
            )
        parts.append((images.reshape(len(images), -1), labels))
    if len({images.shape[1] for images, _ in parts}) > 1:
        raise ValueError(f"{folder}: expected images of one size, found several")
    inputs, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Batch((inputs / 255).astype(np.float32), targets.astype(np.int32))


def _array(file: pathlib.Path, magic: int) -> np.ndarray:
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{file}: expected data of gzip, found: {error}") from error
    header = _HEADER[magic]
    found = int.from_bytes(content[:4], "big")
    if len(content) < header or found != magic:
        raise ValueError(f"{file}: expected an IDX file of type {magic}, found {found}")
    shape = [int(length) for length in np.frombuffer(content[4:header], ">u4")]
    size = math.prod(shape)  # of any size: four bytes each make more than an int64
    if len(content) - header != size:
        raise ValueError(
            f"{file}: expected {size} bytes after the header, found {len(content) - header}"
        )
    return np.frombuffer(content[header:], np.uint8).reshape(shape)
