"""U-Net with plain convolutions: nnU-Net's default network (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z)."""

from __future__ import annotations

from torch import Tensor, nn

from nnunet_pt.networks.blocks import ConvStack
from nnunet_pt.networks.unet import UNet, UNetDescription


class PlainConvEncoder(nn.Module):
    """Stages of convolution units, the first unit of each with the stride.

    Args:
        description: The network.
        input_channels: Channels of the image.
    """

    def __init__(self, description: UNetDescription, input_channels: int) -> None:
        super().__init__()
        stages, channels = [], input_channels
        for count, features, kernel, stride in zip(
            description.encoder, description.features, description.kernel_sizes, description.strides, strict=True
        ):
            stages.append(nn.Sequential(ConvStack(description.layers, count, channels, features, kernel, stride)))
            channels = features
        self.stages = nn.Sequential(*stages)

    def forward(self, image_bcxyz: Tensor) -> list[Tensor]:
        """Image (B,C,*spatial) to the features of each stage, highest resolution first."""
        x, skips = image_bcxyz, []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class PlainConvUNet(UNet):
    """U-Net with plain convolutions.

    Args:
        description: The network.
        input_channels: Channels of the image.
        num_outputs: Output channels.
        deep_supervision: Whether the network gives an output at every resolution, or at the highest only.
    """

    def __init__(
        self, description: UNetDescription, *, input_channels: int, num_outputs: int, deep_supervision: bool
    ) -> None:
        super().__init__(PlainConvEncoder(description, input_channels), description, num_outputs, deep_supervision)
