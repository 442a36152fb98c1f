"""Changing tensors so that they fit another place, by properties that must hold for all sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from nnunet_pt.transfer.adapt import (
    cube_of,
    fit_channels,
    fit_kernel,
    fit_rows,
    overlap,
    resize_positions,
    shared_names,
    swap_rotary_axes,
    swap_token_axes,
)

quick = settings(max_examples=40, deadline=None)
CHANNELS = st.lists(st.sampled_from(["T1", "T2", "FLAIR", "CT", "zscore"]), min_size=1, max_size=4)
KERNELS = st.lists(st.sampled_from([1, 3, 5, 7]), min_size=2, max_size=3).map(tuple)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@quick
@given(before=CHANNELS, after=CHANNELS, known=st.booleans())
def test_response_to_equal_channels_is_kept(before: list[str], after: list[str], known: bool) -> None:
    weight = random(3, len(before), 3, 3, 3)
    fitted = fit_channels(weight, len(after), before if known else None, after if known else None)
    assert fitted.shape == (3, len(after), 3, 3, 3)
    assert torch.allclose(fitted.sum(1), weight.sum(1), atol=1e-12)


def test_channels_that_only_move_are_copied() -> None:
    weight = random(2, 3, 3, 3)
    fitted = fit_channels(weight, 3, ["T1", "T2", "FLAIR"], ["flair", "T1", "t2"])
    assert torch.equal(fitted, weight[:, [2, 0, 1]])


def test_new_channels_get_the_mean() -> None:
    weight = random(2, 2, 3, 3)
    fitted = fit_channels(weight, 3, ["T1", "T2"], ["T2", "CT", "T1"])
    assert torch.allclose(fitted, torch.stack([weight[:, 1], weight.mean(1), weight[:, 0]], 1) * 2 / 3)


def test_channels_that_are_gone_are_dealt_out() -> None:
    weight = random(2, 3, 3, 3)
    fitted = fit_channels(weight, 2, ["T1", "T2", "FLAIR"], ["T1", "T2"])
    assert torch.allclose(fitted, weight[:, :2] + weight[:, 2:] / 2)


def test_other_names_count_as_none_and_one_channel_is_repeated() -> None:
    weight = random(2, 1, 3, 3)
    assert torch.equal(fit_channels(weight, 3, ["CT"], ["T1", "T2", "FLAIR"]), weight.repeat(1, 3, 1, 1) / 3)
    two = random(2, 2, 3, 3)
    assert fit_channels(two, 2, ["a", "b"], ["c", "d"]) is two
    assert fit_channels(two, 2, ["a", "b"], ["A", "b"]) is two


def test_equal_names_are_taken_in_their_order() -> None:
    assert shared_names(["zscore", "zscore"], ["zscore", "CT", "zscore"], 2, 3) == {0: 0, 2: 1}
    assert shared_names(["a"], ["a"], 2, 1) == {}
    assert shared_names(["Gross_Tumor"], ["gross tumor"], 1, 1) == {0: 0}


@quick
@given(kernel=KERNELS, wanted=KERNELS)
def test_kernels_get_their_size_and_growing_keeps_the_response(
    kernel: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    weight = random(2, 3, *kernel)
    fitted = fit_kernel(weight, wanted)
    assert fitted.shape == (2, 3, *wanted)
    sizes = [k if len(k) == 3 else (1, *k) for k in (kernel, wanted)]
    if all(a <= b for a, b in zip(*sizes, strict=True)):
        image = random(1, 3, 9, 9, 9)
        first, second = (w if w.ndim == 5 else w.unsqueeze(2) for w in (weight, fitted))
        responses = [functional.conv3d(image, w, padding=tuple(n // 2 for n in w.shape[2:])) for w in (first, second)]
        assert torch.allclose(*responses, atol=1e-10)


@quick
@given(kernel=KERNELS, wanted=KERNELS)
def test_shrinking_kernels_keep_the_mean_of_constant_ones(kernel: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert torch.equal(fit_kernel(torch.ones(2, 3, *kernel), wanted, transposed=True), torch.ones(2, 3, *wanted))


def test_means_over_axes() -> None:
    weight = random(2, 3, 3, 3, 3)
    assert torch.equal(fit_kernel(weight, (1, 3, 3)), weight.mean(2, keepdim=True))
    assert torch.equal(fit_kernel(weight, (3, 3)), weight.mean(2))
    assert torch.equal(fit_kernel(random(2, 3, 3, 3), (1, 3, 3)), random(2, 3, 3, 3).unsqueeze(2))
    five = random(1, 1, 5, 1, 1)
    expected = functional.adaptive_avg_pool3d(five, (3, 1, 1))
    assert torch.allclose(fit_kernel(five, (3, 1, 1)), expected)


def test_transposed_kernels_repeat_what_makes_a_voxel() -> None:
    weight, image = random(2, 3, 1, 2, 2), random(1, 2, 3, 3, 3)
    grown = fit_kernel(weight, (2, 2, 2), transposed=True)
    before = functional.conv_transpose3d(image, weight, stride=(1, 2, 2))
    after = functional.conv_transpose3d(image, grown, stride=(2, 2, 2))
    assert torch.equal(after, before.repeat_interleave(2, 2))


@quick
@given(a=st.lists(st.integers(1, 4), min_size=2, max_size=2), b=st.lists(st.integers(1, 4), min_size=2, max_size=2))
def test_overlap(a: list[int], b: list[int]) -> None:
    source, target = random(*a), random(*b, seed=1)
    merged, count = overlap(source, target)
    common = tuple(slice(min(n)) for n in zip(a, b, strict=True))
    assert torch.equal(merged[common], source[common])
    assert count == source[common].numel() == int((merged != target).sum())
    assert torch.equal(overlap(source, merged)[0], merged)


def test_halves_overlap_by_themselves() -> None:
    merged, count = overlap(torch.ones(2, 4), torch.zeros(3, 6), 1)
    assert torch.equal(merged, torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).float())
    assert count == 8


def test_rows_by_number() -> None:
    source, target = random(3, 2, 1), random(4, 2, 1, seed=1)
    fitted, count = fit_rows(source, target, {0: 0, 3: 1})
    assert torch.equal(fitted[[0, 3]], source[[0, 1]]) and torch.equal(fitted[1:3], target[1:3])
    assert count == 4


@quick
@given(grid=st.tuples(*[st.integers(1, 4)] * 3), new=st.tuples(*[st.integers(1, 4)] * 3), prefix=st.integers(0, 2))
def test_positions(grid: tuple[int, ...], new: tuple[int, ...], prefix: int) -> None:
    tokens = grid[0] * grid[1] * grid[2]
    constant = torch.ones(1, prefix + tokens, 3)
    constant[:, :prefix] = 7
    resized = resize_positions(constant, grid, new, prefix=prefix)
    assert resized.shape == (1, new[0] * new[1] * new[2], 3)
    assert torch.allclose(resized, torch.ones_like(resized))
    positions = random(1, prefix + tokens, 3)
    assert torch.equal(resize_positions(positions, grid, grid, prefix=prefix), positions[:, prefix:])


@quick
@given(grid=st.tuples(*[st.integers(1, 4)] * 3))
def test_token_axes_are_swapped(grid: tuple[int, int, int]) -> None:
    volume = random(*grid, 2)
    as_evamae = volume.transpose(0, 1).reshape(1, -1, 2)
    assert torch.equal(swap_token_axes(as_evamae, grid), volume.reshape(1, -1, 2))


@pytest.mark.parametrize("heads", [1, 2])
def test_rotary_axes_are_swapped_in_each_head(heads: int) -> None:
    rows = torch.arange(heads * 6)
    swapped = swap_rotary_axes(rows, heads).reshape(heads, 3, 2)
    assert torch.equal(swapped[:, [1, 0, 2]].reshape(-1), rows)
    assert torch.equal(swap_rotary_axes(swap_rotary_axes(rows, heads), heads), rows)


def test_cubes() -> None:
    assert [cube_of(n) for n in (1, 64, 8000, 63)] == [(1, 1, 1), (4, 4, 4), (20, 20, 20), None]
