from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_cases import make_arrays

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.preprocessing.class_locations import sample_class_locations
from nnunet_pt.training.locations import ClassLocations
from nnunet_pt.training.sampling import PatchSampler, process_share, sample_generator

sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20)), min_size=3, max_size=3)


def naive_bounds(shape: int, load: int, final: int) -> tuple[int, int]:
    """nnU-Net's rule for one axis, as the behaviour is described."""
    n = load - final
    if n + shape < load:
        n = load - shape
    return math.floor(-n / 2), shape + n // 2 + n % 2 - load


def locations_of(shape: tuple[int, ...], voxels: dict[Any, list[tuple[int, ...]]]) -> ClassLocations:
    return ClassLocations({k: np.array([(0, *v) for v in vs]) if vs else [] for k, vs in voxels.items()}, shape)


@settings(max_examples=200, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 1000))
def test_corners_lie_within_the_bounds(sizes: list[tuple[int, int, int]], seed: int) -> None:
    shape, final = tuple(s for s, _, _ in sizes), tuple(f for _, f, _ in sizes)
    load = tuple(f + extra for _, f, extra in sizes)
    sampler = PatchSampler(load_patch=load, final_patch=final)
    expected = [naive_bounds(*axis) for axis in zip(shape, load, final, strict=True)]
    lower, upper = sampler.bounds(shape)
    assert list(zip(lower.tolist(), upper.tolist(), strict=True)) == expected
    for step in range(5):
        corner = sampler.choose(sample_generator(seed, "train", step, 0), shape, None, False)
        assert all(low <= c <= high for c, (low, high) in zip(corner, expected, strict=True))


def test_every_corner_is_equally_likely() -> None:
    sampler = PatchSampler(load_patch=(6, 5, 8), final_patch=(4, 5, 8))
    counts: dict[tuple[int, ...], int] = {}
    for step in range(3000):
        corner = sampler.choose(sample_generator(0, "train", step, 0), (5, 7, 8), None, False)
        counts[corner] = counts.get(corner, 0) + 1
    expected = set(itertools.product(range(-1, 1), range(3), range(1)))
    assert set(counts) == expected
    assert chi_squared(list(counts.values())) < 25  # 5 degrees of freedom: p = 0.0001


def chi_squared(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((c - mean) ** 2 for c in counts) / mean


@settings(max_examples=200, deadline=None)
@given(
    sizes=sizes,
    places=st.lists(st.tuples(*[st.floats(0, 0.999)] * 3), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_forced_patches_are_centred_on_a_voxel(
    sizes: list[tuple[int, int, int]], places: list[tuple[float, ...]], seed: int
) -> None:
    shape, final = tuple(s for s, _, _ in sizes), tuple(f for _, f, _ in sizes)
    load = tuple(f + extra for _, f, extra in sizes)
    voxels = [tuple(int(p * n) for p, n in zip(place, shape, strict=True)) for place in places]
    sampler = PatchSampler(load_patch=load, final_patch=final)
    possible = {
        tuple(
            max(naive_bounds(n, size, f)[0], v - size // 2)
            for v, n, size, f in zip(voxel, shape, load, final, strict=True)
        )
        for voxel in voxels
    }
    locations = locations_of(shape, {1: voxels[:2], 2: voxels[2:], 3: []})
    corner = sampler.choose(sample_generator(seed, "train", 0, 0), shape, locations, True)
    assert corner in possible


def test_there_is_no_upper_limit_for_forced_patches() -> None:
    sampler = PatchSampler(load_patch=(8, 8, 8), final_patch=(8, 8, 8))
    locations = locations_of((20, 20, 20), {1: [(19, 10, 0)]})
    assert sampler.choose(sample_generator(0, "train", 0, 0), (20, 20, 20), locations, True) == (15, 6, 0)


def test_classes_are_equally_likely_then_voxels() -> None:
    rare, common = [(1, 1, 1)], [(9, y, z) for y in range(10) for z in range(10)]
    locations = locations_of((10, 10, 10), {1: common, 2: rare, 3: []})
    sampler = PatchSampler(load_patch=(1, 1, 1), final_patch=(1, 1, 1))
    corners = [sampler.choose(sample_generator(0, "train", s, 0), (10, 10, 10), locations, True) for s in range(2000)]
    share = sum(c == (1, 1, 1) for c in corners) / len(corners)
    assert abs(share - 0.5) < 4.5 * 0.5 / math.sqrt(2000)
    assert len(set(corners)) == 101


def test_case_without_foreground_is_taken_from_anywhere() -> None:
    sampler = PatchSampler(load_patch=(4, 4, 4), final_patch=(4, 4, 4))
    locations = locations_of((9, 9, 9), {1: [], 2: []})
    corners = {sampler.choose(sample_generator(0, "train", s, 0), (9, 9, 9), locations, True) for s in range(60)}
    assert len(corners) > 30


class TestIgnoreLabel:
    key = (-1, 0, 1)
    shape = (9, 9, 9)
    sampler = PatchSampler(load_patch=(1, 1, 1), final_patch=(1, 1, 1), annotated_key=key)

    def corners(self, locations: ClassLocations, forced: bool) -> set[tuple[int, ...]]:
        return {
            self.sampler.choose(sample_generator(0, "train", s, 0), self.shape, locations, forced) for s in range(80)
        }

    def test_unforced_patches_lie_on_annotated_voxels(self) -> None:
        locations = locations_of(self.shape, {1: [(1, 1, 1)], self.key: [(1, 1, 1), (2, 2, 2)]})
        assert self.corners(locations, False) == {(1, 1, 1), (2, 2, 2)}

    def test_forced_patches_prefer_classes(self) -> None:
        locations = locations_of(self.shape, {1: [(1, 1, 1)], self.key: [(2, 2, 2)]})
        assert self.corners(locations, True) == {(1, 1, 1)}
        assert self.corners(locations_of(self.shape, {1: [], self.key: [(2, 2, 2)]}), True) == {(2, 2, 2)}

    def test_without_annotated_voxels_anywhere(self) -> None:
        locations = locations_of(self.shape, {1: [(1, 1, 1)], self.key: []})
        assert len(self.corners(locations, False)) > 40

    def test_locations_are_always_needed(self) -> None:
        assert self.sampler.needs_locations(False)
        assert not PatchSampler(load_patch=(1, 1), final_patch=(1, 1)).needs_locations(False)


def test_slices_of_volumes() -> None:
    sampler = PatchSampler(load_patch=(6, 6), final_patch=(4, 4))
    corners = [sampler.choose(sample_generator(0, "train", s, 0), (7, 8, 8), None, False) for s in range(200)]
    assert {c[0] for c in corners} == set(range(7))
    locations = locations_of((7, 8, 8), {1: [(5, 4, 4)]})
    assert sampler.choose(sample_generator(0, "train", 0, 0), (7, 8, 8), locations, True) == (5, 1, 1)


@given(batch=st.integers(1, 64), fraction=st.sampled_from([0.0, 0.1, 0.33, 0.5, 1.0]))
def test_last_samples_of_the_batch_are_forced(batch: int, fraction: float) -> None:
    sampler = PatchSampler(load_patch=(1, 1), final_patch=(1, 1), oversample_foreground=fraction)
    random = sample_generator(0, "train", 0, 0)
    state = random.bit_generator.state
    assert [sampler.forced(random, j, batch) for j in range(batch)] == [
        j >= round(batch * (1 - fraction)) for j in range(batch)
    ]
    assert str(random.bit_generator.state) == str(state)  # nothing was drawn


@given(data=st.data(), batch=st.integers(1, 64))
def test_processes_force_what_nnunet_forces(data: st.DataObject, batch: int) -> None:
    """nnU-Net computes an oversampling share for each process, and each applies it to its own samples."""
    processes = data.draw(st.integers(1, batch))
    sampler = PatchSampler(load_patch=(1, 1), final_patch=(1, 1))
    end = 0
    for rank in range(processes):
        size = batch // processes + (batch // processes * processes + rank < batch)
        start, end = end, end + size
        if end / batch < 0.67:
            share = 0.0
        elif start / batch > 0.67:
            share = 1.0
        else:
            share = float(np.mean([i >= round(batch * 0.67) for i in range(start, end)]))
        expected = [j >= round(size * (1 - share)) for j in range(size)]
        assert process_share(batch, processes, rank) == (start, size)
        random = sample_generator(0, "train", 0, 0)
        assert [sampler.forced(random, start + j, batch) for j in range(size)] == expected
    assert end == batch


def test_more_processes_than_samples() -> None:
    with pytest.raises(TrainingError, match="-num_gpus 2"):
        process_share(2, 3, 0)


def test_probabilistic_forcing() -> None:
    sampler = PatchSampler(load_patch=(1, 1), final_patch=(1, 1), probabilistic=True)
    forced = [sampler.forced(sample_generator(0, "train", s, j), j, 2) for s in range(2000) for j in range(2)]
    for position in range(2):
        share = np.mean(forced[position::2])
        assert abs(share - 0.33) < 4.5 * math.sqrt(0.33 * 0.67 / 2000)


def test_generators_are_independent_and_repeatable() -> None:
    keys = [(0, "train", 0, 0), (1, "train", 0, 0), (0, "val", 0, 0), (0, "train", 1, 0), (0, "train", 0, 1)]
    first = [sample_generator(*k).random(4).tolist() for k in keys]
    assert len({tuple(f) for f in first}) == len(keys)
    assert first == [sample_generator(*k).random(4).tolist() for k in keys]
    # Pinned: continuing a training with another version of this package must give the same samples
    assert sample_generator(0, "train", 0, 0).integers(10**6, size=3).tolist() == [473078, 521391, 706175]


def test_locations_in_little_memory() -> None:
    _, segmentation = make_arrays(0)
    original = sample_class_locations(segmentation, (1, (1, 2), 3))
    locations = ClassLocations(original, segmentation.shape[1:])
    assert locations.keys == (1, (1, 2))
    assert locations.count(3) == 0
    assert locations.nbytes == 4 * (len(original[1]) + len(original[(1, 2)]))
    for key in locations.keys:
        found = [locations.voxel(key, i) for i in range(locations.count(key))]
        assert found == [tuple(v) for v in original[key][:, 1:].tolist()]
