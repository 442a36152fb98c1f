"""Reads safetensors files: the length of a JSON header, the header, then raw numbers.

The format (https://huggingface.co/docs/safetensors) cannot hold anything that is executed. Everything the header says
is compared with the file before a tensor is made of it.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.core.files import storage_errors

LENGTH_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000  # bytes; the limit of the format
_TYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def looks_like_safetensors(beginning: bytes) -> bool:
    """Whether a file that begins like this is to be read as safetensors.

    Args:
        beginning: At least nine bytes.
    """
    return beginning[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and not beginning.startswith((b"PK", b"{"))


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the texts in a file; tensors are mapped into memory and must not outlive it.

    Raises:
        CheckpointError: If the file is truncated or damaged.
        StorageError: If it cannot be accessed.
    """
    with storage_errors(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > min(size - LENGTH_BYTES, _LONGEST_HEADER):
            raise _damaged(path, f"a header of {length:,} bytes in a file of {size:,}")
        header = file.read(length)
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"a header that is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise _damaged(path, "a header that is not a JSON object")
    texts = entries.pop("__metadata__", {})
    with storage_errors(path):
        content = _mapped(path, size)
    start = LENGTH_BYTES + length
    tensors = {name: _tensor(path, name, entry, content[start:]) for name, entry in entries.items()}
    return tensors, {str(k): str(v) for k, v in texts.items()} if isinstance(texts, dict) else {}


def _mapped(path: Path, size: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)


def _tensor(path: Path, name: str, entry: Any, content: Tensor) -> Tensor:
    try:
        kind = _TYPES[entry["dtype"]]
        shape = [int(n) for n in entry["shape"]]
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"an entry for {name} that cannot be read ({entry!r:.100})") from error
    if min(shape, default=0) < 0 or not 0 <= begin <= end or end - begin != math.prod(shape) * kind.itemsize:
        raise _damaged(path, f"{end - begin} bytes for {name} of shape {shape}")
    if end > len(content):
        raise _damaged(path, f"{len(content):,} bytes of tensors, {name} ends at {end:,}")
    numbers = content[begin:end]
    aligned = numbers if numbers.storage_offset() % kind.itemsize == 0 else numbers.clone()
    return aligned.view(kind).reshape(shape) if end > begin else torch.empty(shape, dtype=kind)


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"The safetensors file {path} is truncated or damaged.",
        found=found,
        expected="a complete file",
        remedy="download or copy the file again, or use another checkpoint",
    )
