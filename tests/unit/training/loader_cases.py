"""Small preprocessed cases and pipelines for the tests of the data loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_pt.preprocessing.class_locations import sample_class_locations
from nnunet_pt.preprocessing.store import save_case
from nnunet_pt.training.augmentation.base import Pipeline, SameShape, Sample
from nnunet_pt.training.patches import PatchSource
from nnunet_pt.training.sampling import PatchSampler

SHAPE = (9, 14, 12)
KEYS: tuple[Any, ...] = (1, 2)


def make_arrays(seed: int, shape: tuple[int, ...] = SHAPE, channels: int = 2) -> tuple[Any, Any]:
    """Image with a different value in every voxel, segmentation with a block of each label."""
    random = np.random.default_rng(seed)
    image = random.permutation(channels * int(np.prod(shape))).reshape(channels, *shape).astype(np.float32) + 1
    segmentation = np.zeros((1, *shape), np.int16)
    segmentation[:, :2] = -1
    segmentation[:, 3:5, 4:8, 4:8] = 1
    segmentation[:, 6:, 10:, 9:] = 2
    return image, segmentation


def write_case(folder: Path, case: str, seed: int, shape: tuple[int, ...] = SHAPE, **options: Any) -> tuple[Any, Any]:
    """Write one case as preprocessing does."""
    image, segmentation = make_arrays(seed, shape, options.pop("channels", 2))
    locations = sample_class_locations(segmentation, options.pop("keys", KEYS))
    save_case(folder, case, image, segmentation, {"class_locations": locations}, (8, 8, 8))
    return image, segmentation


def write_cases(folder: Path, number: int = 3) -> tuple[str, ...]:
    """Write several cases of different sizes; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(f"case_{i:03d}" for i in range(number))
    for seed, name in enumerate(names):
        write_case(folder, name, seed, (9 + seed, 14, 12))
    return names


def make_source(folder: Path, number: int = 3, **options: Any) -> PatchSource:
    """A source of several cases."""
    return PatchSource(folder, write_cases(folder, number), **options)


def make_sampler(**options: Any) -> PatchSampler:
    """A sampler whose patches stick out of the cases."""
    return PatchSampler(**({"load_patch": (12, 12, 12), "final_patch": (8, 8, 8)} | options))


class AddNoise(SameShape):
    """Noise from a drawn seed, and a sum over the image, whose last bits depend on the number of threads."""

    def sample(self, random: np.random.Generator, shape: tuple[int, ...]) -> int:  # noqa: ARG002
        return int(random.integers(2**62))

    def apply(self, sample: Sample, parameters: int) -> Sample:
        generator = torch.Generator().manual_seed(parameters)
        noise = torch.randn(sample.image.shape, generator=generator)
        sample.image = sample.image * (1 + noise.exp().mean()) + noise
        sample.targets = [sample.segmentation[:1], sample.segmentation[:1, ::2, ::2, ::2]]
        return sample


class Misbehave(SameShape):
    """Calls a function instead of augmenting."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def sample(self, random: np.random.Generator, shape: tuple[int, ...]) -> int:  # noqa: ARG002
        return 0

    def apply(self, sample: Sample, parameters: int) -> Sample:  # noqa: ARG002
        self.function()
        return sample


def noise_pipeline() -> Pipeline:
    """A pipeline that is random and makes two targets."""
    return Pipeline([AddNoise()])
