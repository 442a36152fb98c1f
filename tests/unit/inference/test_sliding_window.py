"""Tiles, their weights, mirroring, and what happens when memory runs out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.inference import sliding_window
from nnunet_pt.inference.sliding_window import SlidingWindow, gaussian_importance, sliding_window_steps

CPU = torch.device("cpu")


class PositionNetwork(nn.Module):
    """Not symmetric, and with outputs that depend on where in the tile a voxel lies."""

    def __init__(self, axes: int = 3, outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = (nn.Conv3d if axes == 3 else nn.Conv2d)(1, outputs, 3, padding=1)
        self.deep_supervision = True
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        self.batches.append(len(x))
        y = self.conv(x)
        for axis in range(2, x.ndim):
            shape = [-1 if a == axis else 1 for a in range(x.ndim)]
            y = y + torch.linspace(0, 1, x.shape[axis]).reshape(shape) * x
        return [y, y[:, :, ::2]] if self.deep_supervision else y


def window(network: nn.Module, patch: Sequence[int], outputs: int = 2, **options: object) -> SlidingWindow:
    return SlidingWindow(network, patch_size=patch, num_outputs=outputs, device=CPU, **options)


def transcription(
    network: nn.Module, image: Tensor, patch: Sequence[int], axes: Sequence[int], gaussian: bool
) -> Tensor:
    """What nnU-Net describes: padding, sums of weighted outputs, sum of weights, division."""
    extra = [max(0, p - n) for p, n in zip(patch, image.shape[1:], strict=True)]
    margins = [m for e in reversed(extra) for m in (e // 2, e - e // 2)]
    padded = nn.functional.pad(image, margins)
    weight = torch.from_numpy(gaussian_importance(patch)).double() if gaussian else torch.ones(*patch).double()
    total = torch.zeros(2, *padded.shape[1:]).double()
    weights = torch.zeros(padded.shape[1:]).double()
    for start in itertools.product(*sliding_window_steps(padded.shape[1:], patch, 0.5)):
        where = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        tile = padded[(slice(None), *where)][None]
        predictions = []
        for number in range(len(axes) + 1):
            for flip in itertools.combinations([a + 2 for a in axes], number):
                output = network(tile.flip(flip))
                output = output[0] if isinstance(output, list) else output
                predictions.append(output.flip(flip)[0])
        total[(slice(None), *where)] += torch.stack(predictions).mean(0) * weight
        weights[where] += weight
    total /= weights
    for axis, (e, n) in enumerate(zip(extra, image.shape[1:], strict=True), 1):
        total = total.narrow(axis, e // 2, n)
    return total


@pytest.mark.parametrize(
    ("image", "tile", "step", "expected"),
    [(110, 64, 0.5, [0, 23, 46]), (300, 128, 0.5, [0, 57, 115, 172]), (64, 64, 0.5, [0]), (65, 64, 1, [0, 1])],
)
def test_steps_are_those_of_nnunet(image: int, tile: int, step: float, expected: list[int]) -> None:
    assert sliding_window_steps([image], [tile], step) == [expected]


@given(tile=st.integers(1, 200), extra=st.integers(0, 500), step=st.floats(0.05, 1))
def test_steps_cover_the_image_without_larger_gaps_than_asked(tile: int, extra: int, step: float) -> None:
    (starts,) = sliding_window_steps([tile + extra], [tile], step)
    assert starts[0] == 0
    assert starts[-1] == extra
    gaps = np.diff(starts)
    assert (gaps >= 0).all()
    assert (gaps <= max(1, tile * step + 1)).all()
    assert tile == 1 or gaps.max(initial=0) <= tile


@pytest.mark.parametrize(("image", "step"), [(10, 0.5), (20, 0), (20, 1.5)])
def test_impossible_steps_are_refused(image: int, step: float) -> None:
    with pytest.raises(ValueError, match=r"step size|smaller"):
        sliding_window_steps([image], [16], step)


@pytest.mark.parametrize("tile", [(8, 12, 17), (20, 20), (5, 64, 1)])
def test_importance_is_a_filtered_impulse(tile: tuple[int, ...]) -> None:
    impulse = np.zeros(tile)
    impulse[tuple(n // 2 for n in tile)] = 1
    blurred = ndimage.gaussian_filter(impulse, [n / 8 for n in tile], mode="constant")
    importance = gaussian_importance(tile)
    assert importance.max() == 10
    assert importance.min() > 0
    np.testing.assert_allclose(importance, blurred / blurred.max() * 10, rtol=1e-5)


@given(
    sizes=st.lists(st.tuples(st.integers(2, 9), st.integers(1, 16)), min_size=3, max_size=3),
    gaussian=st.booleans(),
    step=st.sampled_from([0.3, 0.5, 1.0]),
)
@settings(deadline=None, max_examples=20)
def test_weights_add_up_to_one_everywhere(sizes: list[tuple[int, int]], gaussian: bool, step: float) -> None:
    image = torch.ones(1, *(n for _, n in sizes))
    identity = nn.Identity()
    made = window(identity, [t for t, _ in sizes], 1, gaussian=gaussian, step_size=step).predict_logits(image)
    assert made.shape == image.shape
    torch.testing.assert_close(made, image)


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("axes", [(), (1,), (0, 1, 2)])
@pytest.mark.parametrize("shape", [(20, 9, 13), (5, 8, 30)])
@torch.no_grad()
def test_prediction_equals_a_plain_transcription(shape: tuple[int, ...], axes: tuple[int, ...], gaussian: bool) -> None:
    network, image = PositionNetwork(), torch.randn(1, *shape)
    expected = transcription(network, image, (8, 8, 12), axes, gaussian)
    for tiles in (1, 3, 100):
        made = window(network, (8, 8, 12), mirror_axes=axes, gaussian=gaussian, tiles_per_batch=tiles)
        torch.testing.assert_close(made.predict_logits(image), expected.float(), rtol=1e-4, atol=1e-5)
        assert max(network.batches) <= tiles or tiles == 1
        network.batches.clear()


@torch.no_grad()
def test_networks_for_planes_predict_volumes_slice_by_slice() -> None:
    network, image = PositionNetwork(axes=2), torch.randn(1, 3, 20, 10)
    made = window(network, (8, 12), mirror_axes=(0, 1), tiles_per_batch=5).predict_logits(image)
    slices = [transcription(network, image[:, z], (8, 12), (0, 1), True) for z in range(3)]
    torch.testing.assert_close(made, torch.stack(slices, 1).float(), rtol=1e-4, atol=1e-5)


def test_arrays_are_predicted_like_tensors_and_left_alone() -> None:
    image = np.random.default_rng(0).normal(size=(1, 9, 9, 9)).astype(np.float32)
    before = image.copy()
    made = window(PositionNetwork(), (8, 8, 8), mirror_axes=(0, 1)).predict_logits(image)
    again = window(PositionNetwork(), (8, 8, 8), mirror_axes=(0, 1)).predict_logits(torch.from_numpy(image))
    assert torch.equal(made, again)
    np.testing.assert_array_equal(image, before)


def test_network_is_given_back_as_it_was() -> None:
    network = nn.Sequential(PositionNetwork(), nn.Dropout(0.9))
    network.deep_supervision = False
    network[0].deep_supervision = False
    network[1].eval()
    image = torch.randn(1, 8, 8, 8)
    made = window(network, (8, 8, 8)).predict_logits(image)
    torch.testing.assert_close(made, network[0].eval()(image[None])[0].detach())
    network[0].train()
    window(network, (8, 8, 8)).predict_logits(image)
    assert [m.training for m in (network, network[0], network[1])] == [True, True, False]
    supervised = PositionNetwork()
    window(supervised, (8, 8, 8)).predict_logits(image)
    assert supervised.deep_supervision is True
    assert supervised.training


def test_progress_is_told_after_each_pass() -> None:
    calls: list[tuple[int, int]] = []
    made = window(PositionNetwork(), (8, 8, 8), mirror_axes=(0,), tiles_per_batch=3)
    made.predict_logits(torch.zeros(1, 12, 8, 8), progress=lambda *call: calls.append(call))
    assert calls == [(3, 4), (4, 4)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_an_error(value: float) -> None:
    image = torch.zeros(1, 8, 8, 8)
    image[0, 4, 4, 4] = value
    with pytest.raises(PredictionError, match="not finite"):
        window(PositionNetwork(), (8, 8, 8)).predict_logits(image)


def test_very_large_outputs_take_half_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(1, 20, 9, 9)
    exact = window(PositionNetwork(), (8, 8, 8)).predict_logits(image)
    monkeypatch.setattr(sliding_window, "MAX_FLOAT32_VALUES", exact.numel() - 1)
    made = window(PositionNetwork(), (8, 8, 8)).predict_logits(image)
    assert (exact.dtype, made.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(made.float(), exact, rtol=2e-3, atol=2e-3)


class HungryNetwork(PositionNetwork):
    """Runs out of memory when it gets more than a few tiles at once."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if len(x) > self.limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return super().forward(x)


def test_fewer_tiles_at_once_if_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    image = torch.randn(1, 30, 9, 9)
    expected = window(PositionNetwork(), (8, 8, 8), mirror_axes=(0, 2)).predict_logits(image)
    made = window(HungryNetwork(2), (8, 8, 8), mirror_axes=(0, 2), tiles_per_batch=9)
    with caplog.at_level(logging.WARNING):
        logits = made.predict_logits(image)
    torch.testing.assert_close(logits, expected)
    assert made.tiles_per_batch == 2
    assert [r.message for r in caplog.records] == [
        "Memory does not suffice: 4 tiles at once from here on.",
        "Memory does not suffice: 2 tiles at once from here on.",
    ]


def test_memory_for_less_than_one_tile_is_an_error() -> None:
    with pytest.raises(PredictionError, match="single tile") as caught:
        window(HungryNetwork(0), (8, 8, 8)).predict_logits(torch.zeros(1, 8, 8, 8))
    assert "8x8x8" in str(caught.value)


def test_other_errors_of_the_network_are_not_taken_for_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        window(PositionNetwork(), (8, 8, 8)).predict_logits(torch.zeros(2, 8, 8, 8))


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="2 outputs instead of 3"):
        window(PositionNetwork(), (8, 8, 8), 3).predict_logits(torch.zeros(1, 8, 8, 8))
    with pytest.raises(ValueError, match="mirroring"):
        window(PositionNetwork(axes=2), (8, 8), mirror_axes=(2,))
    with pytest.raises(ValueError, match="channels, x, y, z"):
        window(PositionNetwork(), (8, 8, 8)).predict_logits(torch.zeros(8, 8, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("on_device", [True, False])
def test_gpu_agrees_with_the_cpu(on_device: bool) -> None:
    class Moved(PositionNetwork):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    image = torch.randn(1, 20, 9, 9)
    expected = window(Moved(), (8, 8, 8)).predict_logits(image)
    gpu = torch.device("cuda")
    made = SlidingWindow(
        Moved().to(gpu), patch_size=(8, 8, 8), num_outputs=2, device=gpu, results_on_device=on_device
    ).predict_logits(image)
    torch.testing.assert_close(made.float(), expected, rtol=5e-3, atol=5e-3)
