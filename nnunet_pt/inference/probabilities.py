"""Files of probabilities (in a module without torch, for processes that do nothing else)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.files import atomic_path

PROBABILITIES_KEY = "probabilities"
# Of zlib's levels; nnU-Net's level 6 takes nearly twice as long to make the file 1 % smaller
_ZIP_LEVEL = 1


def write_probabilities(path: Path, probabilities_cxyz: NDArray[np.float32]) -> None:
    """Write probabilities as ``numpy.savez_compressed`` does, but faster."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_ZIP_LEVEL) as archive,
        archive.open(f"{PROBABILITIES_KEY}.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array(file, np.ascontiguousarray(probabilities_cxyz), allow_pickle=False)
