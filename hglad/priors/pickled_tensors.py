"""Tensors out of the records of a pickle, decoded by hand and kept inside the bytes that are there."""

import io
import math
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.priors.pickles import Record, describe, read_pickle

PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
STORAGES = {"torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8", "torch.HalfStorage": "<f2"}
MAGIC_NUMBER, PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of PyTorch's file format before zip files


class TensorReader:
    """Turns records of tensors into float32 tensors; storages that several tensors share are decoded once."""

    def __init__(self) -> None:
        self._numbers: dict[int, Tensor] = {}

    def read(self, record: Any, name: str) -> Tensor:
        """The tensor or parameter `name`, a view of its storage.

        Raises:
            HgladError: not a tensor, or one that does not lie inside the numbers that are there.
        """
        if isinstance(record, Record) and record.name in PARAMETERS and record.arguments:
            record = record.arguments[0]
        if not isinstance(record, Record) or record.name not in TENSORS or len(record.arguments) < 4:
            raise HgladError(f"'{name}' is {describe(record)}: expected a tensor")
        storage, offset, size, stride = record.arguments[:4]
        if id(storage) not in self._numbers:
            self._numbers[id(storage)] = _read_storage(storage, name)
        numbers = self._numbers[id(storage)]
        _check_inside(len(numbers), offset, size, stride, name)
        return numbers.as_strided(size, stride, offset)


def _check_inside(length: int, offset: Any, size: Any, stride: Any, name: str) -> None:
    """A tensor must lie inside its storage and must not be larger, which strides of 0 could make it."""
    inside = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8
    inside = inside and all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    if inside:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        inside = 0 < math.prod(size) <= length and last < length
    if not inside:
        raise HgladError(f"tensor '{name}' does not lie inside its {length} numbers: the file is damaged")


def _read_storage(record: Any, name: str) -> Tensor:
    """Numbers of a storage, 1-D and float32, out of the bytes that PyTorch's old file format put them in."""
    if not isinstance(record, Record) or record.name != "torch.storage._load_from_bytes":
        raise HgladError(f"the storage of '{name}' is {describe(record)}: expected bytes of PyTorch")
    content = _bytes(record.arguments[0] if record.arguments else None)
    if content is None or content[:2] == b"PK":
        raise HgladError(f"the storage of '{name}' is not in the old format that PyTorch puts into pickles")
    stream = io.BytesIO(content)
    try:
        kind, count = _read_header(stream)
        start, dtype = stream.tell(), np.dtype(kind)
        if len(content) - start != count * dtype.itemsize:
            raise ValueError(f"{len(content) - start} bytes for {count} numbers of {dtype.itemsize} bytes")
    except (HgladError, ValueError, TypeError, AttributeError, KeyError, struct.error) as error:
        raise HgladError(f"the storage of '{name}' cannot be read ({error}): the file is damaged") from error
    numbers = np.frombuffer(content, dtype, count, start)
    return torch.from_numpy(numbers.astype(np.float32))  # a copy: the bytes themselves cannot be written to


def _read_header(stream: io.BytesIO) -> tuple[str, int]:
    """Type and count of the numbers, which follow where `stream` then stands.

    Before them are five small pickles (magic number, version, byte order, content, order of the storages) and
    the count again.
    """
    magic, version, system, content, _ = (
        read_pickle(stream, STORAGES.__contains__, persistent=True, most=1000) for _ in range(5)
    )
    if (magic, version) != (MAGIC_NUMBER, PROTOCOL_VERSION) or system.get("little_endian") is not True:
        raise ValueError("not PyTorch's old file format with little-endian numbers")
    if not isinstance(content, Record) or content.name != "persistent":
        raise ValueError("no storage")
    _, kind, _, _, declared, view = content.arguments[0]
    (count,) = struct.unpack("<q", stream.read(8))
    if count < 0 or declared != count or view is not None:
        raise ValueError(f"{declared} and {count} numbers are declared")
    return STORAGES[kind.text], count


def _bytes(value: Any) -> bytes | None:
    """Bytes as protocol 3 and later hold them, or written as text, as protocol 2 does; else None."""
    if isinstance(value, Record) and value.name == "_codecs.encode" and value.arguments:
        text = value.arguments[0]
        latin = isinstance(text, str) and max(text, default="") <= "\xff"
        return text.encode("latin1") if latin else None
    return bytes(value) if isinstance(value, bytes | bytearray) else None
