"""Instance normalisation and leaky ReLU in one step, for the CPU.

PyTorch's instance normalisation is a view of a batch normalisation with repeated weights, and a nonlinearity that
works in place on a view makes autograd copy everything once more. Done in one function, both are a fraction of the
time, with the same result and no more memory: the input and the output are kept for the backward pass. In prediction
they also keep the memory format (channels last), which PyTorch's instance normalisation does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Below this number of voxels PyTorch's normalisation of channels-last images takes up to 20 times as long
_SMALL = 1024


class _NormLeakyReLU(torch.autograd.Function):
    """Group normalisation with one channel in each group is instance normalisation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        batch, channels = x.shape[:2]
        x = x.contiguous()
        size = x[0, 0].numel()
        y, mean, scale = torch.native_group_norm(x, weight, bias, batch, channels, size, channels, eps)
        torch.ops.aten.leaky_relu_(y, slope)
        ctx.save_for_backward(x, y, weight, mean, scale)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, mean, scale = ctx.saved_tensors
        batch, channels = x.shape[:2]
        # the sign of the output is that of the normalised input, since the slope is positive
        gradient = torch.ops.aten.leaky_relu_backward(gradients[0].contiguous(), y, ctx.slope, True)
        of_x, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            gradient, x, mean, scale, weight, batch, channels, x[0, 0].numel(), channels, [True, True, True]
        )
        return of_x, of_weight, of_bias, None, None


def is_plain_instance_norm(norm: nn.Module | None) -> bool:
    """Whether :func:`instance_norm` may stand for this layer."""
    return isinstance(norm, nn.InstanceNorm2d | nn.InstanceNorm3d) and norm.affine and not norm.track_running_stats


def can_fuse(norm: nn.Module | None, nonlin: nn.Module | None) -> bool:
    """Whether :func:`norm_leaky_relu` may stand for these two layers."""
    return is_plain_instance_norm(norm) and isinstance(nonlin, nn.LeakyReLU) and nonlin.negative_slope > 0


def instance_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Instance normalisation that keeps the memory format, without gradients.

    Args:
        x: (B,C,*spatial) on the CPU, with more than one voxel.
        norm: Affine instance normalisation without running statistics.
    """
    batch, channels = x.shape[:2]
    size = x[0, 0].numel()
    small = size < _SMALL and not x.is_contiguous()
    image = x.contiguous() if small else x
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    y: Tensor = torch.native_group_norm(image, weight, bias, batch, channels, size, channels, eps)[0]  # type: ignore[arg-type]
    return y.contiguous(memory_format=channels_last(x.ndim - 2)) if small else y


def channels_last(dimensions: int) -> torch.memory_format:
    """The memory format in which the channels of a voxel lie side by side, for images with two or three axes."""
    return torch.channels_last if dimensions == 2 else torch.channels_last_3d


def norm_leaky_relu(x: Tensor, norm: nn.Module, nonlin: nn.Module) -> Tensor:
    """Instance normalisation, then leaky ReLU.

    Args:
        x: (B,C,*spatial) on the CPU, with more than one voxel.
        norm: Affine instance normalisation without running statistics.
        nonlin: Leaky ReLU with a positive slope.
    """
    if not torch.is_grad_enabled():
        return torch.ops.aten.leaky_relu_(instance_norm(x, norm), nonlin.negative_slope)  # type: ignore[no-any-return]
    y: Tensor = _NormLeakyReLU.apply(x, norm.weight, norm.bias, norm.eps, nonlin.negative_slope)  # type: ignore[no-untyped-call]
    return y
