"""Resizing label maps and class scores equals the slow way, label by label, ties included."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_pt.preprocessing import label_resampling
from nnunet_pt.preprocessing.interpolation import resize_volume
from nnunet_pt.preprocessing.label_resampling import nearest_labels, scores_to_labels, vote_labels


def zoom(volume: np.ndarray, new_shape: tuple[int, ...], order: int) -> np.ndarray:
    factors = [n / o for n, o in zip(new_shape, volume.shape, strict=True)]
    result = ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True)
    assert result.shape == tuple(new_shape)
    return result


def slow_vote(labels: np.ndarray, new_shape: tuple[int, ...]) -> np.ndarray:
    """One indicator for each label in float64, the largest wins; ties: the nearest voxel's label, else the smallest."""
    values = np.unique(labels)
    shares = np.stack([zoom((labels == v).astype(np.float64), new_shape, 1) for v in values])
    winner = values[shares.argmax(axis=0)]
    best = shares.max(axis=0)
    nearest = zoom(labels.astype(np.float64), new_shape, 0).astype(labels.dtype)
    for value, share in zip(values, shares, strict=True):
        tied = (nearest == value) & (share == best)
        winner[tied] = value
    return winner


shapes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(deadline=None, max_examples=250)
@given(
    shape=shapes,
    new_shape=shapes,
    values=st.sampled_from([[0, 1], [-1, 0, 1, 2], [0, 300, 1000], [5], list(range(-1, 12))]),
    dtype=st.sampled_from([np.int16, np.int32]),
    seed=st.integers(0, 10_000),
)
def test_vote_equals_the_slow_way(
    shape: tuple[int, ...], new_shape: tuple[int, ...], values: list[int], dtype: type, seed: int
) -> None:
    labels = np.random.default_rng(seed).choice(values, size=shape).astype(dtype)
    got = vote_labels(labels, new_shape)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, slow_vote(labels, new_shape))


@pytest.mark.parametrize(
    ("shape", "new_shape"),
    [((4, 9, 7), (6, 5, 12)), ((6, 10, 9), (4, 4, 15)), ((5, 6, 7), (9, 8, 6)), ((3, 8), (7, 5))],
)
def test_near_ties_are_decided_by_the_same_last_bit(shape: tuple[int, ...], new_shape: tuple[int, ...]) -> None:
    """Simple fractions make sums that are equal on paper, everywhere and above all at the border."""
    random = np.random.default_rng(0)
    for _ in range(150):
        labels = random.integers(-1, 4, shape).astype(np.int16)
        np.testing.assert_array_equal(vote_labels(labels, new_shape), slow_vote(labels, new_shape))


@settings(deadline=None, max_examples=200)
@given(
    shape=shapes,
    factors=st.tuples(*[st.sampled_from([0.25, 0.5, 1, 2, 3, 4, 6])] * 3),
    num_labels=st.integers(1, 6),
    seed=st.integers(0, 10_000),
)
def test_ties_at_whole_and_half_factors(
    shape: tuple[int, ...], factors: tuple[float, ...], num_labels: int, seed: int
) -> None:
    new_shape = tuple(max(1, round(n * f)) for n, f in zip(shape, factors, strict=True))
    labels = np.random.default_rng(seed).integers(-1, num_labels, shape).astype(np.int8)
    np.testing.assert_array_equal(vote_labels(labels, new_shape), slow_vote(labels, new_shape))


def test_tie_goes_to_the_nearest_voxel_even_if_its_label_is_larger() -> None:
    checkerboard = np.array([[2, 1], [1, 2]], dtype=np.int16)[None]
    # The single new voxel lies between all four; the nearest is the last, since halves go up
    np.testing.assert_array_equal(vote_labels(checkerboard, (1, 1, 1)), [[[2]]])


def test_tie_between_others_goes_to_the_smallest() -> None:
    labels = np.array([7, 3, 3, 7, 5], dtype=np.int16)  # pairs of neighbours in each of three directions
    volume = np.zeros((2, 2, 2), dtype=np.int16)
    volume[0, 0, 0] = volume[0, 0, 1] = volume[0, 1, 0] = labels[0]
    volume[0, 1, 1] = volume[1, 0, 0] = volume[1, 0, 1] = labels[1]
    volume[1, 1, 0], volume[1, 1, 1] = 9, labels[4]
    np.testing.assert_array_equal(vote_labels(volume, (1, 1, 1)), [[[3]]])


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_number_of_threads_does_not_matter(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(1).integers(-1, 4, (11, 13, 17)).astype(np.int16)
    alone = vote_labels(labels, (23, 9, 30))
    np.testing.assert_array_equal(vote_labels(labels, (23, 9, 30), threads=threads), alone)
    monkeypatch.setattr(label_resampling, "_SLAB_VOXELS", 300)  # several slabs for each thread
    monkeypatch.setattr(label_resampling, "_VOTES_AT_ONCE", 37)
    np.testing.assert_array_equal(vote_labels(labels, (23, 9, 30), threads=threads), alone)
    np.testing.assert_array_equal(vote_labels(labels, (23, 9, 30)), alone)


def test_realistic_labels_with_many_values() -> None:
    random = np.random.default_rng(2)
    smooth = ndimage.gaussian_filter(random.normal(size=(16, 18, 15)), 1.5)
    labels = np.digitize(smooth, np.quantile(smooth, np.linspace(0, 1, 300)[1:-1])).astype(np.int16)
    assert labels.max() > 255
    for new_shape in ((21, 15, 24), (8, 9, 7)):
        np.testing.assert_array_equal(vote_labels(labels, new_shape), slow_vote(labels, new_shape))


def test_a_large_plane_of_noise_needs_little_memory() -> None:
    labels = np.random.default_rng(6).integers(0, 3, (1, 900, 800)).astype(np.uint8)
    tracemalloc.start()
    try:
        vote_labels(labels, (1, 1000, 1100))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 << 20  # the votes of all voxels at once would take 200 MB


def test_labels_may_be_a_view_and_two_dimensional() -> None:
    labels = np.random.default_rng(3).integers(0, 3, (6, 8, 10)).astype(np.uint8)
    turned = labels.transpose(2, 0, 1)
    np.testing.assert_array_equal(vote_labels(turned, (7, 7, 7)), slow_vote(turned, (7, 7, 7)))
    np.testing.assert_array_equal(vote_labels(labels[0], (5, 17)), slow_vote(labels[0], (5, 17)))
    assert vote_labels(labels, labels.shape) is labels


@settings(deadline=None, max_examples=100)
@given(shape=shapes, new_shape=shapes, seed=st.integers(0, 1000))
def test_nearest_equals_scipy(shape: tuple[int, ...], new_shape: tuple[int, ...], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(-1, 300, shape).astype(np.int16)
    got = nearest_labels(labels, new_shape)
    assert got.dtype == labels.dtype
    np.testing.assert_array_equal(got, zoom(labels, new_shape, 0))


# ---------------------------------------------------------------------------- class scores


def slow_argmax(scores: np.ndarray, new_shape: tuple[int, ...], orders: tuple[int, ...]) -> np.ndarray:
    """All classes resized as a whole, in nnU-Net's type, then the first largest."""
    resized = np.empty((len(scores), *new_shape), dtype=scores.dtype)
    for c, volume in enumerate(scores):
        for axis, order in enumerate(orders):
            size = tuple(n if a == axis else o for a, (n, o) in enumerate(zip(new_shape, volume.shape, strict=True)))
            volume = resize_volume(volume, size, order)
        resized[c] = volume
    return resized.argmax(axis=0)


@settings(deadline=None, max_examples=150)
@given(
    shape=shapes,
    new_shape=shapes,
    num_classes=st.integers(1, 9),
    kind=st.sampled_from(["noise", "ties", "negative", "peaked"]),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
    orders=st.sampled_from([(1, 1, 1), (0, 1, 1), (1, 0, 1), (0, 0, 0)]),
    seed=st.integers(0, 1000),
)
def test_scores_equal_resizing_every_class(
    shape: tuple[int, ...],
    new_shape: tuple[int, ...],
    num_classes: int,
    kind: str,
    dtype: type,
    orders: tuple[int, ...],
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    size = (num_classes, *shape)
    scores = {
        "noise": lambda: random.normal(size=size),
        "ties": lambda: random.integers(0, 3, size) / 2,
        "negative": lambda: -random.uniform(1, 50, size),
        "peaked": lambda: (
            20.0 * (random.integers(0, num_classes, shape) == np.arange(num_classes)[:, None, None, None])
        ),
    }[kind]().astype(dtype)
    got = scores_to_labels(scores, new_shape, orders)
    wanted = slow_argmax(scores, new_shape, orders)
    if dtype == np.float32 and kind != "noise":  # sums of float32 may break ties either way
        differ = np.argwhere(got != wanted)
        exact = [zoom(c.astype(np.float64), new_shape, 1) for c in scores] if orders == (1, 1, 1) else None
        for where in map(tuple, differ):
            if exact is not None:
                assert exact[got[where]][where] == pytest.approx(exact[wanted[where]][where], abs=1e-5)
        assert len(differ) == 0 or exact is not None
    else:
        np.testing.assert_array_equal(got, wanted)


def test_blocks_and_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(7, 20, 22, 18)), (0, 2, 2, 2))
    whole = scores_to_labels(scores, (37, 30, 41), (1, 1, 1))
    np.testing.assert_array_equal(whole, slow_argmax(scores, (37, 30, 41), (1, 1, 1)))
    monkeypatch.setattr(label_resampling, "_SCORE_BLOCK", (5, 9, 7))
    for threads in (1, 3):
        np.testing.assert_array_equal(scores_to_labels(scores, (37, 30, 41), (1, 1, 1), threads=threads), whole)


def test_float16_scores_are_rounded_as_nnunet_stores_them() -> None:
    # Between 2048 and 2050 float16 has steps of 2: the interpolated 2049 becomes 2048, and the first class wins the tie
    scores = np.array([[2048, 2048], [2046, 2052]], dtype=np.float16).reshape(2, 1, 1, 2)
    assert scores_to_labels(scores, (1, 1, 1), (1, 1, 1)).item() == 0
    assert scores_to_labels(scores.astype(np.float32), (1, 1, 1), (1, 1, 1)).item() == 1


def test_more_than_256_classes() -> None:
    labels = np.random.default_rng(5).integers(0, 300, (5, 6, 7))
    scores = (labels == np.arange(300)[:, None, None, None]).astype(np.float32)
    labels[0, 0, 0], scores[:, 0, 0, 0], scores[299, 0, 0, 0] = 299, 0, 1
    result = scores_to_labels(scores, (10, 12, 14), (0, 0, 0), dtype=np.uint16)
    np.testing.assert_array_equal(result, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
