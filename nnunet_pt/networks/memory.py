"""How large the feature maps of a network are, by arithmetic: no network is built.

The number is nnU-Net's measure of GPU memory: values that the convolutions of one forward pass of one patch produce,
with deep supervision off. Formula: nnU-Net's ``compute_conv_feature_map_size``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from nnunet_pt.core.registry import Registry
from nnunet_pt.plans.plans import Architecture
from nnunet_pt.plans.reading import Findings, ObjectReader, is_list


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetShape:
    """What counts for the size of a U-Net's feature maps.

    Attributes:
        features: Channels of each encoder stage.
        strides: Stride of each stage along each axis.
        encoder: Convolutions (plain) or residual blocks of each stage.
        decoder: Convolutions of each decoder stage, in the order in which they are applied: lowest resolution first.
    """

    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    def voxels(self, patch_size: Sequence[int]) -> list[int]:
        """Voxels of the feature maps of each stage."""
        sizes, size = [], list(patch_size)
        for stride in self.strides:
            size = [n // s for n, s in zip(size, stride, strict=True)]
            sizes.append(prod(size))
        return sizes


def plain_unet_size(shape: UNetShape, patch_size: Sequence[int], num_outputs: int) -> int:
    """Feature-map size of ``PlainConvUNet``."""
    voxels = shape.voxels(patch_size)
    encoder = sum(n * f * v for n, f, v in zip(shape.encoder, shape.features, voxels, strict=True))
    return encoder + _decoder_size(shape, voxels, num_outputs)


def residual_encoder_unet_size(shape: UNetShape, patch_size: Sequence[int], num_outputs: int) -> int:
    """Feature-map size of ``ResidualEncoderUNet``: two convolutions a block, one more where the skip is projected."""
    voxels = shape.voxels(patch_size)
    total = shape.features[0] * prod(patch_size)  # the stem
    previous = shape.features[0]
    for blocks, features, stride, size in zip(shape.encoder, shape.features, shape.strides, voxels, strict=True):
        projected = features != previous or any(s != 1 for s in stride)
        total += (2 * blocks + projected) * features * size
        previous = features
    return total + _decoder_size(shape, voxels, num_outputs)


def _decoder_size(shape: UNetShape, voxels: Sequence[int], num_outputs: int) -> int:
    """Convolutions and one transposed convolution for each decoder stage, and the outputs of the last one."""
    if not shape.decoder:
        return 0  # images too small to be pooled: nnU-Net counts no outputs either
    levels = zip(reversed(shape.decoder), shape.features[:-1], voxels[:-1], strict=True)
    return sum((n + 1) * f * v for n, f, v in levels) + num_outputs * voxels[0]


@dataclass(frozen=True, slots=True)
class NetworkKind:
    """A kind of U-Net.

    Attributes:
        blocks_key: Name of the ``arch_kwargs`` entry with the blocks of each encoder stage.
        size: Its feature-map size.
    """

    blocks_key: str
    size: Callable[[UNetShape, Sequence[int], int], int]


NETWORK_KINDS: Registry[NetworkKind] = Registry(
    "network class",
    {
        "PlainConvUNet": NetworkKind("n_conv_per_stage", plain_unet_size),
        "ResidualEncoderUNet": NetworkKind("n_blocks_per_stage", residual_encoder_unet_size),
    },
)


def feature_map_size(architecture: Architecture, patch_size: Sequence[int], num_outputs: int) -> int:
    """nnU-Net's estimate of the values that a network's convolutions produce for one patch.

    Args:
        architecture: The network as the plans describe it.
        patch_size: Voxels along each axis.
        num_outputs: Output channels.

    Raises:
        UnknownNameError: If the network class is not one whose size is known.
        PlansError: If an argument of the network is missing or wrong.
    """
    kind = NETWORK_KINDS[architecture.short_name]
    findings = Findings("network description", architecture.network_class_name)
    reader = ObjectReader(architecture.arch_kwargs, findings)
    stages = reader.integer("n_stages", minimum=1)
    dimensions = len(patch_size)
    shape = UNetShape(
        features=_for_each_stage(reader, "features_per_stage", stages),
        strides=tuple(_for_each_axis(s, dimensions) for s in _for_each_stage(reader, "strides", stages)),
        encoder=_for_each_stage(reader, kind.blocks_key, stages),
        decoder=_for_each_stage(reader, "n_conv_per_stage_decoder", stages - 1),
    )
    findings.raise_if_any()
    return kind.size(shape, patch_size, num_outputs)


def _for_each_stage(reader: ObjectReader, key: str, stages: int) -> tuple[Any, ...]:
    """A list with an entry for each stage; a single number stands for all stages."""
    value = reader.data.get(key)
    if isinstance(value, int):
        return (value,) * stages
    entries = reader.items(key)
    if is_list(value) and len(entries) != stages:
        reader.findings.add(key, f"has {len(entries)} entries, expected {stages}")
    return entries


def _for_each_axis(stride: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    return (stride,) * dimensions if isinstance(stride, int) else tuple(stride)
