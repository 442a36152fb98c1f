"""Drawings of the dataset report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.report.dataset_cases import CaseFacts
from nnunet_pt.report.page import COLOURS, figure, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

FEW_MARKS: Final = 30
MANY_MARKS: Final = 400  # more of them are drawn as one small picture within the figure
FEW_CASES: Final = 14  # so few have their names below them
WIDE_RANGE: Final = 100.0
_ROW_INCHES: Final = 0.27
_MARK_COLOUR: Final = COLOURS[0]
_MEDIAN_COLOUR: Final = COLOURS[1]


def geometry_figure(cases: Sequence[CaseFacts]) -> str:
    """Spacing, number of voxels and size of all cases along each array axis, as dots.

    Args:
        cases: At least one; if all have one slice, only rows and columns are drawn, in pixels.
    """
    flat = all(case.is_2d for case in cases)
    axes_drawn = (1, 2) if flat else (0, 1, 2)
    panels: list[tuple[str, list[tuple[float, ...]]]] = [
        ("voxels" if not flat else "pixels", [case.shape for case in cases]),
        ("spacing (mm)", [case.spacing for case in cases]),
        ("size (mm)", [case.extent for case in cases]),
    ]
    if flat:
        panels = panels[:1]
    fig, axes = new_figure(10.5 if not flat else 5.0, 0.9 + 0.42 * len(axes_drawn), 1, len(panels), sharey=True)
    names = [f"axis {a}" for a in axes_drawn]
    for panel, (label, rows) in zip(axes[0], panels, strict=True):
        strips(panel, [[row[a] for row in rows] for a in axes_drawn], names)
        panel.set_xlabel(label)
        panel.margins(x=0.08)
        panel.locator_params(axis="x", nbins=6)
    return figure(
        fig,
        "One dot for each case; the line marks the median. Axes are those of the array, slowest first: usually slices, "
        "rows and columns.",
        "Dots of number of voxels, spacing and size of all cases along each axis",
    )


def intensity_figure(cases: Sequence[CaseFacts], channel: int, name: str) -> str:
    """Foreground intensities of one channel: a bar for each case, sorted by median."""
    measured = [(c.case, c.channels[channel]) for c in cases if channel < len(c.channels)]
    measured = sorted(((case, f) for case, f in measured if np.isfinite(f.median)), key=lambda pair: pair[1].median)
    if not measured:
        return ""
    rows = np.array([facts.foreground for _, facts in measured])
    fig, axes = new_figure(10.5, 2.7)
    panel: Axes = axes[0, 0]
    x = np.arange(len(rows))
    many = len(rows) > MANY_MARKS
    width = float(np.clip(420 / len(rows), 0.8, 12))
    panel.vlines(x, rows[:, 0], rows[:, 4], color=_MARK_COLOUR, alpha=0.35, linewidth=width / 4, rasterized=many)
    panel.vlines(x, rows[:, 1], rows[:, 3], color=_MARK_COLOUR, alpha=0.75, linewidth=width, rasterized=many)
    panel.plot(x, rows[:, 2], "o", color=_MEDIAN_COLOUR, markersize=min(4.0, width), rasterized=many)
    panel.set_ylabel(_shortened(name))
    margin = max(0.6, 0.02 * len(rows))
    panel.set_xlim(-margin, len(rows) - 1 + margin)
    panel.grid(axis="x", visible=False)
    if len(rows) <= FEW_CASES:
        panel.set_xticks(x, [_shortened(case, 90 // len(rows)) for case, _ in measured])
    else:
        panel.set_xticks([])
        panel.set_xlabel("cases, sorted by median")
    typical = float(np.median(rows[:, 2]))
    wide = typical > 0 and rows.min() >= 0 and rows.max() > WIDE_RANGE * typical
    if wide:
        panel.set_yscale("symlog", linthresh=typical)
        panel.yaxis.set_major_formatter(_plain)
        panel.set_ylim(bottom=0)
    return figure(
        fig,
        f"{name} within the foreground. Dot: median; thick: the middle half; thin: from the 0.5th to the 99.5th "
        f"percentile.{' Above the median of all cases the scale is logarithmic.' if wide else ''}",
        f"Intensities of {name} for each case",
    )


def volume_figure(volumes: Mapping[str, Sequence[float]], unit: str) -> str:
    """Volumes of all classes on a logarithmic scale: a row for each class, a dot for each case that has it.

    Args:
        volumes: Class -> volumes; zeros are left out.
        unit: Of the volumes.
    """
    rows = {name: [v for v in values if v > 0] for name, values in volumes.items()}
    if not any(rows.values()):
        return ""
    fig, axes = new_figure(10.5, 0.85 + _ROW_INCHES * max(len(rows), 2))
    panel: Axes = axes[0, 0]
    strips(panel, list(rows.values()), list(rows))
    panel.set_xscale("log")
    plain_log_labels(panel.xaxis)
    panel.set_xlabel(f"volume ({unit})" if unit != "pixels" else "area (pixels)")
    return figure(
        fig,
        "One dot for each case that has the class; the line marks the median. Note the logarithmic scale.",
        "Volumes of every class in all cases",
    )


def plain_log_labels(axis: Axis) -> None:
    """Label a logarithmic axis with numbers such as 20, 50, 100 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axis.set_major_formatter(_plain)
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _position: float = 0) -> str:
    return f"{value:,.0f}" if abs(value) >= 1 else f"{value:g}"


def strips(panel: Axes, rows: Sequence[Sequence[float]], names: Sequence[str]) -> None:
    """Rows of dots, first row on top, with a line at the median of each."""
    many = sum(map(len, rows)) > MANY_MARKS
    for index, values in enumerate(rows):
        spread = _spread(len(values))
        panel.plot(
            values,
            index + spread,
            "o",
            color=_MARK_COLOUR,
            alpha=0.6 if len(values) > FEW_MARKS else 1.0,
            markersize=5,
            markeredgewidth=0,
            zorder=3,
            rasterized=many,
        )
        if len(values):
            panel.vlines(
                float(np.median(values)), index - 0.36, index + 0.36, color=_MEDIAN_COLOUR, linewidth=2, zorder=4
            )
    panel.set_yticks(range(len(names)), [_shortened(name) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.grid(axis="y", visible=False)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)


def _spread(number: int) -> NDArray[Any]:
    """Offsets that keep dots apart, the same every time."""
    return (np.arange(number) * 0.618034 % 1 - 0.5) * (0.5 if number > 1 else 0.0)


def _shortened(name: str, limit: int = 32) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
