"""Whether all machines of a training see the folder that process 0 writes to."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.core.files import make_folder, write_text
from nnunet_pt.core.parts import names_in
from nnunet_pt.training.distributed import Processes

PATIENCE_S = 20.0  # a file system of a network may show an old list of a folder for a while
_INTERVAL_S = 0.2
_PREFIX = ".nnunet_shared-"


def require_shared(folder: Path, processes: Processes) -> None:
    """Complain about a folder that is another one on some of the machines.

    Else they would not find the checkpoint to continue from, and their part of the final validation would be lost.

    Args:
        folder: The folder of the fold; it is made.
        processes: The processes of the training.

    Raises:
        TrainingError: If a machine does not see what process 0 has written there.
    """
    if processes.on_this_machine == processes.world_size:
        return
    told = []
    if processes.is_main:
        told = [f"{_PREFIX}{secrets.token_hex(8)}"]
        write_text(make_folder(folder) / told[0], "")
    mark = folder / processes.collect(told)[0]
    blind = processes.collect([] if _appears(mark) else [os.uname().nodename])
    if processes.is_main:
        mark.unlink(missing_ok=True)
    if blind:
        raise TrainingError(
            f"Not all machines of this training see the same folder {folder}.",
            found=f"on {', '.join(dict.fromkeys(blind))} it does not hold what process 0 has written there",
            remedy="put nnUNet_results on a file system that all machines share, under the same path on each",
        )


def _appears(file: Path) -> bool:
    end = time.monotonic() + PATIENCE_S
    while file.name not in names_in(file.parent):  # asking for the file alone might be answered from memory
        if time.monotonic() > end:
            return False
        time.sleep(_INTERVAL_S)
    return True
