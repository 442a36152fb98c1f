"""What all U-Nets share: their description, the decoder, the network as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from nnunet_pt.networks.arguments import note_unknown, read_flag, read_per_axis, read_repeated
from nnunet_pt.networks.blocks import ConvStack, LayerSettings
from nnunet_pt.networks.operators import (
    CONVOLUTIONS,
    DROPOUTS,
    NONLINEARITIES,
    NORMS,
    Operator,
    read_layer_class,
    read_operator,
)
from nnunet_pt.plans.reading import ObjectReader

GIVEN_BY_CALLER = ("input_channels", "num_classes", "deep_supervision")
UNET_KEYS = (
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias",
    "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetDescription:
    """A U-Net as the plans describe it.

    Attributes:
        features: Channels of each encoder stage, highest resolution first.
        kernel_sizes: Kernel size of each stage along each axis.
        strides: Stride of each stage along each axis.
        encoder: Convolutions or residual blocks of each encoder stage.
        decoder: Convolutions of each decoder stage, in the order in which they are applied (lowest resolution first).
        layers: What the convolution units are made of.
        stem_features: Channels of the stem of a residual encoder; None for those of the first stage.
    """

    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    layers: LayerSettings
    stem_features: int | None = None

    @classmethod
    def read(cls, reader: ObjectReader, *, blocks_key: str, extra_keys: Sequence[str] = ()) -> UNetDescription:
        """Read the arguments of a U-Net; problems are noted in the reader's findings.

        Args:
            reader: The arguments.
            blocks_key: Entry with the convolutions or blocks of each encoder stage.
            extra_keys: Further entries that the network has.
        """
        note_unknown(reader, (*UNET_KEYS, blocks_key, *extra_keys), GIVEN_BY_CALLER)
        stages = reader.integer("n_stages", minimum=2)
        layers = _read_layers(reader)
        kernels = read_per_axis(reader, "kernel_sizes", stages, layers.dimensions)
        for i, kernel in enumerate(kernels):
            if any(k % 2 == 0 for k in kernel):
                reader.findings.add(f"kernel_sizes[{i}]", f"is {list(kernel)}, expected odd numbers")
        stem = reader.data.get("stem_channels") if "stem_channels" in extra_keys else None
        return cls(
            features=read_repeated(reader, "features_per_stage", stages),
            kernel_sizes=kernels,
            strides=read_per_axis(reader, "strides", stages, layers.dimensions),
            encoder=read_repeated(reader, blocks_key, stages),
            decoder=read_repeated(reader, "n_conv_per_stage_decoder", stages - 1),
            layers=layers,
            stem_features=None if stem is None else reader.integer("stem_channels", minimum=1),
        )

    @property
    def total_strides(self) -> tuple[tuple[int, ...], ...]:
        """Voxels of the patch along each axis for one voxel of each stage."""
        return tuple(accumulate(self.strides, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True))))

    def check_patch(self, patch_size: Sequence[int], reader: ObjectReader) -> None:
        """Note it if patches of this size do not fit the strides."""
        total = self.total_strides[-1]
        if len(patch_size) != len(total):
            reader.findings.add("conv_op", f"is {len(total)}D, but the patch size is {list(patch_size)}")
        elif any(n % t for n, t in zip(patch_size, total, strict=True)):
            reader.findings.add(
                "strides", f"multiply to {list(total)}, which does not divide the patch size {list(patch_size)}"
            )


def _read_layers(reader: ObjectReader) -> LayerSettings:
    conv = read_layer_class(reader, "conv_op", CONVOLUTIONS)
    if reader.data.get("conv_op") is None:
        reader.findings.add("conv_op", "is missing, expected the name of a convolution")
    dimensions = (Operator(conv).dimensions if conv else None) or 3
    return LayerSettings(
        dimensions=dimensions,
        conv_bias=read_flag(reader, "conv_bias", default=False),
        norm=read_operator(reader, "norm_op", NORMS, dimensions=dimensions, args=(8,)),
        dropout=read_operator(reader, "dropout_op", DROPOUTS, dimensions=dimensions),
        nonlin=read_operator(reader, "nonlin", NONLINEARITIES, dimensions=dimensions),
        nonlin_first=read_flag(reader, "nonlin_first", default=False),
    )


class UNetDecoder(nn.Module):
    """The way back up: at each stage upsample, append the encoder's features, convolve.

    The encoder is a submodule only because nnU-Net's state dicts have its tensors here once more.

    Args:
        encoder: The encoder.
        description: The network.
        num_outputs: Output channels.
        deep_supervision: Whether every stage gives an output.
    """

    def __init__(
        self, encoder: nn.Module, description: UNetDescription, num_outputs: int, deep_supervision: bool
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.encoder = encoder
        layers, one = description.layers, (1,) * description.layers.dimensions
        stages, upsampling, heads = [], [], []
        for count, level in zip(description.decoder, reversed(range(len(description.decoder))), strict=True):
            features = description.features[level]
            upsampling.append(
                layers.upsample(description.features[level + 1], features, description.strides[level + 1])
            )
            stages.append(ConvStack(layers, count, 2 * features, features, description.kernel_sizes[level], one))
            heads.append(layers.conv(features, num_outputs, one, one, bias=True))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(upsampling)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Encoder features, highest resolution first, to logits."""
        x, outputs, last = skips[-1], [], len(self.stages) - 1
        for i, (upsample, stage, head) in enumerate(zip(self.transpconvs, self.stages, self.seg_layers, strict=True)):
            x = stage(torch.cat((upsample(x), skips[last - i]), 1))
            if self.deep_supervision or i == last:
                outputs.append(head(x))
        return outputs[::-1] if self.deep_supervision else outputs[0]


class UNet(nn.Module):
    """Encoder and decoder.

    Args:
        encoder: Gives the features of each stage, highest resolution first.
        description: The network.
        num_outputs: Output channels.
        deep_supervision: Whether the network gives an output at every resolution, or at the highest only.

    Attributes:
        output_strides: Voxels of the patch along each axis for one voxel of each output with deep supervision, highest
            resolution first.
    """

    def __init__(
        self, encoder: nn.Module, description: UNetDescription, num_outputs: int, deep_supervision: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = UNetDecoder(encoder, description, num_outputs, deep_supervision)
        self.output_strides = description.total_strides[:-1]

    @property
    def deep_supervision(self) -> bool:
        """Whether the network gives a list of outputs, highest resolution first, instead of one; may be changed."""
        return self.decoder.deep_supervision

    @deep_supervision.setter
    def deep_supervision(self, enabled: bool) -> None:
        self.decoder.deep_supervision = enabled

    def forward(self, image_bcxyz: Tensor) -> Tensor | list[Tensor]:
        """Image (B,C,*spatial) to logits (B,outputs,*spatial), or a list of them with deep supervision."""
        logits: Tensor | list[Tensor] = self.decoder(self.encoder(image_bcxyz))
        return logits
