"""From what one case took to what all cases take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from nnunet_pt.doctor.costs import CaseCost, PredictionCost
from nnunet_pt.doctor.measuring import Outcome
from nnunet_pt.doctor.sizes import CaseSize, DatasetSizes
from nnunet_pt.doctor.stages import Stage
from nnunet_pt.inference.sliding_window import MAX_FLOAT32_VALUES, sliding_window_steps

STEP_SIZE = 0.5
# Prediction reads ahead while it writes behind: images and logits that are in memory at the same time
IMAGES_IN_MEMORY, LOGITS_IN_MEMORY = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Cases that worker processes share.

    Attributes:
        sizes: The cases.
        measured: The case that was measured.
        measure: Time and memory of a case are taken as proportional to this.
        workers: Worker processes.
        cpus: CPUs for them.
    """

    sizes: DatasetSizes
    measured: CaseSize
    measure: Callable[[CaseSize], float]
    workers: int
    cpus: int

    def extended(self, stage: Stage, outcome: Outcome[CaseCost]) -> Stage:
        """The stage with what all cases take; without figures if there is no measurement."""
        cost = outcome.value
        if cost is None:
            return unmeasured(stage, outcome)
        unit = self.measure(self.measured)
        lanes = max(1, min(self.workers, self.cpus))
        working = cost.seconds * self.sizes.total(self.measure) / unit
        longest = cost.seconds * self.sizes.largest(self.measure, 1)[0] / unit
        own = cost.peak_bytes - cost.base_bytes
        # The largest cases may well be worked on at the same time; the process that gives out work is one more
        private = cost.base_bytes - cost.shared_bytes
        memory = sum(private + own * m / unit for m in self.sizes.largest(self.measure, self.workers))
        # That process has to start, too
        start = cost.start_s + 2 * max(0.0, outcome.seconds - cost.job_s)
        return replace(
            stage,
            memory_bytes=round(cost.shared_bytes + private + memory),
            largest_bytes=round(cost.base_bytes + own * self.sizes.largest(self.measure, 1)[0] / unit),
            unit_seconds=working / self.sizes.num_cases / lanes,
            units=self.sizes.num_cases,
            seconds=start + max(working / lanes, longest),
        )


def unmeasured(stage: Stage, outcome: Outcome[Any]) -> Stage:
    """The stage with the reason why there are no figures."""
    return replace(stage, comment=outcome.reason, out_of_memory=outcome.out_of_memory)


def passes(shape: Sequence[int], patch_size: Sequence[int], flips: int) -> int:
    """Passes through the network for a preprocessed image.

    Args:
        shape: Its three extents.
        patch_size: Extents of a tile, two or three.
        flips: Passes for each tile.
    """
    planes, within = shape[: len(shape) - len(patch_size)], shape[len(shape) - len(patch_size) :]
    padded = [max(n, p) for n, p in zip(within, patch_size, strict=True)]
    tiles = prod(len(starts) for starts in sliding_window_steps(padded, patch_size, STEP_SIZE))
    return prod(planes) * tiles * flips


def prediction_memory(cost: PredictionCost, shape: Sequence[int], channels: int, reading_bytes: float) -> int:
    """Peak memory of a prediction in bytes.

    Args:
        cost: What was measured with a small image.
        shape: Of the preprocessed image.
        channels: Of the image.
        reading_bytes: What reading and preprocessing the case takes at its peak.
    """
    voxels = prod(shape)
    values = cost.outputs * voxels
    logits = values * (2 if values > MAX_FLOAT32_VALUES or cost.gpu_bytes is not None else 4)
    images = IMAGES_IN_MEMORY * channels * voxels * 4
    return round(cost.memory_bytes + images + LOGITS_IN_MEMORY * logits + reading_bytes)
