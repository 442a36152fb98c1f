"""Plans of nnU-Net 2.0 to 2.2, which described the network by a few numbers instead of an ``architecture`` entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunet_pt.plans.reading import Findings, ObjectReader

UNETS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
CLASS_PATH = "dynamic_network_architectures.architectures.unet."
CONVOLUTION = "torch.nn.modules.conv.Conv{}d"
NORMALIZATION = "torch.nn.modules.instancenorm.InstanceNorm{}d"
REQUIRES_IMPORT = ("conv_op", "norm_op", "dropout_op", "nonlin")
KEYS = (
    "UNet_class_name",
    "UNet_base_num_features",
    "unet_max_num_features",
    "conv_kernel_sizes",
    "pool_op_kernel_sizes",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "num_pool_per_axis",
)


def is_legacy(configuration: Mapping[str, Any]) -> bool:
    """Whether a configuration describes its network in the old way."""
    return "architecture" not in configuration and "UNet_class_name" in configuration


def upgraded(configuration: Mapping[str, Any], findings: Findings, place: str) -> dict[str, Any]:
    """The configuration with an ``architecture`` entry instead of the old keys.

    Args:
        configuration: All entries of a configuration, inheritance resolved.
        findings: Problems are noted here.
        place: The configuration's place in the file.
    """
    reader = ObjectReader(configuration, findings, place)
    name = reader.text("UNet_class_name")
    base = reader.integer("UNet_base_num_features", minimum=1)
    largest = reader.integer("unet_max_num_features", minimum=1)
    kernels, strides = reader.items("conv_kernel_sizes"), reader.items("pool_op_kernel_sizes")
    encoder = reader.integers("n_conv_per_stage_encoder", minimum=1)
    decoder = reader.integers("n_conv_per_stage_decoder", minimum=1)
    if isinstance(name, str) and name not in UNETS:
        findings.add(f"{place}.UNet_class_name", f"is {name!r}, expected one of {', '.join(UNETS)}")
    if not findings.items and not len(encoder) == len(kernels) == len(strides) == len(decoder) + 1:
        findings.add(place, "the numbers of stages in the network's entries disagree")
    upgrade = {k: v for k, v in configuration.items() if k not in KEYS}
    upgrade["architecture"] = {
        "network_class_name": f"{CLASS_PATH}{name}",
        "arch_kwargs": unet_arguments(
            blocks_key=UNETS.get(name, ""),
            features=[min(base * 2**s, largest) for s in range(len(encoder))],
            kernels=kernels,
            strides=strides,
            encoder=encoder,
            decoder=decoder,
        ),
        "_kw_requires_import": list(REQUIRES_IMPORT),
    }
    return upgrade


def unet_arguments(
    *, blocks_key: str, features: Any, kernels: Any, strides: Any, encoder: Any, decoder: Any
) -> dict[str, Any]:
    """``arch_kwargs`` of nnU-Net's U-Nets, with the keys in nnU-Net's order.

    Args:
        blocks_key: Name of the entry that holds ``encoder``; depends on the network.
        features: Channels of each stage.
        kernels: Kernel size of each stage, one number for each axis.
        strides: Stride of each stage's first convolution, one number for each axis.
        encoder: Convolutions (plain) or residual blocks of each stage.
        decoder: Convolutions of each decoder stage, highest resolution first.
    """
    dimensions = len(kernels[0]) if kernels else 3
    return {
        "n_stages": len(features),
        "features_per_stage": [int(f) for f in features],
        "conv_op": CONVOLUTION.format(dimensions),
        "kernel_sizes": [list(k) for k in kernels],
        "strides": [list(s) for s in strides],
        blocks_key: list(encoder),
        "n_conv_per_stage_decoder": list(decoder),
        "conv_bias": True,
        "norm_op": NORMALIZATION.format(dimensions),
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
