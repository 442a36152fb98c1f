from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from nnunet_pt.training.augmentation.base import (
    ALWAYS,
    OneOf,
    Pipeline,
    Sample,
    Sometimes,
    draw_around_one,
    draw_channels,
    draw_seed,
    seeded_generator,
    slices_at_once,
)
from nnunet_pt.training.augmentation.intensity import Brightness, FactorParameters, Gamma
from nnunet_pt.training.augmentation.spatial import Spatial
from nnunet_pt.training.augmentation.targets import OutsideToBackground


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def sample() -> Sample:
    return Sample(torch.ones(2, 6, 6), torch.zeros(1, 6, 6, dtype=torch.int16))


def test_sometimes_draws_for_its_share_of_samples() -> None:
    random, transform = rng(), Sometimes(0.3, Brightness())
    drawn = [transform.sample(random, (1, 4, 4)) for _ in range(4000)]
    assert 0.27 < np.mean([d is not None for d in drawn]) < 0.33


def test_one_of_draws_each_candidate_and_applies_the_chosen_one() -> None:
    random = rng()
    transform = OneOf((Brightness(factor=(2, 2)), Brightness(factor=(3, 3)), Sometimes(0.0, Brightness())))
    drawn = [transform.sample(random, (2, 6, 6)) for _ in range(3000)]
    for index in (0, 1):
        assert 0.28 < np.mean([d is not None and d.index == index for d in drawn]) < 0.39
    assert 0.28 < np.mean([d is None for d in drawn]) < 0.39
    values = {transform.apply(sample(), d).image.unique().item() for d in drawn[:50] if d is not None}
    assert values == {2.0, 3.0}


def test_the_pipeline_tells_each_transform_the_shape_it_will_get() -> None:
    shapes = []

    class Spy(Brightness):
        def sample(self, random: np.random.Generator, shape: tuple[int, ...]) -> FactorParameters:
            shapes.append(shape)
            return super().sample(random, shape)

    pipeline = Pipeline([Spy(), Spatial(patch_size=(4, 5), rotation=(0, 0)), Spy()])
    pipeline.sample(rng(), (3, 8, 9))
    assert shapes == [(3, 8, 9), (3, 4, 5)]
    assert pipeline.output_shape((3, 8, 9)) == (3, 4, 5)


def test_parameters_survive_pickling_and_replay_the_sample_bit_for_bit() -> None:
    pipeline = Pipeline([Sometimes(1.0, Gamma()), OutsideToBackground()])
    parameters = pipeline.sample(rng(3), (2, 6, 6))
    assert parameters[1] is ALWAYS
    image = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(1))
    results = [
        pipeline.apply(Sample(image.clone(), sample().segmentation), p).image
        for p in (parameters, pickle.loads(pickle.dumps(parameters)))
    ]
    assert torch.equal(*results)
    assert not torch.equal(results[0], image)


def test_parameters_of_another_number_of_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        Pipeline([OutsideToBackground()]).apply(sample(), ())


@pytest.mark.parametrize(("low", "high", "below"), [(0.7, 1.5, 0.5), (0.75, 1.25, 0.5), (1.2, 2.0, 0.0)])
def test_factors_are_below_one_in_half_of_the_draws(low: float, high: float, below: float) -> None:
    random = rng(1)
    values = np.array([draw_around_one(random, low, high) for _ in range(4000)])
    assert values.min() >= low
    assert values.max() <= high
    assert abs(np.mean(values < 1) - below) < 0.03
    upper = values[values >= 1]
    assert abs(upper.mean() - (max(low, 1) + high) / 2) < 0.02


def test_channels_are_drawn_independently() -> None:
    random = rng(2)
    drawn = [draw_channels(random, 2, 0.5) for _ in range(4000)]
    for expected in ((), (0,), (1,), (0, 1)):
        assert abs(np.mean([d == expected for d in drawn]) - 0.25) < 0.03


def test_seeds_reproduce_noise_and_differ() -> None:
    random = rng(4)
    first, second = draw_seed(random), draw_seed(random)
    assert first != second
    noise = [torch.rand(3, generator=seeded_generator(seed, torch.device("cpu"))) for seed in (first, first, second)]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_a_gpu_does_everything_at_once() -> None:
    assert slices_at_once(1000, torch.device("cuda")) > 10**6
    assert slices_at_once(10**9, torch.device("cpu")) == 1
