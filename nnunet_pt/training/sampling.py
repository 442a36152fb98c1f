"""Which case, and where in it, each training sample comes from: nnU-Net's rules, replayable sample by sample.

Every sample has a random generator of its own that depends on nothing but (seed, purpose, step, index in the global
batch). Batches therefore do not depend on the number of workers or processes, and a continued training sees what an
uninterrupted one would have seen. The draws of a sample are, in this order: its case, whether foreground is forced
(only if that is left to chance), its location, and then whatever the augmentation draws.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.dataset.labels import LabelValue
from nnunet_pt.training.locations import ClassLocations


def sample_generator(seed: int, purpose: str, step: int, index: int) -> np.random.Generator:
    """The random generator of one sample.

    Args:
        seed: The training's seed, at least 0.
        purpose: What the sample is for ("train", "val"); different words give independent numbers.
        step: Counts the batches of that purpose over the whole training.
        index: Position in the global batch.
    """
    entropy = (seed, zlib.crc32(purpose.encode()), step, index)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def process_share(global_batch_size: int, num_processes: int, rank: int) -> tuple[int, int]:
    """Which samples of the global batch a process makes.

    As in nnU-Net each process gets the same number of samples, the first ones one more if that leaves a remainder.

    Returns:
        (index of the first sample, number of samples).

    Raises:
        TrainingError: If there are more processes than samples.
    """
    if global_batch_size < num_processes:
        raise TrainingError(
            "The batch is too small to be shared between the processes.",
            found=f"batch size {global_batch_size}, {num_processes} processes",
            expected="at least one sample for each process",
            remedy=f"train with -num_gpus {global_batch_size} or fewer, or with a larger batch",
        )
    each, rest = divmod(global_batch_size, num_processes)
    return rank * each + min(rank, rest), each + (rank < rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSampler:
    """nnU-Net's rules for where patches come from.

    Two-dimensional configurations draw from three-dimensional cases, too: from a slice along the first axis.

    Attributes:
        load_patch: Size of what is read, 2 or 3 axes; larger than the final patch if augmentation rotates or scales.
        final_patch: Size of what the network gets.
        annotated_key: With an ignore label the key of ``class_locations`` for all annotated voxels.
        oversample_foreground: Share of the samples that are centred on foreground.
        probabilistic: Decide that for each sample by chance, instead of taking the last samples of each batch.
    """

    load_patch: tuple[int, ...]
    final_patch: tuple[int, ...]
    annotated_key: LabelValue | None = None
    oversample_foreground: float = 0.33
    probabilistic: bool = False

    @property
    def box(self) -> tuple[int, ...]:
        """The load patch with three axes."""
        return _three_axes(self.load_patch)

    def forced(self, random: np.random.Generator, index: int, global_batch_size: int) -> bool:
        """Whether a sample is centred on foreground.

        nnU-Net gives each process of a distributed training an oversampling share of its own; the outcome is that of
        this one rule over the global batch.

        Args:
            random: The sample's generator; used only if the choice is left to chance.
            index: Position in the global batch.
            global_batch_size: Samples of all processes together.
        """
        if self.probabilistic:
            return bool(random.random() < self.oversample_foreground)
        return index >= round(global_batch_size * (1 - self.oversample_foreground))

    def needs_locations(self, forced: bool) -> bool:
        """Whether :meth:`choose` looks at the locations of the classes."""
        return forced or self.annotated_key is not None

    def bounds(self, case_shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Smallest and largest corner of a patch that is placed anywhere; boxes may stick out by half of the margin.

        Args:
            case_shape: Spatial shape of the case, three axes.
        """
        shape, load, final = (np.asarray(v, np.int64) for v in (case_shape, self.box, _three_axes(self.final_patch)))
        margin = load - final
        margin = np.where(margin + shape < load, load - shape, margin)
        return -margin // 2, shape + margin // 2 + margin % 2 - load

    def choose(
        self,
        random: np.random.Generator,
        case_shape: tuple[int, ...],
        class_locations: ClassLocations | None,
        forced: bool,
    ) -> tuple[int, ...]:
        """Draw the corner of a patch.

        Args:
            random: The sample's generator.
            case_shape: Spatial shape of the case, three axes.
            class_locations: Where the classes are; needed if :meth:`needs_locations` says so.
            forced: Centre the patch on a voxel of a random class that the case has. Otherwise it is anywhere, or
                with an ignore label around any annotated voxel.

        Returns:
            The first voxel of the box along three axes; it may lie outside of the case.
        """
        lower, upper = self.bounds(case_shape)
        keys = self._keys(class_locations, forced)
        if class_locations is None or not keys:
            corner = random.integers(lower, upper, endpoint=True)
        else:
            key = keys[int(random.integers(len(keys)))] if forced else keys[0]
            voxel = class_locations.voxel(key, int(random.integers(class_locations.count(key))))
            # No upper limit, as in nnU-Net: around voxels at the far end the box sticks out by up to half
            corner = np.maximum(lower, np.asarray(voxel, np.int64) - np.asarray(self.box) // 2)
        return tuple(int(c) for c in corner)

    def _keys(self, locations: ClassLocations | None, forced: bool) -> tuple[LabelValue, ...]:
        """The keys to choose from, all of them with voxels."""
        if locations is None:
            return ()
        if not forced:
            wanted = self.annotated_key
            return (wanted,) if wanted is not None and locations.count(wanted) else ()
        classes = tuple(k for k in locations.keys if k != self.annotated_key)
        return classes or locations.keys


def _three_axes(patch: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *patch) if len(patch) == 2 else patch
