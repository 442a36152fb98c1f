"""Primus: a transformer for segmentation (Wald et al. 2025, arXiv:2503.01835), in its three versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_pt.networks.arguments import note_unknown, read_flag, read_rate, read_repeated
from nnunet_pt.networks.blocks import CONVOLUTIONS, LEAKY_SLOPE, LayerSettings, ResidualStack
from nnunet_pt.networks.operators import Operator
from nnunet_pt.networks.transformer import Block, Transformer, TransformerSettings
from nnunet_pt.plans.reading import ObjectReader, describe, is_number

Version = Literal[1, 2, 3]

SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    "S": {"embed_dim": 396, "eva_depth": 12, "eva_numheads": 6},
    "B": {"embed_dim": 792, "eva_depth": 12, "eva_numheads": 12},
    "M": {"embed_dim": 864, "eva_depth": 16, "eva_numheads": 12},
    "L": {"embed_dim": 1056, "eva_depth": 24, "eva_numheads": 16},
}
PRESET: Final[Mapping[str, Any]] = {"init_values": 0.1, "scale_attn_inner": True}
TOKEN_SIZE: Final = (8, 8, 8)
SKIP_SCALE: Final = 1e-5

PRIMUS_KEYS = (
    "embed_dim", "patch_embed_size", "eva_depth", "eva_numheads", "num_register_tokens", "use_rot_pos_emb",
    "use_abs_pos_embed", "mlp_ratio", "drop_path_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate",
    "init_values", "scale_attn_inner", "input_shape",
)  # fmt: skip
GIVEN_BY_CALLER = ("input_channels", "output_channels", "num_classes", "deep_supervision")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimusDescription:
    """A Primus as the plans describe it.

    Attributes:
        transformer: The transformer.
        token_size: Voxels of one token along each axis.
        patch_size: Voxels of the patch along each axis.
        version: 1: tokens are cut out by one convolution; 2: by a small residual encoder; 3: with its skips.
    """

    transformer: TransformerSettings
    token_size: tuple[int, ...]
    patch_size: tuple[int, ...]
    version: Version

    @classmethod
    def read(cls, reader: ObjectReader, *, patch_size: Sequence[int] | None, version: Version) -> PrimusDescription:
        """Read the arguments of a Primus; problems are noted in the reader's findings.

        Args:
            reader: The arguments.
            patch_size: Voxels along each axis; None for the arguments' ``input_shape``.
            version: Version of the network.
        """
        note_unknown(reader, PRIMUS_KEYS, GIVEN_BY_CALLER)
        if patch_size is None and "input_shape" not in reader.data:
            reader.findings.add("input_shape", "is missing, and no patch size is given: this network has a fixed size")
        patch = patch_size if patch_size is not None else reader.integers("input_shape", minimum=1, default=())
        if read_rate(reader, "patch_drop_rate") > 0:
            reader.findings.add("patch_drop_rate", "is above 0, but tokens are dropped in pre-training only")
        token = read_repeated(reader, "patch_embed_size", 3) if "patch_embed_size" in reader.data else TOKEN_SIZE
        description = cls(
            transformer=_read_transformer(reader), token_size=token, patch_size=tuple(patch), version=version
        )
        description._check(reader)
        return description

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of tokens along each axis."""
        return tuple(n // t for n, t in zip(self.patch_size, self.token_size, strict=True))

    def _check(self, reader: ObjectReader) -> None:
        findings, size, heads = reader.findings, self.transformer.embed_dim, self.transformer.heads
        multiple = 6 * heads if self.transformer.rotary_positions else heads
        if size % multiple:
            findings.add("embed_dim", f"is {size}, expected a multiple of {multiple} for {heads} heads")
        if any(log2(t) % 1 for t in self.token_size) or max(self.token_size) == 1:
            findings.add("patch_embed_size", f"is {list(self.token_size)}, expected powers of 2 above 1")
        if self.version > 1 and self.token_size != TOKEN_SIZE:
            findings.add(
                "patch_embed_size", f"is {list(self.token_size)}, expected {list(TOKEN_SIZE)} for this version"
            )
        fits = len(self.patch_size) == 3 and not any(
            n % t for n, t in zip(self.patch_size, self.token_size, strict=True)
        )
        if self.patch_size and not fits:
            findings.add("patch size", f"is {list(self.patch_size)}, expected multiples of {list(self.token_size)}")


def _read_transformer(reader: ObjectReader) -> TransformerSettings:
    ratio = reader.data.get("mlp_ratio", 8 / 3)
    if not is_number(ratio) or ratio <= 0:
        reader.findings.add("mlp_ratio", f"is {describe(ratio)}, expected a number above 0")
        ratio = 1
    return TransformerSettings(
        embed_dim=reader.integer("embed_dim", minimum=1),
        depth=reader.integer("eva_depth", minimum=1),
        heads=reader.integer("eva_numheads", minimum=1),
        mlp_ratio=float(ratio),
        registers=reader.integer("num_register_tokens", minimum=0, default=0),
        absolute_positions=read_flag(reader, "use_abs_pos_embed", default=True),
        rotary_positions=read_flag(reader, "use_rot_pos_emb", default=True),
        layer_scale=_read_layer_scale(reader),
        inner_norm=read_flag(reader, "scale_attn_inner", default=False),
        drop_path=read_rate(reader, "drop_path_rate"),
        dropout=read_rate(reader, "proj_drop_rate"),
        attention_dropout=read_rate(reader, "attn_drop_rate"),
    )


def _read_layer_scale(reader: ObjectReader) -> float | None:
    value: Any = reader.data.get("init_values")
    if isinstance(value, (list, tuple)) and value:  # pre-training plans may give one for each block, all the same
        value = value[0]
    if value is None or is_number(value):
        return None if value is None else float(value)
    reader.findings.add("init_values", f"is {describe(value)}, expected a number or null")
    return None


def pretraining_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """nnssl's arguments of its masked autoencoder (``PrimusX``), as those of the Primus that continues from it."""
    names = {"encoder_eva_depth": "eva_depth", "encoder_eva_numheads": "eva_numheads"}
    unused = ("decoder_eva_depth", "decoder_eva_numheads", "patch_drop_rate")
    return {names.get(k, k): v for k, v in arguments.items() if k not in unused}


class PatchEmbedding(nn.Module):
    """One convolution that turns each block of voxels into a token.

    Args:
        input_channels: Channels of the image.
        embed_dim: Length of a token.
        token_size: Voxels of a token along each axis.
    """

    def __init__(self, input_channels: int, embed_dim: int, token_size: Sequence[int]) -> None:
        super().__init__()
        size = tuple(token_size)
        self.proj = nn.Conv3d(input_channels, embed_dim, size, size)  # type: ignore[arg-type]

    def forward(self, image_bcxyz: Tensor) -> Tensor:
        """Image (B,C,x,y,z) to tokens on their grid, (B,E,gx,gy,gz)."""
        tokens: Tensor = self.proj(image_bcxyz)
        return tokens


class ConvolutionalEmbedding(nn.Module):
    """A residual encoder with three halvings that ends in tokens of 8 x 8 x 8 voxels.

    Args:
        input_channels: Channels of the image.
        embed_dim: Length of a token.
        stem: Channels at full resolution.
        stages: Channels after each halving.
        nonlin: Nonlinearity.
        skips: Whether the features of each resolution are turned into tokens, too, and added.
    """

    def __init__(
        self, input_channels: int, embed_dim: int, stem: int, stages: Sequence[int], nonlin: Operator, *, skips: bool
    ) -> None:
        super().__init__()
        norm = Operator(nn.InstanceNorm3d, {"eps": 1e-5, "affine": True})
        settings = LayerSettings(dimensions=3, conv_bias=False, norm=norm, nonlin=nonlin)
        kernel, one, two = (3, 3, 3), (1, 1, 1), (2, 2, 2)
        widths = (stem, *stages)
        self.stem = ResidualStack(replace(settings, conv_bias=True), 1, input_channels, stem, kernel, one)
        self.stages = nn.ModuleList(
            ResidualStack(settings, 1, before, after, kernel, two) for before, after in pairwise(widths)
        )
        self.final_proj = nn.Conv3d(widths[-1], embed_dim, 1)
        if skips:
            sizes = [t // 2**i for i, t in enumerate(TOKEN_SIZE)]
            self.proj_to_tokens = nn.ModuleList(
                nn.Conv3d(width, embed_dim, size, size) for width, size in zip(widths, sizes, strict=False)
            )
            self.scale_proj_to_tokens = nn.ParameterList(nn.Parameter(torch.tensor(SKIP_SCALE)) for _ in sizes)
        self.skips = skips

    def forward(self, image_bcxyz: Tensor) -> Tensor:
        """Image (B,C,x,y,z) to tokens on their grid, (B,E,gx,gy,gz)."""
        x, features = self.stem(image_bcxyz), []
        for stage in self.stages:
            features.append(x)
            x = stage(x)
        tokens: Tensor = self.final_proj(x)
        if self.skips:
            for f, project, scale in zip(features, self.proj_to_tokens, self.scale_proj_to_tokens, strict=True):
                tokens = tokens + scale * project(f)
        return tokens


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of an image.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,*spatial) to the same shape."""
        y = functional.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return y.movedim(-1, 1)


class PatchDecoder(nn.Module):
    """Transposed convolutions that turn each token into its block of logits.

    Args:
        embed_dim: Length of a token.
        num_outputs: Output channels.
        token_size: Voxels of a token along each axis, powers of 2.
    """

    def __init__(self, embed_dim: int, num_outputs: int, token_size: Sequence[int]) -> None:
        super().__init__()
        strides = _decoder_strides(token_size)
        widths = (embed_dim, *_decoder_widths(embed_dim, num_outputs, len(strides)))
        layers: list[nn.Module] = []
        for i, (before, after, stride) in enumerate(zip(widths, widths[1:], strides, strict=False)):
            upsample = nn.ConvTranspose3d(before, after, stride, stride)  # type: ignore[arg-type]
            last = i == len(strides) - 1
            layers.append(upsample if last else nn.Sequential(upsample, ChannelNorm(after), nn.GELU()))
        self.decode = nn.Sequential(*layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens on their grid, (B,E,gx,gy,gz), to logits (B,outputs,x,y,z)."""
        logits: Tensor = self.decode(tokens)
        return logits


def _decoder_strides(token_size: Sequence[int]) -> list[tuple[int, ...]]:
    stages = int(log2(max(token_size)))
    return [tuple(2 if t // 2**i > 1 else 1 for t in token_size) for i in reversed(range(stages))]


def _decoder_widths(embed_dim: int, num_outputs: int, stages: int) -> tuple[int, ...]:
    """Widths fall evenly from the token to twice the outputs, in multiples of 8."""
    ratio = (embed_dim / (2 * num_outputs)) ** (1 / stages)
    between = (max(8, 8 * round((embed_dim / ratio**k + 1e-6) / 8)) for k in range(1, stages))
    return (*between, num_outputs)


class Primus(nn.Module):
    """Image to tokens, transformer, tokens to logits; for patches of one size.

    Args:
        description: The network.
        input_channels: Channels of the image.
        num_outputs: Output channels.
        deep_supervision: Whether the one output comes in a list.

    Attributes:
        output_strides: Voxels of the patch for one voxel of each output: one output, full resolution.
        deep_supervision: As above; may be changed.
    """

    output_strides: tuple[tuple[int, ...], ...] = ((1, 1, 1),)
    mask_token: Tensor
    register_tokens: nn.Parameter | None
    down_projection: nn.Module

    def __init__(
        self, description: PrimusDescription, *, input_channels: int, num_outputs: int, deep_supervision: bool
    ) -> None:
        super().__init__()
        settings = description.transformer
        size, registers = settings.embed_dim, settings.registers
        self.deep_supervision = deep_supervision
        self.register_parameter("register_tokens", nn.Parameter(torch.zeros(1, registers, size)) if registers else None)
        self.register_buffer("mask_token", torch.zeros(1, 1, size))  # of pre-training; unused here
        self.down_projection = _embedding(description, input_channels)
        self.up_projection = PatchDecoder(size, num_outputs, description.token_size)
        self.eva = Transformer(settings, description.grid)

    def forward(self, image_bcxyz: Tensor) -> Tensor | list[Tensor]:
        """Image (B,C,x,y,z) to logits (B,outputs,x,y,z)."""
        x = self.down_projection(image_bcxyz)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if self.register_tokens is not None:
            x = torch.cat((self.register_tokens.expand(len(x), -1, -1), x), 1)
        x = self.eva(x)[:, -grid.numel() :]
        logits: Tensor = self.up_projection(x.transpose(1, 2).unflatten(2, grid))
        return [logits] if self.deep_supervision else logits


def _embedding(description: PrimusDescription, input_channels: int) -> nn.Module:
    size = description.transformer.embed_dim
    if description.version == 1:
        return PatchEmbedding(input_channels, size, description.token_size)
    if description.version == 2:
        relu = Operator(nn.ReLU, {"inplace": True})
        return ConvolutionalEmbedding(input_channels, size, 32, (32, 64, 128), relu, skips=False)
    leaky = Operator(nn.LeakyReLU, {"inplace": True})
    return ConvolutionalEmbedding(input_channels, size, 32, (64, 256, 1024), leaky, skips=True)


def initialise_primus(network: nn.Module) -> None:
    """Draw the weights: linear layers and positions from a truncated normal distribution, convolutions from He's.

    What ends a residual branch is divided by the square root of twice the number of its block (as in BEiT, Bao et al.
    2021, arXiv:2106.08254, section 2.5).
    """
    blocks = 0
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Transformer) and module.pos_embed is not None:
            nn.init.trunc_normal_(module.pos_embed, std=0.02)
        if isinstance(module, Primus) and module.register_tokens is not None:
            nn.init.normal_(module.register_tokens, std=1e-6)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Block):
                blocks += 1
                module.attn.proj.weight.div_((2 * blocks) ** 0.5)
                module.mlp.fc2.weight.div_((2 * blocks) ** 0.5)
