"""Pictures of slices with the outlines of annotation and prediction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.dataset.labels import Labels
from nnunet_pt.report.slices import class_colour, class_members, css_colour
from nnunet_pt.report.training_slices import CaseSlice

PANELS: Final = ("image", "annotation", "prediction")
PANEL_INCHES: Final = 2.8
TITLE_INCHES: Final = 0.3
RESOLUTION_DPI: Final = 100
WINDOW_PERCENTILES: Final = (0.5, 99.5)
MIN_SHOWN_SHARE: Final = 0.45  # of the slice, in each direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """How a class or region is drawn.

    Attributes:
        name: Its name.
        values: The labels that belong to it.
        colour: Colour of the line.
    """

    name: str
    values: tuple[int, ...]
    colour: str


def outlines_of(labels: Labels | None, present: Iterable[int]) -> tuple[Outline, ...]:
    """One outline for each class or region that can be seen.

    Args:
        labels: Labels of the dataset; without them each value is a class.
        present: The labels in the pictures.
    """
    there = set(present) - {0}
    named: dict[str, tuple[int, ...]] = {str(value): (value,) for value in sorted(there)}
    if labels is not None:
        named = dict(zip(labels.class_names, class_members(labels), strict=True))
    return tuple(
        Outline(name=name, values=values, colour=css_colour(class_colour(i)))
        for i, (name, values) in enumerate(named.items())
        if there & set(values)
    )


def draw_slice(shown: CaseSlice, outlines: Sequence[Outline]) -> NDArray[np.uint8]:
    """Image, annotation and prediction side by side on black.

    Args:
        shown: The slice.
        outlines: The classes to outline.

    Returns:
        (height, width, 3).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = _window(shown)
    image = shown.image[rows, columns]
    size = 3 * PANEL_INCHES, PANEL_INCHES + TITLE_INCHES
    fig = Figure(figsize=size, dpi=RESOLUTION_DPI, facecolor="black")
    canvas = FigureCanvasAgg(fig)
    fig.subplots_adjust(left=0.003, right=0.997, bottom=0.0, top=PANEL_INCHES / size[1], wspace=0.01)
    darkest, brightest = shown.window or np.percentile(image, WINDOW_PERCENTILES)
    aspect = shown.spacing_mm[0] / shown.spacing_mm[1]
    for ax, title, labels in zip(fig.subplots(1, 3), PANELS, (None, shown.annotation, shown.prediction), strict=True):
        limits = {"vmin": darkest, "vmax": max(brightest, darkest + 1e-6)}
        ax.imshow(image, cmap="gray", interpolation="bilinear", aspect=aspect, **limits)
        ax.set_title(title, color="#d8dde4", fontsize=10, pad=4)
        ax.set_axis_off()
        if labels is not None:
            _draw_outlines(ax, labels[rows, columns], outlines)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    return np.asarray(pixels)[..., :3].copy()


def _draw_outlines(ax: Any, labels: NDArray[np.int32], outlines: Sequence[Outline]) -> None:
    padded = np.pad(labels, 1)  # structures that touch the border of the picture are closed
    height, width = padded.shape
    for outline in outlines:
        mask = np.isin(padded, outline.values)
        if mask.any():
            places = np.arange(-1, width - 1), np.arange(-1, height - 1)
            ax.contour(*places, mask, levels=[0.5], colors=[outline.colour], linewidths=1.7)
    ax.set_xlim(-0.5, width - 2.5)
    ax.set_ylim(height - 2.5, -0.5)


def _window(shown: CaseSlice) -> tuple[slice, slice]:
    """The part of the slice that is shown: the structures and what is around them, a square if there is room."""
    there = (shown.annotation > 0) | (shown.prediction > 0)
    if not there.any():
        return slice(None), slice(None)
    used = [np.flatnonzero(there.any(axis=1 - axis)) for axis in (0, 1)]
    extents = [(u[-1] + 1 - u[0]) * s for u, s in zip(used, shown.spacing_mm, strict=True)]
    sizes = [n * s for n, s in zip(there.shape, shown.spacing_mm, strict=True)]
    side_mm = max(1.5 * max(extents), MIN_SHOWN_SHARE * max(sizes))
    result = []
    for voxels, number, spacing in zip(used, there.shape, shown.spacing_mm, strict=True):
        side = min(side_mm / spacing, number)
        low = min(max((voxels[0] + voxels[-1] + 1 - side) / 2, 0), number - side)
        result.append(slice(round(low), round(low + side)))
    return result[0], result[1]
