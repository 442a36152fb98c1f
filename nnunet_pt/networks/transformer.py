"""The transformer of Primus: EVA-02 blocks over three-dimensional tokens (Fang et al. 2023, arXiv:2303.11331)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ROPE_BASE = 10000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSettings:
    """Sizes and options of the transformer.

    Attributes:
        embed_dim: Length of a token.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden features of a block's MLP per ``embed_dim``.
        registers: Number of learned tokens without a position that precede those of the image.
        absolute_positions: Whether a learned embedding of its position is added to each token.
        rotary_positions: Whether queries and keys are rotated by their positions.
        layer_scale: What the learned scale of each residual branch starts with; None for no scale.
        inner_norm: Whether the heads' joint output is normalised.
        drop_path: Probability that the last block is skipped for a sample; it grows linearly from 0 at the first.
        dropout: Dropout of projections.
        attention_dropout: Dropout of attention weights.
    """

    embed_dim: int
    depth: int
    heads: int
    mlp_ratio: float = 8 / 3
    registers: int = 0
    absolute_positions: bool = True
    rotary_positions: bool = True
    layer_scale: float | None = None
    inner_norm: bool = False
    drop_path: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.embed_dim // self.heads


def rotary_angles(grid: Sequence[int], head_dim: int) -> Tensor:
    """Angles by which pairs of features are rotated, (tokens, head_dim/2), tokens in row-major order of the grid.

    Each axis has ``head_dim/6`` frequencies ``10000^(-i/n)``. Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2,
    with the features divided among the axes.
    """
    bands = head_dim // 6
    frequencies = ROPE_BASE ** (-torch.arange(bands, dtype=torch.float32) / bands)
    positions = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32) for n in grid)).reshape(-1, len(grid))
    return (positions[:, :, None] * frequencies).flatten(1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate consecutive pairs of features.

    Args:
        x: (B,heads,tokens,head_dim).
        rotation: Cosine and sine of the angles, (2,tokens,head_dim/2).

    Returns:
        (B,heads,tokens,head_dim) in the precision of ``rotation``.
    """
    cosine, sine = rotation
    first, second = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack((first * cosine - second * sine, second * cosine + first * sine), -1).flatten(-2)


class Attention(nn.Module):
    """Self-attention over all tokens.

    Args:
        settings: Sizes and options.
    """

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        size = settings.embed_dim
        self.heads, self.registers = settings.heads, settings.registers
        self.attention_dropout = settings.attention_dropout
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size) if settings.inner_norm else nn.Identity()
        self.proj = nn.Linear(size, size)
        self.proj_drop = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """(B,tokens,E) to the same shape; ``rotation`` as for :func:`rotate`, without the registers."""
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        if rotation is not None:
            q, k = self._rotated(q, rotation).to(v.dtype), self._rotated(k, rotation).to(v.dtype)
        dropout = self.attention_dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        z: Tensor = self.proj_drop(self.proj(self.norm(y.transpose(1, 2).flatten(2))))
        return z

    def _rotated(self, x: Tensor, rotation: Tensor) -> Tensor:
        if not self.registers:
            return rotate(x, rotation)
        return torch.cat((x[:, :, : self.registers], rotate(x[:, :, self.registers :], rotation)), 2)


class GatedMlp(nn.Module):
    """Two linear layers, the first gated by a SiLU (SwiGLU; Shazeer 2020, arXiv:2002.05202), with a norm between.

    Args:
        settings: Sizes and options.
    """

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        size, hidden = settings.embed_dim, int(settings.embed_dim * settings.mlp_ratio)
        self.fc1_g = nn.Linear(size, hidden)
        self.fc1_x = nn.Linear(size, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, size)
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B,tokens,E) to the same shape."""
        hidden = self.drop(functional.silu(self.fc1_g(x)) * self.fc1_x(x))
        y: Tensor = self.drop(self.fc2(self.norm(hidden)))
        return y


class Block(nn.Module):
    """Attention and MLP, each normalised before, scaled, and added to its input.

    Args:
        settings: Sizes and options.
        drop_path: Probability that a branch is skipped for a sample.
    """

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def __init__(self, settings: TransformerSettings, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        scale = settings.layer_scale
        for name in ("gamma_1", "gamma_2"):
            value = None if scale is None else nn.Parameter(torch.full((settings.embed_dim,), float(scale)))
            self.register_parameter(name, value)
        self.norm1 = nn.LayerNorm(settings.embed_dim)
        self.attn = Attention(settings)
        self.norm2 = nn.LayerNorm(settings.embed_dim)
        self.mlp = GatedMlp(settings)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """(B,tokens,E) to the same shape."""
        x = self._add(x, self.attn(self.norm1(x), rotation), self.gamma_1)
        return self._add(x, self.mlp(self.norm2(x)), self.gamma_2)

    def _add(self, x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
        if self.training and self.drop_path > 0:
            kept = 1 - self.drop_path
            mask = x.new_empty(len(x), 1, 1).bernoulli_(kept).div_(kept)
            scale = mask if scale is None else scale * mask
        return x + branch if scale is None else torch.addcmul(x, branch, scale)


class Transformer(nn.Module):
    """The blocks, with the positions of the tokens.

    Args:
        settings: Sizes and options.
        grid: Number of tokens along each axis.
    """

    pos_embed: nn.Parameter | None
    rotation: Tensor | None

    def __init__(self, settings: TransformerSettings, grid: Sequence[int]) -> None:
        super().__init__()
        tokens = settings.registers + int(torch.Size(grid).numel())
        positions = nn.Parameter(torch.zeros(1, tokens, settings.embed_dim)) if settings.absolute_positions else None
        self.register_parameter("pos_embed", positions)
        rates = [settings.drop_path * i / max(settings.depth - 1, 1) for i in range(settings.depth)]
        self.blocks = nn.ModuleList(Block(settings, rate) for rate in rates)
        self.norm = nn.LayerNorm(settings.embed_dim)
        rotation = None
        if settings.rotary_positions:
            angles = rotary_angles(grid, settings.head_dim)
            rotation = torch.stack((angles.cos(), angles.sin()))
        self.register_buffer("rotation", rotation, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B,registers+tokens,E) to the same shape."""
        x = tokens if self.pos_embed is None else tokens + self.pos_embed
        for block in self.blocks:
            x = block(x, self.rotation)
        y: Tensor = self.norm(x)
        return y
