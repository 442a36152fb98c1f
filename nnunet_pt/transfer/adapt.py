"""Changing a tensor so that it fits another place: kernels, channels, widths, heads, positions. Nothing is in place.

Weights of convolutions are (out, in, *kernel), those of transposed convolutions (in, out, *kernel).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def fit_kernel(weight: Tensor, kernel: Sequence[int], *, transposed: bool = False) -> Tensor:
    """Another kernel size, from 2D to 3D and back included.

    A kernel of 2D is one of 3D with the size 1 along the first axis. Along an axis that shrinks, weights are averaged
    (all of them where 1 is left). Along one that grows, a convolution's kernel is padded with zeros around its centre,
    so that its response stays the same; a transposed convolution, whose every weight makes a voxel of its own, repeats
    its weights.

    Args:
        weight: (a, b, *kernel), two or three axes of kernel.
        kernel: The new size, two or three numbers.
        transposed: Whether it belongs to a transposed convolution.

    Returns:
        (a, b, *kernel).
    """
    result = weight if weight.ndim == 5 else weight.unsqueeze(2)
    wanted = tuple(kernel) if len(kernel) == 3 else (1, *kernel)
    for axis, size in enumerate(wanted, start=2):
        result = _fit_axis(result, axis, size, transposed=transposed)
    return result if len(kernel) == 3 else result.squeeze(2)


def _fit_axis(weight: Tensor, axis: int, size: int, *, transposed: bool) -> Tensor:
    present = weight.shape[axis]
    if present == size:
        return weight
    if size == 1:
        return weight.mean(axis, keepdim=True)
    if size < present:
        return torch.stack([piece.mean(axis) for piece in _pieces(weight, axis, size)], axis)
    if transposed:
        places = torch.arange(size, device=weight.device) * present // size
        return weight.index_select(axis, places)
    before = (size - present) // 2
    result = weight.new_zeros(*weight.shape[:axis], size, *weight.shape[axis + 1 :])
    result.narrow(axis, before, present).copy_(weight)
    return result


def _pieces(weight: Tensor, axis: int, size: int) -> list[Tensor]:
    """Equal, possibly overlapping pieces along an axis, as adaptive average pooling takes them."""
    length = weight.shape[axis]
    bounds = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    return [weight.narrow(axis, begin, end - begin) for begin, end in bounds]


def fit_channels(
    weight: Tensor, count: int, source_names: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> Tensor:
    """The first convolution for other input channels; the response to equal channels is kept.

    Without names, or if no name is shared: the mean over the channels, repeated, divided by their number and multiplied
    by the previous number, as nnssl does for one. With shared names, three steps that each keep the response: the
    weights of channels that are gone are dealt out equally to those that stay; new channels get the mean of those that
    stay; all are multiplied by the number of channels that stay and divided by the number of channels.

    Args:
        weight: (out, in, *kernel).
        count: New number of input channels.
        source_names: Names of the present channels.
        names: Names of the new ones.

    Returns:
        (out, count, *kernel).
    """
    present = weight.shape[1]
    pairs = shared_names(source_names, names, present, count)
    if not pairs:
        if present == count:
            return weight
        total = weight if present == 1 else weight.sum(1, keepdim=True)
        return total.repeat_interleave(count, 1) / count
    if present == count and pairs == {i: i for i in range(count)}:
        return weight
    kept = weight[:, list(pairs.values())]
    gone = [i for i in range(present) if i not in pairs.values()]
    if gone:
        kept = kept + weight[:, gone].sum(1, keepdim=True) / len(pairs)
    if len(pairs) == count:
        return kept[:, [list(pairs).index(i) for i in range(count)]]
    result = kept.mean(1, keepdim=True).repeat_interleave(count, 1)
    result[:, list(pairs)] = kept
    return result * (len(pairs) / count)


def shared_names(
    source_names: Sequence[str] | None, names: Sequence[str] | None, present: int, count: int
) -> dict[int, int]:
    """Number of a new channel to that of the present one with the same name; upper and lower case are the same.

    Channels of the same name are taken in their order. Without names for all channels the result is empty.
    """
    if source_names is None or names is None or len(source_names) != present or len(names) != count:
        return {}
    left = {i: _folded(name) for i, name in enumerate(source_names)}
    pairs = {}
    for number, name in enumerate(names):
        found = next((i for i, other in left.items() if other == _folded(name)), None)
        if found is not None:
            pairs[number] = found
            del left[found]
    return pairs


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def overlap(source: Tensor, target: Tensor, halves_axis: int | None = None) -> tuple[Tensor, int]:
    """The target with the source's values where the shapes overlap, counted from the first channel.

    Args:
        source: Any shape with the number of axes of the target.
        target: Its values stay where the source has none.
        halves_axis: An axis that holds two halves, each of which overlaps by itself (a decoder's upsampled features
            and those of the encoder).

    Returns:
        A new tensor, and how many values come from the source.
    """
    result = target.detach().clone()
    if halves_axis is not None:
        ours, theirs = result.chunk(2, halves_axis), source.chunk(2, halves_axis)
        return result, sum(_fill(mine, other) for mine, other in zip(ours, theirs, strict=True))
    return result, _fill(result, source)


def _fill(target: Tensor, source: Tensor) -> int:
    place = tuple(slice(0, min(a, b)) for a, b in zip(target.shape, source.shape, strict=True))
    target[place] = source[place].to(target.dtype)
    return target[place].numel()


def fit_rows(source: Tensor, target: Tensor, rows: Mapping[int, int], axis: int = 0) -> tuple[Tensor, int]:
    """The target with some of its rows from the source: the outputs of classes that both know.

    Args:
        source: Weights or biases of the layer that gives the outputs.
        target: The same of the new layer.
        rows: Number of the target's row to that of the source's.
        axis: Where the rows are.

    Returns:
        A new tensor, and how many values come from the source.
    """
    result = target.detach().clone()
    theirs = source.index_select(axis, torch.tensor(list(rows.values()), device=source.device))
    places = torch.tensor(list(rows), device=result.device)
    merged, count = overlap(theirs.to(result.device), result.index_select(axis, places))
    return result.index_copy_(axis, places, merged), count


def resize_positions(positions: Tensor, grid: Sequence[int], new_grid: Sequence[int], *, prefix: int = 0) -> Tensor:
    """A learned positional embedding for another grid of tokens: trilinear, corners not aligned.

    Args:
        positions: (1, prefix + tokens, E), tokens in row-major order of the grid.
        grid: Present number of tokens along each axis.
        new_grid: New number.
        prefix: Positions before those of the grid; they are dropped.

    Returns:
        (1, new tokens, E).
    """
    grid_positions = positions[:, prefix:]
    if tuple(grid) == tuple(new_grid):
        return grid_positions
    volume = _split(grid_positions.transpose(1, 2), 2, grid).float()
    resized = functional.interpolate(volume, size=tuple(new_grid), mode="trilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(positions.dtype)


def swap_token_axes(positions: Tensor, grid: Sequence[int]) -> Tensor:
    """Positions of nnssl's EvaMAE, which counts the second axis of the grid first, in row-major order.

    Args:
        positions: (1, tokens, E).
        grid: Tokens along each axis.

    Returns:
        (1, tokens, E).
    """
    first, second, third = grid
    return _split(positions, 1, (second, first, third)).transpose(1, 2).flatten(1, 3)


def swap_rotary_axes(projection: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection for rotary positions with the first two axes of the grid swapped.

    In each head, the first third of the rows is rotated by the first axis, the second third by the second.

    Args:
        projection: (heads * rows, ...): weight or bias.
        heads: Number of attention heads.
    """
    rows = _split(projection, 0, (heads, 3, len(projection) // (3 * heads)))
    return rows[:, [1, 0, 2]].flatten(0, 2)


def _split(tensor: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    return tensor.reshape(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])


def grid_of(patch_size: Sequence[int], token_size: Sequence[int]) -> tuple[int, ...]:
    """Tokens along each axis."""
    return tuple(n // t for n, t in zip(patch_size, token_size, strict=True))


def cube_of(tokens: int) -> tuple[int, int, int] | None:
    """The grid of so many tokens if it is a cube."""
    edge = round(math.cbrt(tokens)) if hasattr(math, "cbrt") else round(tokens ** (1 / 3))
    return (edge, edge, edge) if edge**3 == tokens else None
