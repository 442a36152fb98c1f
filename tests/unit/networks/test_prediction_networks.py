"""A network that was prepared for prediction computes what it computed before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_pt.networks.build import build_network
from nnunet_pt.networks.fused import channels_last, instance_norm
from nnunet_pt.networks.prediction import prepare_for_prediction
from nnunet_pt.plans.plans import Architecture

PATCH = (16, 24, 16)


def unet(name: str, dimensions: int, norm: str = "instancenorm.InstanceNorm") -> Any:
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    kwargs = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * 3,
        "strides": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
        blocks: [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.{norm}{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = Architecture(network_class_name=name, arch_kwargs=kwargs, requires_import=())
    network = build_network(architecture, input_channels=2, num_outputs=3, deep_supervision=False)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0, 0.3)
    return network


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("norm", ["instancenorm.InstanceNorm", "batchnorm.BatchNorm"])
def test_outputs_stay_what_they_are(name: str, dimensions: int, norm: str) -> None:
    torch.manual_seed(0)
    network = unet(name, dimensions, norm).eval()
    prepared = copy.deepcopy(network)
    prepare_for_prediction(prepared)
    image = torch.randn(2, 2, *PATCH[:dimensions])
    with torch.no_grad():
        expected, found = network(image), prepared(image)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    weights = [p for p in prepared.parameters() if p.ndim > 1]
    assert all(p.is_contiguous(memory_format=channels_last(dimensions)) for p in weights)


def test_weights_may_be_loaded_afterwards() -> None:
    torch.manual_seed(0)
    network, other = unet("PlainConvUNet", 3).eval(), unet("PlainConvUNet", 3).eval()
    prepare_for_prediction(network)
    network.load_state_dict(other.state_dict())
    image = torch.randn(1, 2, *PATCH)
    with torch.no_grad():
        found, expected = network(image), other(image)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert network.encoder.stages[0][0].convs[0].conv.weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("size", [(8, 12, 8), (12, 12, 12), (9, 7), (40, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_keeps_the_memory_format(size: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = (nn.InstanceNorm2d if len(size) == 2 else nn.InstanceNorm3d)(6, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    memory_format = channels_last(len(size))
    x = torch.randn(2, 6, *size).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    with torch.no_grad():
        for image in (x, x.contiguous(memory_format=memory_format)):
            found = instance_norm(image, norm)
            torch.testing.assert_close(found.float(), norm(x.float()), rtol=tolerance, atol=tolerance)
            assert found.stride() == image.stride()
