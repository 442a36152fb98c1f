"""What makes a trained network faster in prediction without changing what it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nnunet_pt.networks.fused import channels_last
from nnunet_pt.networks.unet import UNet


def prepare_for_prediction(network: nn.Module) -> None:
    """Put a network into evaluation mode and, if it is a U-Net on the CPU, keep the channels of a voxel side by side.

    oneDNN computes convolutions in such a layout anyway; without it every image is rearranged before and after each
    convolution. Weights may still be loaded into the network afterwards.

    Args:
        network: The network, on the device where it will predict. It should not be trained further.
    """
    network.eval()
    if not isinstance(network, UNet) or next(network.parameters()).device.type != "cpu":
        return
    dimensions = max(p.ndim for p in network.parameters()) - 2
    memory_format = channels_last(dimensions)
    for parameter in network.parameters():
        if parameter.ndim == dimensions + 2:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)

    def arrange(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        image: torch.Tensor = inputs[0]
        return (image.contiguous(memory_format=memory_format), *inputs[1:])

    network.register_forward_pre_hook(arrange)
