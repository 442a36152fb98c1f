"""Instance normalisation and leaky ReLU in one step give what the two layers give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_pt.networks.blocks import ConvUnit, LayerSettings
from nnunet_pt.networks.fused import can_fuse, norm_leaky_relu

SHAPES = [(2, 5, 6, 7, 8), (3, 4, 9, 8), (1, 1, 2, 1, 1)]


def layers(shape: tuple[int, ...], slope: float = 0.01) -> tuple[nn.Module, nn.Module]:
    norm = (nn.InstanceNorm3d if len(shape) == 5 else nn.InstanceNorm2d)(shape[1], affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, nn.LeakyReLU(slope)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients_are_those_of_the_two_layers(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, nonlin = layers(shape)
    x, gradient = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    results = []
    for function in (lambda t: nonlin(norm(t)), lambda t: norm_leaky_relu(t, norm, nonlin)):
        y = function(x)
        results.append([y.detach(), *torch.autograd.grad(y, [x, norm.weight, norm.bias], gradient)])
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for expected, got in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_gradients_are_correct_in_double_precision() -> None:
    torch.manual_seed(0)
    norm, nonlin = (layer.double() for layer in layers((2, 2, 3, 2, 2)))
    x = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: norm_leaky_relu(t, norm, nonlin), (x,))


def test_inputs_that_are_not_contiguous() -> None:
    norm, nonlin = layers((2, 3, 4, 5, 6))
    x = torch.randn(2, 4, 5, 6, 3).movedim(-1, 1)
    torch.testing.assert_close(norm_leaky_relu(x, norm, nonlin), nonlin(norm(x)))


def test_only_these_two_layers_are_fused() -> None:
    norm, nonlin = layers((1, 3, 4, 4, 4))
    assert can_fuse(norm, nonlin)
    assert not can_fuse(nn.BatchNorm3d(3), nonlin)
    assert not can_fuse(nn.InstanceNorm3d(3), nonlin)
    assert not can_fuse(nn.InstanceNorm3d(3, affine=True, track_running_stats=True), nonlin)
    assert not can_fuse(norm, nn.ReLU())
    assert not can_fuse(norm, nn.LeakyReLU(0.0))
    assert not can_fuse(None, nonlin)
    assert not can_fuse(norm, None)


def test_a_single_voxel_is_refused_as_by_the_layer() -> None:
    from nnunet_pt.networks.operators import Operator

    settings = LayerSettings(
        dimensions=3,
        norm=Operator(nn.InstanceNorm3d, {"affine": True}),
        nonlin=Operator(nn.LeakyReLU, {"inplace": True}),
    )
    unit = ConvUnit(settings, 1, 2, (1, 1, 1), (1, 1, 1))
    assert unit(torch.randn(1, 1, 2, 2, 2)).shape == (1, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="spatial element"):
        unit(torch.randn(1, 1, 1, 1, 1))
