"""Reads files of ``torch.save`` without executing anything in them.

Such files are pickles, and a pickle may call any function. torch's ``weights_only`` reader knows tensors and plain
Python values only. nnU-Net stores numpy numbers, too; their constructors are replaced by functions that return plain
Python numbers, so that nothing of numpy is called with what the file says.
"""

from __future__ import annotations

import errno
import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.core.files import storage_errors

_PIECE = 4 << 20
_DOWNLOAD_AGAIN = "download or copy the file again, or use another checkpoint"
_OTHER_CONTENT = {  # what a file begins with -> what it is
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not downloaded (git lfs pull)",
    b"<!DOCTYPE": "a web page: the download did not deliver the file",
    b"<html": "a web page: the download did not deliver the file",
    b"\x1f\x8b": "a gzip archive",
    b"{": "a JSON or text file",
}


class _DType:
    """Stands in for ``numpy.dtype``: remembers what the file says."""

    def __init__(self, code: object = "", *_: object) -> None:
        self._code = code
        self._order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = state[1] if state[1] in ("<", ">") else "="

    def dtype(self) -> np.dtype[Any]:
        """The type, if its values are plain numbers or strings."""
        if not isinstance(self._code, str) or not re.fullmatch(r"[biufSU]\d+", self._code):
            raise pickle.UnpicklingError(f"numpy values of type {self._code!r}")
        return np.dtype(self._order + self._code)


class _Array(list[Any]):
    """Stands in for ``numpy.ndarray``: becomes nested lists of plain numbers."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        flat = np.frombuffer(_as_bytes(content), kind.dtype())
        self[:] = np.atleast_1d(flat.reshape(shape, order="F" if fortran else "C")).tolist()


def _as_bytes(content: object) -> bytes:
    if isinstance(content, str):  # as old pickle protocols hold bytes
        return content.encode("latin-1")
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError(f"numpy values made of {type(content).__name__}")
    return content


def _scalar(kind: _DType, content: object = b"") -> Any:
    return np.frombuffer(_as_bytes(content), kind.dtype())[0].item()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin-1")


_ALLOWED: list[Any] = [
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_DType, "numpy.dtype"),
    (_DType, f"{_DType.__module__}._DType"),
    (_Array, "numpy.ndarray"),
    (_encode, "_codecs.encode"),
    torch.device,
]


def load_file(path: Path, *, lazy: bool = False, check_sums: bool | None = None) -> Any:
    """Content of a file written by ``torch.save``; tensors are on the CPU, numpy numbers become Python numbers.

    Args:
        path: The file.
        lazy: Map the tensors into memory instead of reading them, and do not compare checksums. For questions about
            the other content: fast for files of any size. The tensors must not be used for long, since they are gone
            when the file is overwritten.
        check_sums: Compare checksums; None for unless ``lazy``. With ``lazy`` for callers that copy a part of the
            tensors, which are sound then.

    Raises:
        CheckpointError: If the file is missing, truncated, damaged, something else, or asks for code to be executed.
        StorageError: If the file cannot be accessed.
    """
    mapped = _looks_sound(path, check_sums=not lazy if check_sums is None else check_sums) and lazy
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols that are then refused
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise _damaged(path, error) from error
        raise CheckpointError(
            f"{path} holds more than data, so it was not read; nothing of it was executed.",
            found=f"a request for {wanted[1]}",
            expected="tensors, numbers, text, lists and dictionaries",
            remedy="use a checkpoint from a source that you trust, saved without Python objects of its own",
        ) from error
    except OSError as error:
        with storage_errors(path):
            raise error
    except MemoryError:
        raise
    except Exception as error:  # damaged pickles fail in every way there is
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: Exception) -> CheckpointError:
    lines = str(reason).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return CheckpointError(
        f"The checkpoint {path} is damaged or of a form that cannot be read safely.",
        found=f"{_size(path)}; {lines[0][:200] if lines else type(reason).__name__}",
        expected="a complete file as torch.save writes it",
        remedy=_DOWNLOAD_AGAIN,
    )


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _looks_sound(path: Path, *, check_sums: bool) -> bool:
    """Check what can be checked without reading the pickle.

    Returns:
        Whether the file has torch's present format, a ZIP archive, as opposed to that of torch before 1.6.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"There is no checkpoint {path}", found=found, remedy="check the path")
    with storage_errors(path), path.open("rb") as file:
        beginning = file.read(64)
    if beginning.startswith(b"PK"):
        _check_archive(path, check_sums=check_sums)
        return True
    if beginning.startswith(b"\x80") and not tarfile.is_tarfile(path):
        return False
    kinds = [kind for start, kind in _OTHER_CONTENT.items() if beginning.startswith(start)]
    if not beginning:
        kinds = ["an empty file"]
    elif beginning[8:9] == b"{":
        kinds = ["a safetensors file"]
    raise CheckpointError(
        f"{path} is not a checkpoint.",
        found=f"{kinds[0] if kinds else f'a file that begins with {beginning[:16]!r}'} ({_size(path)})",
        expected="a file written by torch.save",
        remedy=_DOWNLOAD_AGAIN,
    )


def _check_archive(path: Path, *, check_sums: bool) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            if packed:  # torch never packs what it saves, and such a file could unpack to any size in memory
                raise CheckpointError(
                    f"The checkpoint {path} is packed once more.",
                    found=f"{len(packed)} packed entries, such as {packed[0]}",
                    expected="a file as torch.save writes it",
                    remedy="unpack it and save it again with torch.save, if you trust where it comes from",
                )
            for record in archive.infolist() if check_sums else ():
                if record.CRC:  # torch can be told to leave the checksums out; they are 0 then
                    with archive.open(record) as content:
                        while content.read(_PIECE):
                            pass
    except OSError as error:
        if error.errno == errno.EINVAL:  # the archive's directory says that something lies before the file's beginning
            raise _damaged(path, error) from error
        with storage_errors(path):
            raise error
    except zipfile.BadZipFile as error:
        if "not a zip file" not in str(error):
            raise _damaged(path, error) from error
        raise CheckpointError(
            f"The checkpoint {path} is truncated.",
            found=f"{_size(path)}, the end of the file is missing",
            expected="a complete file as torch.save writes it",
            remedy=_DOWNLOAD_AGAIN,
        ) from error
    except (EOFError, ValueError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise _damaged(path, error) from error
    ends = {name.rpartition("/")[2] for name in names}
    if "data.pkl" not in ends or "constants.pkl" in ends:
        raise CheckpointError(
            f"{path} is not a checkpoint.",
            found="a TorchScript program" if "constants.pkl" in ends else f"a ZIP archive of {len(names)} other files",
            expected="a file written by torch.save",
            remedy="if this is an exported nnU-Net model: nnUNetv2_install_pretrained_model_from_zip",
        )
