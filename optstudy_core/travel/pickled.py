"""The contents of a checkpoint of PyTorch, read without running code from it.

``torch.save`` writes a zip file with a pickle, which is a program that builds objects. This module
follows the program where it builds dictionaries, lists, texts and numbers. A function call becomes
a :class:`Call`, and nothing is imported.
"""

from __future__ import annotations

import math
import pathlib
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

LARGEST: Final = 2**26
"""The largest size of a pickle in bytes, without the elements of tensors."""

_DTYPES: Final = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_PLAIN: Final = frozenset(
    {
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
        *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "STRING"),
    }
)
"""Opcodes with the value as argument."""
_VALUES: Final[Mapping[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}


class Call(NamedTuple):
    """A function call that was not run.

    Attributes:
        function: the name of the function.
        arguments: the arguments of the call.
    """

    function: str
    arguments: Any


class Tensor(NamedTuple):
    """A tensor that was not loaded.

    Attributes:
        dtype: the name of the dtype.
        shape: the shape.
        value: the value of a tensor with one element, if it could be read.
    """

    dtype: str
    shape: tuple[int, ...]
    value: Any = None


def read(file: Any) -> Any:
    """Return the contents of a checkpoint of ``torch.save``, with tensors without their elements.

    Raises:
        ValueError: if the file is no checkpoint, or cannot be read without running code.
    """
    path = pathlib.Path(file)
    try:
        with zipfile.ZipFile(path) as archive:
            (entry,) = (x for x in archive.infolist() if x.filename.endswith("/data.pkl"))
            if entry.file_size > LARGEST or entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"a pickle of {entry.file_size} bytes; expected is a smaller one")
            folder = entry.filename.removesuffix("data.pkl")

            def element(key: str, dtype: str, offset: int) -> Any:
                size = np.dtype(dtype).itemsize
                with archive.open(f"{folder}data/{key}") as stream:
                    stream.read(min(offset, LARGEST) * size)
                    return np.frombuffer(stream.read(size), dtype)[0].item()

            return _Reader(element).followed(archive.read(entry))
    except Exception as error:  # whatever a decoder makes of foreign bytes
        raise ValueError(
            f"{file}: cannot be shown without running its code ({error}); expected is a file of "
            "torch.save (torch 1.6 or newer) or of export_run"
        ) from error


class _Reader:
    """Follows a pickle."""

    def __init__(self, element: Callable[[str, str, int], Any]) -> None:
        self._element = element
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def followed(self, pickle: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(pickle):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            self._step(name, argument)
        raise ValueError("a pickle without an end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _PLAIN:
            stack.append(argument)
        elif name in _VALUES:
            stack.append(_VALUES[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[int(argument)])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("TUPLE", "LIST"):
            items = self._since_mark()
            stack.append(tuple(items) if name == "TUPLE" else items)
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = self._since_mark() if name != "APPEND" else [stack.pop()]
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            self._set(name)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                argument = " ".join(map(str, (stack.pop(-2), stack.pop())))
            stack.append(Call(str(argument).replace(" ", "."), None))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._called(function, arguments))
        elif name == "BUILD":
            stack.pop()
        elif name == "BINPERSID":
            stack.append(Call("storage", stack.pop()))
        else:
            raise ValueError(f"its pickle has {name}")

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _set(self, name: str) -> None:
        stack = self._stack
        items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._since_mark()
        pairs = dict(zip(items[::2], items[1::2], strict=True))
        if name == "DICT":
            stack.append(pairs)
        elif isinstance(stack[-1], dict):
            stack[-1].update(pairs)

    def _called(self, function: Any, arguments: Any) -> Any:
        name = function.function if isinstance(function, Call) else str(function)
        if name in ("collections.OrderedDict", "collections.defaultdict"):
            return {}
        if name == "torch._utils._rebuild_parameter":
            return arguments[0]
        if name == "torch._utils._rebuild_tensor_v2":
            storage, offset, shape = arguments[:3]
            _, kind, key, *_ = storage.arguments
            dtype = _DTYPES.get(kind.function.rpartition(".")[2], kind.function)
            value = None
            if math.prod(shape) == 1 and dtype in _DTYPES.values() and dtype != "bfloat16":
                value = self._element(str(key), dtype, int(offset))
            return Tensor(dtype, tuple(map(int, shape)), value)
        return Call(name, arguments)
