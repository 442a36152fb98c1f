"""U-Net with a residual encoder: nnU-Net's ResEnc presets (Isensee et al. 2024, arXiv:2404.09556)."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn

from nnunet_pt.networks.blocks import ConvStack, ResidualStack
from nnunet_pt.networks.unet import UNet, UNetDescription

RESENC_L: Final[dict[str, Any]] = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": [1] * 5,
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
"""The network that nnssl calls ``ResEncL``: its size is fixed, whatever the data set."""


class ResidualEncoder(nn.Module):
    """A convolution unit (the stem), then stages of residual blocks, the first block of each with the stride.

    Args:
        description: The network.
        input_channels: Channels of the image.
    """

    def __init__(self, description: UNetDescription, input_channels: int) -> None:
        super().__init__()
        layers, kernels = description.layers, description.kernel_sizes
        channels = description.stem_features or description.features[0]
        self.stem = ConvStack(layers, 1, input_channels, channels, kernels[0], (1,) * layers.dimensions)
        stages = []
        for count, features, kernel, stride in zip(
            description.encoder, description.features, kernels, description.strides, strict=True
        ):
            stages.append(ResidualStack(layers, count, channels, features, kernel, stride))
            channels = features
        self.stages = nn.Sequential(*stages)

    def forward(self, image_bcxyz: Tensor) -> list[Tensor]:
        """Image (B,C,*spatial) to the features of each stage, highest resolution first."""
        x, skips = self.stem(image_bcxyz), []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class ResidualEncoderUNet(UNet):
    """U-Net with a residual encoder and a plain decoder.

    Args:
        description: The network.
        input_channels: Channels of the image.
        num_outputs: Output channels.
        deep_supervision: Whether the network gives an output at every resolution, or at the highest only.
    """

    def __init__(
        self, description: UNetDescription, *, input_channels: int, num_outputs: int, deep_supervision: bool
    ) -> None:
        super().__init__(ResidualEncoder(description, input_channels), description, num_outputs, deep_supervision)
