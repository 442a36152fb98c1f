"""Convolution units and residual blocks, with the names that nnU-Net's state dicts have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import torch
from torch import Tensor, nn

from nnunet_pt.networks.fused import can_fuse, instance_norm, is_plain_instance_norm, norm_leaky_relu
from nnunet_pt.networks.operators import Operator

CONV: Final = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONV: Final = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE_POOL: Final = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
CONVOLUTIONS: Final = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LEAKY_SLOPE: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSettings:
    """What the convolution units of a network are made of.

    Attributes:
        dimensions: Number of image axes, 2 or 3.
        conv_bias: Whether convolutions have a bias.
        norm: Normalisation, built with the number of channels.
        dropout: Dropout.
        nonlin: Nonlinearity.
        nonlin_first: Whether the nonlinearity comes before the normalisation.
    """

    dimensions: int
    conv_bias: bool = False
    norm: Operator | None = None
    dropout: Operator | None = None
    nonlin: Operator | None = None
    nonlin_first: bool = False

    def conv(
        self, channels: int, features: int, kernel: Sequence[int], stride: Sequence[int], *, bias: bool
    ) -> nn.Module:
        """A convolution that keeps the size (odd kernels), divided by the stride."""
        padding = tuple((k - 1) // 2 for k in kernel)
        return CONV[self.dimensions](channels, features, tuple(kernel), tuple(stride), padding, bias=bias)  # type: ignore[arg-type]

    def upsample(self, channels: int, features: int, stride: Sequence[int]) -> nn.Module:
        """A transposed convolution that multiplies the size by the stride."""
        size = tuple(stride)
        return TRANSPOSED_CONV[self.dimensions](channels, features, size, size, bias=self.conv_bias)  # type: ignore[arg-type]


class ConvUnit(nn.Module):
    """Convolution, dropout, normalisation, nonlinearity; those that the settings lack are left out.

    Each layer is registered twice, under its own name and in ``all_modules``, because nnU-Net's state dicts have both
    names. ``all_modules`` comes last, so that it wins when a state dict is loaded whose two names disagree.

    Args:
        settings: The layers.
        channels: Input channels.
        features: Output channels.
        kernel: Kernel size along each axis.
        stride: Stride along each axis.
    """

    dropout: nn.Module | None
    norm: nn.Module | None
    nonlin: nn.Module | None

    def __init__(
        self, settings: LayerSettings, channels: int, features: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.kernel = tuple(kernel)
        self.conv = settings.conv(channels, features, kernel, stride, bias=settings.conv_bias)
        self.dropout = settings.dropout.build() if settings.dropout else None
        self.norm = settings.norm.build(features) if settings.norm else None
        self.nonlin = settings.nonlin.build() if settings.nonlin else None
        names = ("dropout", "nonlin", "norm") if settings.nonlin_first else ("dropout", "norm", "nonlin")
        self.following = tuple(n for n in names if getattr(self, n) is not None)
        self.all_modules = nn.Sequential(self.conv, *(cast(nn.Module, getattr(self, n)) for n in self.following))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,*spatial) to (B,F,*spatial/stride)."""
        return self.finish(self._convolved(x))

    def _convolved(self, x: Tensor) -> Tensor:
        # oneDNN's bfloat16 gradient of the weights is garbage if an axis is shorter than the kernel (torch 2.13,
        # AVX512-BF16): it reads and writes memory that is not its own
        small = any(n < k for n, k in zip(x.shape[2:], self.kernel, strict=True))
        if small and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                x = self.conv(x.float())
        else:
            x = self.conv(x)
        return x

    def finish(self, x: Tensor) -> Tensor:
        """What follows the convolution."""
        if x.device.type == "cpu" and x[0, 0].numel() > 1 and not torch.compiler.is_compiling():
            if self.following == ("norm", "nonlin") and can_fuse(self.norm, self.nonlin):
                return norm_leaky_relu(x, cast(nn.Module, self.norm), cast(nn.Module, self.nonlin))
            if self.following == ("norm",) and is_plain_instance_norm(self.norm) and not torch.is_grad_enabled():
                return instance_norm(x, cast(nn.Module, self.norm))
        for name in self.following:
            x = getattr(self, name)(x)
        return x


class ConvStack(nn.Module):
    """Convolution units one after the other; the first carries the stride.

    Args:
        settings: The layers.
        count: Number of units.
        channels: Input channels.
        features: Output channels of each unit.
        kernel: Kernel size along each axis.
        stride: Stride along each axis.
    """

    def __init__(
        self,
        settings: LayerSettings,
        count: int,
        channels: int,
        features: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        later = (1,) * len(stride)
        self.convs = nn.Sequential(
            ConvUnit(settings, channels, features, kernel, stride),
            *(ConvUnit(settings, features, features, kernel, later) for _ in range(count - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,*spatial) to (B,F,*spatial/stride)."""
        y: Tensor = self.convs(x)
        return y


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, with average pooling in the shortcut (He et al. 2019, arXiv:1812.01187, fig. 2).

    Args:
        settings: The layers; dropout follows the first convolution only.
        channels: Input channels.
        features: Output channels.
        kernel: Kernel size along each axis.
        stride: Stride of the first convolution along each axis.
    """

    nonlin2: nn.Module | None

    def __init__(
        self, settings: LayerSettings, channels: int, features: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = (1,) * len(stride)
        linear = replace(settings, nonlin=None, dropout=None)
        self.conv1 = ConvUnit(settings, channels, features, kernel, stride)
        self.conv2 = ConvUnit(linear, features, features, kernel, one)
        self.nonlin2 = settings.nonlin.build() if settings.nonlin else None
        shortcut: list[nn.Module] = []
        if any(s != 1 for s in stride):
            shortcut.append(AVERAGE_POOL[settings.dimensions](tuple(stride), tuple(stride)))  # type: ignore[arg-type]
        if channels != features:
            shortcut.append(ConvUnit(replace(linear, conv_bias=False), channels, features, one, one))
        self.skip = nn.Sequential(*shortcut) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,*spatial) to (B,F,*spatial/stride)."""
        y: Tensor = self.conv2(self.conv1(x)) + self.skip(x)
        return y if self.nonlin2 is None else self.nonlin2(y)


class ResidualStack(nn.Module):
    """Residual blocks one after the other; the first carries the stride.

    Args:
        settings: The layers.
        count: Number of blocks.
        channels: Input channels.
        features: Output channels of each block.
        kernel: Kernel size along each axis.
        stride: Stride along each axis.
    """

    def __init__(
        self,
        settings: LayerSettings,
        count: int,
        channels: int,
        features: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        later = (1,) * len(stride)
        self.blocks = nn.Sequential(
            ResidualBlock(settings, channels, features, kernel, stride),
            *(ResidualBlock(settings, features, features, kernel, later) for _ in range(count - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,*spatial) to (B,F,*spatial/stride)."""
        y: Tensor = self.blocks(x)
        return y


def initialise_he(network: nn.Module) -> None:
    """Draw the weights of all convolutions from He's normal distribution; biases become zero.

    The last normalisation of each residual block starts at zero, so that a block starts as its shortcut. Source: He et
    al. 2015, arXiv:1502.01852; Goyal et al. 2017, arXiv:1706.02677, section 5.1.
    """
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ResidualBlock) and module.conv2.norm is not None:
            for parameter in module.conv2.norm.parameters():
                nn.init.zeros_(parameter)
