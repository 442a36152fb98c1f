"""Slices of an image with its labels in colour, in the directions and proportions in which people look at them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.dataset.labels import Labels

Rgb = NDArray[np.uint8]

MAX_WIDTH: Final = 640
MAX_SIDE_2D: Final = 400
CT_WINDOW: Final = (-160.0, 240.0)  # Hounsfield units of soft tissue
WINDOW_PERCENTILES: Final = (0.5, 99.5)
IGNORED_COLOUR: Final = (128, 128, 128)
FILL: Final = 0.32
_LARGEST_LABEL: Final = 65535
_GAP: Final = 6
_MAX_SAMPLES: Final = 1_000_000
_FIRST_COLOURS: Final = (
    (66, 133, 244), (251, 140, 0), (46, 204, 113), (233, 64, 87), (171, 99, 250), (255, 214, 51), (38, 198, 218),
    (240, 98, 186),
)  # fmt: skip
_GOLDEN: Final = 0.618034
_WANTED: Final = ("SI", "AP", "RL")  # rows and columns as radiologists have them: from the first to the second letter


def class_colour(index: int) -> tuple[int, int, int]:
    """The colour of a class, counted from 0; neighbours differ however many there are."""
    if index < len(_FIRST_COLOURS):
        return _FIRST_COLOURS[index]
    shade = (0.95, 0.72)[index % 2]
    r, g, b = colorsys.hsv_to_rgb(index * _GOLDEN % 1, (0.55, 0.85, 0.7)[index % 3], shade)
    return round(r * 255), round(g * 255), round(b * 255)


def css_colour(rgb: Sequence[int]) -> str:
    """A colour as style sheets write it."""
    return "#" + "".join(f"{v:02x}" for v in rgb)


def class_map(segmentation_xyz: NDArray[Any], labels: Labels) -> NDArray[np.uint16]:
    """Which class to draw in each voxel.

    Regions are drawn one over the other, those that unite most labels first.

    Args:
        segmentation_xyz: Label values.
        labels: Their meaning.

    Returns:
        0 for background, 1... for the classes in the order of ``labels.class_names``, and one more for voxels that
        are not annotated.
    """
    table = np.zeros(_LARGEST_LABEL + 1, np.uint16)
    members = class_members(labels)
    # Regions that unite most labels come first, so that what lies within them is seen
    for index in sorted(range(len(members)), key=lambda i: -len(members[i])):
        table[list(members[index])] = index + 1
    if labels.ignore_label is not None:
        table[labels.ignore_label] = len(members) + 1
    return table[label_values(segmentation_xyz)]


def label_values(segmentation_xyz: NDArray[Any]) -> NDArray[np.uint16]:
    """Labels as whole numbers, with which tables can be indexed; what cannot be a label is background."""
    possible: NDArray[np.uint16] = (
        np.nan_to_num(segmentation_xyz, posinf=0, neginf=0).clip(0, _LARGEST_LABEL).astype(np.uint16)
    )
    return possible


def class_members(labels: Labels) -> tuple[tuple[int, ...], ...]:
    """Label values of each class, in the order of ``labels.class_names``."""
    classes = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    return tuple((c,) if isinstance(c, int) else tuple(c) for c in classes)


def intensity_window(image_xyz: NDArray[Any], channel_name: str) -> tuple[float, float]:
    """Black and white: soft tissue for CT, else nearly the whole range of what is not zero.

    Args:
        image_xyz: One channel.
        channel_name: Its name in dataset.json.
    """
    if channel_name.lower() == "ct":
        return CT_WINDOW
    values = spread_sample(image_xyz)
    values = values[np.isfinite(values)]
    inside = values[values != 0]
    if not len(inside):
        return 0.0, 1.0
    low, high = np.percentile(inside, WINDOW_PERCENTILES)
    if len(inside) < len(values):  # what is exactly zero is background and shall stay black
        low = min(low, 0.0) if (inside > 0).all() else low
    return float(low), float(high if high > low else low + 1)


def spread_sample(image_xyz: NDArray[Any], limit: int = _MAX_SAMPLES) -> NDArray[Any]:
    """Values of voxels evenly distributed over an image, at most about a million."""
    flat = image_xyz.reshape(-1)
    step = max(1, -(-flat.size // limit))
    step += step > 1 and step % 2 == 0  # odd, so that rows of even length are not always hit in the same columns
    return flat[::step]


def three_planes(
    channels_cxyz: NDArray[Any],
    classes_xyz: NDArray[np.uint16],
    spacing: Sequence[float],
    window: tuple[float, float],
    *,
    num_classes: int,
    orientation: str | None = None,
    max_width: int = MAX_WIDTH,
) -> Rgb:
    """Three planes through the middle of the foreground side by side at one scale; a 2D image as it is.

    Args:
        channels_cxyz: One channel, or three to be shown as red, green and blue.
        classes_xyz: See :func:`class_map`.
        spacing: Along the axes, mm.
        window: Black and white.
        num_classes: Classes without background; larger values are not annotated.
        orientation: How the image lies, three letters; it is turned upright. None shows it as it is stored.
        max_width: Of the picture, pixels.

    Returns:
        (height, width, 3).
    """
    image, classes = channels_cxyz, classes_xyz
    sizes = list(spacing)
    if orientation is not None:
        order, flips = _turn(orientation)
        image = np.moveaxis(image, [a + 1 for a in order], [1, 2, 3])[(slice(None), *flips)]
        classes = np.moveaxis(classes, order, [0, 1, 2])[flips]
        sizes = [sizes[a] for a in order]
    planes = [axis for axis in range(3) if all(n > 1 for a, n in enumerate(classes.shape) if a != axis)]
    planes = [next((a for a, n in enumerate(classes.shape) if n == 1), 0)] if len(planes) < 3 else planes
    centre = _middle(classes, num_classes)
    extents = [n * s for n, s in zip(classes.shape, sizes, strict=True)]
    scale = _scale(planes, extents, sizes, max_width)
    tiles = []
    for plane in planes:
        rows, columns = (a for a in range(3) if a != plane)
        height, width = (max(1, round(extents[a] * scale)) for a in (rows, columns))
        at = centre[plane]
        cut, cut_classes = np.take(image, at, plane + 1), np.take(classes, [at], plane).squeeze(plane)
        tiles.append(_coloured(cut, cut_classes, window, (height, width), num_classes))
    return _side_by_side(tiles)


def _turn(orientation: str) -> tuple[list[int], tuple[slice, ...]]:
    order = [next(a for a, letter in enumerate(orientation) if letter in pair) for pair in _WANTED]
    flips = tuple(slice(None, None, 1 if orientation[a] == p[1] else -1) for a, p in zip(order, _WANTED, strict=True))
    return order, flips


def _middle(classes_xyz: NDArray[np.uint16], num_classes: int) -> tuple[int, ...]:
    """The slice in the middle of the foreground along each axis; of the image if there is none."""
    middle = []
    foreground = (classes_xyz > 0) & (classes_xyz <= num_classes)
    for axis, length in enumerate(classes_xyz.shape):
        counts = foreground.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.int64)
        total = counts.sum()
        middle.append(int(np.searchsorted(np.cumsum(counts), total / 2)) if total else length // 2)
    return tuple(middle)


def _scale(planes: Sequence[int], extents: Sequence[float], sizes: Sequence[float], max_width: int) -> float:
    """Pixels per mm: as large as fits, but small images are enlarged by at most a factor of four."""
    if len(planes) == 1:
        sides = [a for a in range(3) if a != planes[0]]
        fits = min(max_width, MAX_SIDE_2D) / max(extents[a] for a in sides)
        return min(fits, 4 / min(sizes[a] for a in sides))
    total = sum(extents[max(a for a in range(3) if a != plane)] for plane in planes)
    return min((max_width - _GAP * (len(planes) - 1)) / total, 4 / min(sizes))


def _coloured(
    cut_chw: NDArray[Any],
    classes_hw: NDArray[np.uint16],
    window: tuple[float, float],
    size: tuple[int, int],
    num_classes: int,
) -> Rgb:
    from PIL import Image

    low, high = window
    grey = np.nan_to_num((cut_chw.astype(np.float32) - low) / (high - low), posinf=1, neginf=0).clip(0, 1) * 255
    shape = size[::-1]
    enlarged = size[0] > cut_chw.shape[1]
    method = Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS
    layers = [np.asarray(Image.fromarray(layer.astype(np.uint8)).resize(shape, method)) for layer in grey]
    picture = np.stack(layers * (3 // len(layers)), axis=-1).astype(np.float32)
    classes = np.asarray(Image.fromarray(classes_hw.astype(np.int32)).resize(shape, Image.Resampling.NEAREST))
    colours = np.array([(0, 0, 0), *map(class_colour, range(num_classes)), IGNORED_COLOUR], np.float32)
    coloured = colours[classes.clip(0, num_classes + 1)]
    strength = np.where(classes > 0, FILL, 0.0)
    strength[_edges(classes) & (classes > 0)] = 1
    mixed: Rgb = (picture + (coloured - picture) * strength[..., None]).round().clip(0, 255).astype(np.uint8)
    return mixed


def _edges(classes_hw: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels of which a neighbour has another class."""
    edges = np.zeros(classes_hw.shape, bool)
    down, right = classes_hw[1:] != classes_hw[:-1], classes_hw[:, 1:] != classes_hw[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


def _side_by_side(tiles: Sequence[Rgb]) -> Rgb:
    height = max(len(tile) for tile in tiles)
    width = sum(tile.shape[1] for tile in tiles) + _GAP * (len(tiles) - 1)
    canvas = np.zeros((height, width, 3), np.uint8)
    left = 0
    for tile in tiles:
        top = (height - len(tile)) // 2
        canvas[top : top + len(tile), left : left + tile.shape[1]] = tile
        left += tile.shape[1] + _GAP
    return canvas
