"""Prediction of whole images, tile by tile.

Tiles overlap; where they do, their outputs are averaged with weights that fall off from the centre of the tile. The
weights of a tile are a product of one factor for each axis, and so is their sum over all tiles. They are therefore
normalised beforehand, axis by axis: the weights at a voxel add up to one, the running sum needs no division at the end,
and it stays in the range of the outputs even in half precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import PredictionError

if TYPE_CHECKING:
    from nnunet_pt.networks.precision import Precision

PEAK = 10.0
SIGMA_SHARE = 1 / 8
# Voxels of all tiles that go through the network at once: more only costs memory. Two threads with a tile each are
# 5 % faster than two threads that share one
VOXELS_PER_BATCH = {"cpu": 1 << 18, "cuda": 1 << 22}
# Logits on the CPU are kept in float32 up to this number of values (1 GiB), in float16 beyond
MAX_FLOAT32_VALUES = 1 << 28

_log = get_logger(__name__)

Progress = Callable[[int, int], None]


def sliding_window_steps(image_size: Sequence[int], tile_size: Sequence[int], step_size: float) -> list[list[int]]:
    """Where tiles begin along each axis: evenly spread, the first and the last flush with the image.

    Args:
        image_size: Extent of the image in voxels, at least that of the tile.
        tile_size: Extent of a tile.
        step_size: Largest distance between neighbouring tiles as a share of the tile's extent, above 0, at most 1.

    Returns:
        For each axis the starts in ascending order.
    """
    if not 0 < step_size <= 1:
        raise ValueError(f"the step size must be above 0 and at most 1, not {step_size}")
    steps = []
    for image, tile in zip(image_size, tile_size, strict=True):
        if image < tile:
            raise ValueError(f"an image of {tuple(image_size)} voxels is smaller than a tile of {tuple(tile_size)}")
        count = math.ceil((image - tile) / (tile * step_size)) + 1
        distance = (image - tile) / (count - 1) if count > 1 else 0.0
        steps.append([round(distance * i) for i in range(count)])  # halves to even
    return steps


def gaussian_importance(tile_size: Sequence[int]) -> NDArray[np.float32]:
    """Weight of each voxel of a tile: a Gaussian around voxel ``size // 2``, sigma 1/8 of the extent, peak 10.

    Args:
        tile_size: Extent of the tile.
    """
    importance = np.array(PEAK)
    for size in tile_size:
        importance = importance[..., None] * _profile(size)
    return importance.astype(np.float32)


def _profile(size: int) -> NDArray[np.float64]:
    """The Gaussian along one axis with peak 1."""
    distance = np.arange(size) - size // 2
    return np.asarray(np.exp(-0.5 * (distance / (size * SIGMA_SHARE)) ** 2))


def _blending(starts: Sequence[int], tile: int, image: int, *, gaussian: bool) -> list[NDArray[np.float32]]:
    """For each tile along one axis its share at each of its voxels; at each voxel of the image they add up to one."""
    profile = _profile(tile) if gaussian else np.ones(tile)
    total = np.zeros(image)
    for start in starts:
        total[start : start + tile] += profile
    return [(profile / total[start : start + tile]).astype(np.float32) for start in starts]


class _Tile(NamedTuple):
    """Where a tile lies, as an index into an image with channels, and its weights along each of its axes."""

    region: tuple[slice | int, ...]
    weights: tuple[NDArray[np.float32], ...]

    def weight(self, device: torch.device) -> Tensor:
        """The weights of all voxels of the tile."""
        weight = torch.ones((), device=device)
        for factor in self.weights:
            weight = weight[..., None] * torch.from_numpy(factor).to(device)
        return weight


Flip = tuple[int, ...]


class SlidingWindow:
    """Predicts images of any size with a network that takes patches.

    A network for 2D patches predicts a volume slice by slice along the first axis. If the memory of a GPU does not
    suffice, the sum of the outputs moves to the CPU, and if that is not enough, fewer tiles are predicted at once.

    Args:
        network: Takes (batch, channels, *patch), gives (batch, outputs, *patch), or a list of such tensors in
            descending resolution.
        patch_size: Extent of a tile, two or three axes.
        num_outputs: Channels of the network's output.
        device: Where the network is.
        mirror_axes: Axes of the patch along which predictions of the mirrored tile, in all combinations, are averaged.
        step_size: See :func:`sliding_window_steps`.
        gaussian: Weight the voxels of a tile with :func:`gaussian_importance` instead of equally.
        precision: Numerical precision of the network's operations; as they are by default.
        tiles_per_batch: Tiles (and mirrored tiles) that are predicted at once; by default as many as pays.
        results_on_device: Sum up on the network's device, which is faster if it has the memory, instead of on the CPU.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        patch_size: Sequence[int],
        num_outputs: int,
        device: torch.device,
        mirror_axes: Sequence[int] = (),
        step_size: float = 0.5,
        gaussian: bool = True,
        precision: Precision | None = None,
        tiles_per_batch: int | None = None,
        results_on_device: bool = True,
    ) -> None:
        self.patch_size = tuple(int(n) for n in patch_size)
        if any(not 0 <= axis < len(self.patch_size) for axis in mirror_axes):
            raise ValueError(f"mirroring along the axes {tuple(mirror_axes)} of a patch of {self.patch_size}")
        self.network = network
        self.num_outputs = num_outputs
        self.device = device
        self.step_size = step_size
        self.gaussian = gaussian
        axes = sorted(set(mirror_axes))
        self.flips: list[Flip] = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
        voxels = VOXELS_PER_BATCH.get(device.type, VOXELS_PER_BATCH["cuda"])
        self.tiles_per_batch = tiles_per_batch or max(1, voxels // math.prod(self.patch_size))
        self._precision = precision
        self._results_on_device = results_on_device

    def predict_logits(self, image_cxyz: Tensor | NDArray[Any], *, progress: Progress | None = None) -> Tensor:
        """Predict an image.

        Args:
            image_cxyz: Preprocessed image (channels, x, y, z) of any extent; float32.
            progress: Called with the number of finished passes through the network and their total.

        Returns:
            Network outputs before softmax or sigmoid, (outputs, x, y, z), on the CPU: float32, or float16 if they were
            summed up on a GPU or are very large.

        Raises:
            PredictionError: If memory does not suffice, or the outputs are not finite.
        """
        image = torch.as_tensor(image_cxyz)
        if image.ndim != 4:
            raise ValueError(f"an image must have the axes (channels, x, y, z), not the shape {tuple(image.shape)}")
        padded, inner = self._padded(image)
        tiles = self._tiles(padded.shape[1:])
        with torch.no_grad(), _ready_for_inference(self.network), self._autocast():
            logits = self._predict(padded, tiles, progress)
        logits = logits[(slice(None), *inner)].cpu()
        if not torch.isfinite(logits.sum(dtype=torch.float32)):
            raise PredictionError(
                "The network's output is not finite.",
                found="NaN or infinite logits",
                remedy="check the image for such values; predict in float32 if it was done in float16",
            )
        return logits

    def _autocast(self) -> Any:
        return self._precision.autocast() if self._precision is not None else nullcontext()

    def _padded(self, image: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
        """The image with zeros around it where it is smaller than a tile, and where it lies therein."""
        tile = (1,) * (image.ndim - 1 - len(self.patch_size)) + self.patch_size
        extra = [max(0, t - n) for t, n in zip(tile, image.shape[1:], strict=True)]
        inner = tuple(slice(e // 2, e // 2 + n) for e, n in zip(extra, image.shape[1:], strict=True))
        if not any(extra):
            return image, inner
        margins = [m for e in reversed(extra) for m in (e // 2, e - e // 2)]
        return nn.functional.pad(image, margins), inner

    def _tiles(self, image_size: Sequence[int]) -> list[_Tile]:
        """All tiles, the last axis fastest."""
        planes = image_size[: len(image_size) - len(self.patch_size)]
        in_tile = image_size[len(planes) :]
        steps = sliding_window_steps(in_tile, self.patch_size, self.step_size)
        axes = []
        for starts, tile, image in zip(steps, self.patch_size, in_tile, strict=True):
            weights = _blending(starts, tile, image, gaussian=self.gaussian)
            axes.append([(slice(s, s + tile), w) for s, w in zip(starts, weights, strict=True)])
        tiles = []
        for plane in itertools.product(*(range(n) for n in planes)):
            for parts in itertools.product(*axes):
                tiles.append(_Tile((slice(None), *plane, *(p[0] for p in parts)), tuple(p[1] for p in parts)))
        return tiles

    def _predict(self, image: Tensor, tiles: Sequence[_Tile], progress: Progress | None) -> Tensor:
        place = self.device if self._results_on_device else torch.device("cpu")
        image, result = self._placed(image, place)
        items = list(itertools.product(range(len(tiles)), self.flips))
        position = 0
        mean: Tensor | None = None  # over the mirrored predictions of the current tile
        while position < len(items):
            batch = items[position : position + self.tiles_per_batch]
            outputs = self._attempt(image, [(tiles[t], flip) for t, flip in batch], result.device)
            if outputs is None:
                image, result, mean = self._with_less_memory(image, result, mean)
                continue
            for (index, flip), output in zip(batch, outputs, strict=True):
                mean = output if mean is None else mean.add_(output)
                if flip == self.flips[-1]:
                    mean.mul_(tiles[index].weight(result.device).div_(len(self.flips)))
                    result[tiles[index].region].add_(mean)
                    mean = None
            position += len(batch)
            if progress is not None:
                progress(position, len(items))
        return result

    def _placed(self, image: Tensor, place: torch.device) -> tuple[Tensor, Tensor]:
        """The image and room for the outputs on a device, or on the CPU if they do not fit there."""
        values = self.num_outputs * image[0].numel()
        half = place.type != "cpu" or values > MAX_FLOAT32_VALUES
        shape = (self.num_outputs, *image.shape[1:])
        try:
            result = torch.zeros(shape, dtype=torch.float16 if half else torch.float32, device=place)
            return image.to(place), result
        except RuntimeError as error:
            if place.type == "cpu" or not _is_out_of_memory(error):
                raise
        _log.warning("The outputs for an image of %s voxels do not fit on the GPU: they are summed up on the CPU.",
                     "x".join(map(str, image.shape[1:])))  # fmt: skip
        return self._placed(image, torch.device("cpu"))

    def _attempt(self, image: Tensor, batch: Sequence[tuple[_Tile, Flip]], place: torch.device) -> list[Tensor] | None:
        """The outputs for some tiles, turned back and in float32 on a device; None if memory does not suffice."""
        try:
            patches = [_flipped(image[tile.region].to(self.device), flip) for tile, flip in batch]
            outputs = self.network(torch.stack(patches))
            if isinstance(outputs, (list, tuple)):
                outputs = outputs[0]
            if outputs.shape[1] != self.num_outputs:
                raise ValueError(f"the network has {outputs.shape[1]} outputs instead of {self.num_outputs}")
            outputs = outputs.to(place, torch.float32)
            return [_flipped(output, flip) for output, (_, flip) in zip(outputs, batch, strict=True)]
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        return None

    def _with_less_memory(
        self, image: Tensor, result: Tensor, mean: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take away part of what fills the memory; what has been predicted is kept."""
        if result.device.type != "cpu":
            _log.warning("The memory of the GPU does not suffice: outputs are summed up on the CPU from here on.")
            image, result = image.cpu(), result.cpu()
            mean = None if mean is None else mean.cpu()
        elif self.tiles_per_batch > 1:
            self.tiles_per_batch //= 2
            _log.warning("Memory does not suffice: %d tiles at once from here on.", self.tiles_per_batch)
        else:
            raise PredictionError(
                "Memory does not suffice for a single tile.",
                found=f"a tile of {'x'.join(map(str, self.patch_size))} voxels on the device {self.device}",
                remedy="close other programs that use the GPU, or predict on the CPU with  -device cpu"
                if self.device.type != "cpu"
                else "close other programs",
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return image, result, mean


def _flipped(tile_cxyz: Tensor, flip: Flip) -> Tensor:
    return tile_cxyz.flip([axis + 1 for axis in flip]) if flip else tile_cxyz


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory did not suffice; libraries for GPUs say it in various ways."""
    text = str(error).lower()
    return "out of memory" in text or "alloc_failed" in text or "can't allocate memory" in text


@contextmanager
def _ready_for_inference(network: nn.Module) -> Iterator[None]:
    """Within this block the network is in evaluation mode and gives its highest resolution only."""
    training = [m for m in network.modules() if m.training]
    deep_supervision = getattr(network, "deep_supervision", False)
    network.eval()
    if deep_supervision:
        setattr(network, "deep_supervision", False)  # noqa: B010  mypy takes attributes of modules for tensors
    try:
        yield
    finally:
        for module in training:
            module.training = True
        if deep_supervision:
            setattr(network, "deep_supervision", True)  # noqa: B010
