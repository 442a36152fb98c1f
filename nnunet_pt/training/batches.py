"""Making one batch: sample, read, augment, and put the results side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.training.augmentation.base import Pipeline, Sample
from nnunet_pt.training.needed_region import needed_region
from nnunet_pt.training.patches import PatchSource
from nnunet_pt.training.sampling import PatchSampler, sample_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

Layout = tuple[tuple[tuple[int, ...], torch.dtype], ...]
Allocate = Callable[[Layout], list[Tensor]]


@dataclass(slots=True)
class Batch:
    """What one training step of one process works on.

    Attributes:
        step: Counts the batches of this purpose over the whole training.
        keys: Case of each sample.
        data: (samples, channels, *spatial) float32.
        targets: Highest resolution first, each (samples, channels, *spatial). Without a pipeline the only entry is
            the segmentation as it was read, int16; in a cascade channel 1 is the previous stage's.
        generators: Without a pipeline each sample's random generator, to draw augmentation parameters from.
        warnings: What the user should know about the data; it may come again with other batches.
    """

    step: int
    keys: tuple[str, ...]
    data: Tensor
    targets: list[Tensor]
    generators: tuple[np.random.Generator, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def tensors(self) -> list[Tensor]:
        """Data and targets."""
        return [self.data, *self.targets]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMaker:
    """Makes any batch of a training; the same batch every time and everywhere.

    Attributes:
        source: The cases.
        sampler: Where patches come from.
        pipeline: The augmentation; without one, patches are delivered as they were read.
        batch_size: Samples of this process.
        global_batch_size: Samples of all processes together.
        sample_offset: Index of this process's first sample in the global batch.
        seed: The training's seed.
        purpose: "train" or "val".
    """

    source: PatchSource
    sampler: PatchSampler
    pipeline: Pipeline | None
    batch_size: int
    global_batch_size: int
    sample_offset: int
    seed: int
    purpose: str

    def make(self, step: int, allocate: Allocate | None = None, note: Callable[[str], None] | None = None) -> Batch:
        """Make a batch.

        Args:
            step: Which one.
            allocate: Gives the batch's tensors (data first) for their shapes and types; new ones by default.
            note: Called with each case before work on it begins.

        Raises:
            StorageError: If a case is missing or damaged.
            TrainingError: If the cases do not fit each other.
        """
        keys: list[str] = []
        generators: list[np.random.Generator] = []
        warnings: list[str] = []
        tensors: list[Tensor] = []
        for position in range(self.batch_size):
            index = self.sample_offset + position
            random = sample_generator(self.seed, self.purpose, step, index)
            case = self.source.cases[int(random.integers(len(self.source.cases)))]
            if note is not None:
                note(case)
            parts = self._sample(random, case, index, warnings)
            if not tensors:
                layout = tuple(((self.batch_size, *p.shape), p.dtype) for p in parts)
                tensors = (allocate or _new_tensors)(layout)
            self._check(case, keys, parts, tensors)
            for part, tensor in zip(parts, tensors, strict=True):
                tensor[position].copy_(part)
            keys.append(case)
            generators.append(random)
        return Batch(
            step=step,
            keys=tuple(keys),
            data=tensors[0],
            targets=tensors[1:],
            generators=tuple(generators) if self.pipeline is None else (),
            warnings=tuple(warnings),
        )

    def _sample(self, random: np.random.Generator, case: str, index: int, warnings: list[str]) -> list[Tensor]:
        """Image and targets of one sample."""
        forced = self.sampler.forced(random, index, self.global_batch_size)
        locations = self.source.class_locations(case) if self.sampler.needs_locations(forced) else None
        key = self.sampler.annotated_key
        if not forced and key is not None and locations is not None and not locations.count(key):
            warnings.append(f"Case {case} has no annotated voxel; its patches are taken from anywhere.")
        corner = self.sampler.choose(random, self.source.shape(case), locations, forced)
        patch = self.sampler.load_patch
        if self.pipeline is None:
            return list(self.source.read(case, corner, patch))
        parameters = self.pipeline.sample(random, (self.source.channels(case), *patch))
        region = needed_region(self.pipeline, parameters, patch)
        sample = self.pipeline.apply(Sample(*self.source.read(case, corner, patch, region)), parameters)
        return [sample.image, *([sample.segmentation] if sample.targets is None else sample.targets)]

    def _check(self, case: str, earlier: Sequence[str], parts: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        found, expected = [tuple(p.shape) for p in parts], [tuple(t.shape[1:]) for t in tensors]
        if found != expected:
            raise TrainingError(
                f"Case {case} does not fit the other cases of its batch ({', '.join(earlier)}).",
                found=f"patches of shape {found}",
                expected=f"{expected}",
                remedy="preprocess all cases with the same plans; cases need the same number of channels",
            )


def _new_tensors(layout: Layout) -> list[Tensor]:
    return [torch.empty(shape, dtype=dtype) for shape, dtype in layout]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: sums over several threads would differ in their last bits from those of workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
