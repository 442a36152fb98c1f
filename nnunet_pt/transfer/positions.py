"""The learned positional embedding of a Primus network: which grid of tokens it belongs to, and what precedes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.transfer.adapt import cube_of, grid_of, overlap, resize_positions, swap_token_axes

_BEFORE_THE_GRID: Final = ("cls_token", "register_tokens", "reg_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """A positional embedding and what is known about its network.

    Attributes:
        embedding: (1, class and register tokens + tokens of the grid, E).
        weights: All tensors of the network.
        patch_size: Its patch size, if known.
        token_size: Voxels of a token along each axis.
    """

    embedding: Tensor
    weights: Mapping[str, Tensor]
    patch_size: tuple[int, ...] | None
    token_size: tuple[int, ...]

    @property
    def prefix(self) -> int:
        """Positions before those of the grid: one for each class or register token among the weights."""
        return sum(
            tensor.shape[1]
            for name, tensor in self.weights.items()
            if name.rpartition(".")[2] in _BEFORE_THE_GRID and tensor.ndim == 3 and "decoder." not in name
        )

    def grid(self, path: Path, alternative: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Tokens along each axis.

        Args:
            path: The file, for the error message.
            alternative: Grid to assume if the patch size is not known and the number of tokens is right.

        Raises:
            CheckpointError: If the number of positions fits no grid.
        """
        tokens = self.embedding.shape[1] - self.prefix
        if self.patch_size is not None:
            candidate: tuple[int, ...] | None = grid_of(self.patch_size, self.token_size)
        elif alternative is not None and math.prod(alternative) == tokens:
            candidate = alternative
        else:
            candidate = cube_of(tokens)
        if candidate is None or math.prod(candidate) != tokens:
            raise self._mismatch(path, candidate)
        return candidate

    def _mismatch(self, path: Path, grid: tuple[int, ...] | None) -> CheckpointError:
        count, before = self.embedding.shape[1], self.prefix
        if grid is None:
            expected = "the number of tokens of a patch whose size is known"
        else:
            expected = f"{_text(grid)} = {math.prod(grid)} for a patch of {_text(self.patch_size or ())}"
            expected += f", and {before} for class and register tokens"
        is_one_more = grid is not None and count - math.prod(grid) == 1 and not before
        hint = "; it looks as if there were a class token, but the file has none" if is_one_more else ""
        return CheckpointError(
            f"The positional embedding in {path} does not fit the patch size and the class token.",
            found=f"{count} positions and {before} class and register tokens{hint}",
            expected=expected,
            remedy='give the patch size of the pre-training as "pretrain_patch_size" in adaptation_plan.json, or use '
            "the checkpoint as it was written",
        )


def fit_positions(
    target: Positions, source: Positions, path: Path, *, fix_token_axes: bool
) -> tuple[str, Callable[[Tensor], Tensor], int]:
    """How a network gets its positions from a file: trilinear on the grid; what precedes it stays or is dropped.

    Args:
        target: The network's.
        source: The file's.
        path: The file, for error messages.
        fix_token_axes: Whether the file's tokens are in the order of nnssl's EvaMAE.

    Returns:
        How they are adapted (empty if they are equal), a function that gives the new values from the present ones, and
        how many values come from the file.

    Raises:
        CheckpointError: If the number of positions does not fit the patch size and the class and register tokens.
    """
    grid = target.grid(path)
    source_grid = source.grid(path, alternative=grid)
    before, own_before = source.embedding[:, : source.prefix], target.prefix
    fitted, steps = source.embedding[:, source.prefix :], []
    if fix_token_axes:
        fitted = swap_token_axes(fitted, source_grid)
        steps.append("order of tokens corrected")
    if source_grid != grid:
        fitted = resize_positions(fitted, source_grid, grid)
        steps.append(f"grid {_text(source_grid)} to {_text(grid)}")
    if source.prefix == own_before:
        fitted, own_before = torch.cat((before, fitted), 1), 0
    elif source.prefix:
        steps.append(f"without {source.prefix} class and register tokens")
    if own_before:
        steps.append(f"its own {own_before} class and register tokens stay")
    if fitted.shape[2] != target.embedding.shape[2]:
        steps.append(f"channels {fitted.shape[2]} in the file, {target.embedding.shape[2]} here")
    return ", ".join(steps), partial(_placed, fitted, own_before), _count(fitted, target.embedding)


def _placed(fitted: Tensor, start: int, present: Tensor) -> Tensor:
    return torch.cat((present[:, :start].detach(), overlap(fitted, present[:, start:])[0]), 1)


def _count(fitted: Tensor, target: Tensor) -> int:
    return fitted.shape[1] * min(fitted.shape[2], target.shape[2])


def _text(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
