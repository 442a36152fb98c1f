"""Which cases of a final validation are predicted, so that one that was interrupted goes on.

Each process writes a file of its own into the folder of the predictions: a line about the weights and settings, then a
line for each case whose files are complete. All of them are removed when the validation is finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from nnunet_pt.core.files import digest_of, write_text

if TYPE_CHECKING:
    from nnunet_pt.networks.precision import Precision
    from nnunet_pt.training.validation import ValidationRequest

_PREFIX, _ENDING = ".in_progress_", ".jsonl"


class DoneCases:
    """The predicted cases of a validation.

    Args:
        request: What is validated.
        key: Tells these weights and settings from others, see :func:`key_of`.
        rank: Number of this process.

    Raises:
        StorageError: If the folder cannot be written.
    """

    def __init__(self, request: ValidationRequest, key: str, rank: int = 0) -> None:
        self._request = request
        self._path = request.output / f"{_PREFIX}{rank}{_ENDING}"
        self._done: dict[str, str] = {}
        for path in _files(request.output):
            found, cases = _read(path)
            if found == key:
                self._done |= cases
        if _read(self._path)[0] != key:
            write_text(self._path, json.dumps({"key": key}) + "\n")

    def __contains__(self, case: str) -> bool:
        """Whether a case is predicted from the files of today, and the results are still there."""
        request = self._request
        results = [request.prediction(case)]
        if request.save_probabilities:
            results += [request.output / f"{case}{ending}" for ending in (".npz", ".pkl")]
        return self._done.get(case) == self._sources(case) and all(path.is_file() for path in results)

    def add(self, case: str) -> None:
        """Note a case whose files are complete; if that is not possible, it would only be predicted again."""
        line = json.dumps({"case": case, "sources": self._sources(case)}) + "\n"
        with contextlib.suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)

    def _sources(self, case: str) -> str:
        """Changes when a file is written again that a case is predicted from."""
        request = self._request
        paths = [request.preprocessed / request.configuration.data_identifier / f"{case}.pkl"]
        if request.previous_stage_folder is not None:
            paths += [request.previous_stage_folder / f"{case}{ending}" for ending in (".b2nd", ".npz")]
        found = []
        for path in paths:
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append([path.name, status.st_size, status.st_mtime_ns])
        return digest_of(found)


def forget_done_cases(folder: Path) -> None:
    """Remove the files of all processes: the validation is finished."""
    for path in _files(folder):
        with contextlib.suppress(OSError):
            path.unlink()


def key_of(network: nn.Module, request: ValidationRequest, device: torch.device, precision: Precision | None) -> str:
    """Tells validations apart whose predictions may differ: other weights, settings or numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest_of(
        {
            "network": type(network).__qualname__,
            "weights": digest.hexdigest(),
            "plans": request.plans.to_json(),
            "configuration": request.configuration.name,
            "patch_size": request.configuration.patch_size,
            "file_ending": request.file_ending,
            "mirror_axes": request.mirror_axes,
            "probabilities": request.save_probabilities,
            "precision": None if precision is None else precision.name,
            "device": device.type,
        }
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*{_ENDING}"))


def _read(path: Path) -> tuple[str | None, dict[str, str]]:
    """Key and cases of a file; a line that is not complete does not count."""
    key, cases = None, {}
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                if "key" in entry:
                    key = entry["key"]
                else:
                    cases[entry["case"]] = entry["sources"]
    return key, cases
