from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_cases import make_sampler, make_source, noise_pipeline

from nnunet_pt.dataset.labels import Labels
from nnunet_pt.training import batches
from nnunet_pt.training.augmentation.base import Pipeline, Sample
from nnunet_pt.training.augmentation.default import AugmentationSettings, default_training_pipeline
from nnunet_pt.training.augmentation.spatial import Spatial
from nnunet_pt.training.batches import Batch
from nnunet_pt.training.loader import BatchLoader
from nnunet_pt.training.needed_region import needed_region
from nnunet_pt.training.sampling import sample_generator

LABELS = Labels(labels={"background": 0, "a": 1, "b": 2})


@settings(max_examples=80, deadline=None)
@given(
    load=st.lists(st.integers(8, 24), min_size=2, max_size=3),
    share=st.floats(0.3, 1),
    flat=st.booleans(),
    interpolation=st.sampled_from(["linear", "nearest"]),
    seed=st.integers(0, 10**6),
)
def test_nothing_else_is_looked_at(load: list[int], share: float, flat: bool, interpolation: str, seed: int) -> None:
    patch = tuple(max(1, int(n * share)) for n in load)
    spatial = Spatial(
        patch_size=patch,
        rotation=(-np.pi, np.pi),
        rotation_probability=0.7,
        scaling_probability=0.7,
        slice_by_slice=flat and len(load) == 3,
        image_interpolation=interpolation,  # type: ignore[arg-type]
        segmentation_interpolation=interpolation,  # type: ignore[arg-type]
    )
    pipeline = Pipeline([spatial])
    random = sample_generator(seed, "train", 0, 0)
    parameters = pipeline.sample(random, (1, *load))
    region = needed_region(pipeline, parameters, load)
    assert region is not None
    image = torch.from_numpy(random.normal(size=(1, *load)).astype(np.float32))
    segmentation = torch.from_numpy(random.integers(-1, 4, (1, *load)).astype(np.int16))
    part = Sample(torch.zeros_like(image), torch.zeros_like(segmentation))
    for target, source in ((part.image, image), (part.segmentation, segmentation)):
        target[(slice(None), *region)] = source[(slice(None), *region)]
    expected = pipeline.apply(Sample(image, segmentation), parameters)
    found = pipeline.apply(part, parameters)
    assert torch.equal(found.image, expected.image)
    assert torch.equal(found.segmentation, expected.segmentation)


def test_most_samples_need_no_more_than_the_patch() -> None:
    pipeline = Pipeline([Spatial(patch_size=(10, 12), rotation=(-1, 1))])
    regions = [
        needed_region(pipeline, pipeline.sample(sample_generator(0, "train", s, 0), (1, 20, 20)), (20, 20))
        for s in range(100)
    ]
    assert sum(r == (slice(5, 15), slice(4, 16)) for r in regions) > 50


def test_other_pipelines_get_everything() -> None:
    pipeline = noise_pipeline()
    assert needed_region(pipeline, pipeline.sample(sample_generator(0, "train", 0, 0), (1, 9, 9)), (9, 9)) is None
    assert needed_region(Pipeline([]), (), (9, 9)) is None


@pytest.mark.parametrize(("load", "final"), [((16, 18, 18), (8, 10, 12)), ((18, 18), (10, 12))])
def test_batches_are_as_if_everything_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: tuple[int, ...], final: tuple[int, ...]
) -> None:
    pipeline = default_training_pipeline(
        AugmentationSettings(
            patch_size=final, labels=LABELS, rotation=(-0.5, 0.5), mirror_axes=tuple(range(len(final)))
        )
    )
    source, sampler = make_source(tmp_path), make_sampler(load_patch=load, final_patch=final)

    def collect() -> list[Batch]:
        return list(BatchLoader(source, sampler, pipeline, batch_size=3, seed=0).start(0, 10))

    found = collect()
    monkeypatch.setattr(batches, "needed_region", lambda *_: None)
    for a, b in zip(found, collect(), strict=True):
        assert a.keys == b.keys
        assert all(torch.equal(x, y) for x, y in zip(a.tensors, b.tensors, strict=True))
