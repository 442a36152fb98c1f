"""One resampling job in a process of its own: ``python _resampling_job.py ours|peer JOB INPUT.npz OUTPUT.npy``.

Runs under the interpreter of either environment and prints seconds and peak memory as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np


def ours(job: str, array: np.ndarray, new_shape: tuple[int, ...], spacing: tuple, new_spacing: tuple) -> np.ndarray:
    from nnunet_pt.core.resources import available_cpus
    from nnunet_pt.preprocessing.resample import resample_data_or_seg_to_shape, resample_scores_to_labels

    threads = available_cpus()
    if job == "probabilities":
        return resample_scores_to_labels(array, new_shape, spacing, new_spacing, threads=threads)
    is_seg = job == "segmentation"
    return resample_data_or_seg_to_shape(
        array, new_shape, spacing, new_spacing, is_seg=is_seg, order=1 if is_seg else 3, order_z=0, threads=threads
    )


def peer(job: str, array: np.ndarray, new_shape: tuple[int, ...], spacing: tuple, new_spacing: tuple) -> np.ndarray:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    is_seg = job == "segmentation"
    order = 3 if job == "image" else 1
    result = resample_data_or_seg_to_shape(
        array, new_shape, spacing, new_spacing, is_seg=is_seg, order=order, order_z=0, force_separate_z=None
    )
    return result.argmax(0) if job == "probabilities" else result


def main() -> None:
    who, job, source, target = sys.argv[1:]
    with np.load(source) as data:
        array = data["array"]
        arguments = (tuple(data["new_shape"].tolist()), tuple(data["spacing"]), tuple(data["new_spacing"]))
    function = {"ours": ours, "peer": peer}[who]
    small = array[:, :6, :6, :6]
    function(job, small, (12, 12, 12), *arguments[1:])  # imports and caches are warm in real use
    start = time.perf_counter()
    result = function(job, array, *arguments)
    seconds = time.perf_counter() - start
    np.save(target, result)
    print(json.dumps({"seconds": seconds, "peak_gb": peak_gb()}))


def peak_gb() -> float:
    """Peak memory of this process; ``ru_maxrss`` alone would also count what the parent had when it forked."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
