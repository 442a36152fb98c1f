"""The figures of a comparison: curves on top of each other, paired Dice of the common cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from nnunet_pt.report.comparison_record import Compared, Pairing, mean_interval
from nnunet_pt.report.page import COLOURS, new_figure
from nnunet_pt.report.training_figures import GREY, draw_boxes, draw_curve, finish_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_JOINED: Final = 60  # cases joined by lines
_SHORT_NAME: Final = 34


def colour_of(index: int) -> str:
    """The colour of a training in all figures."""
    return COLOURS[index % len(COLOURS)]


def draw_curves(trainings: Sequence[Compared]) -> Figure:
    """Moving average of the pseudo Dice and validation loss of all trainings."""
    fig, axes = new_figure(9.0, 3.4, 1, 2)
    dice, loss = axes[0]
    longest = max((t.record.history.epochs for t in trainings), key=len)
    for i, training in enumerate(trainings):
        epochs = training.record.history.epochs
        if epochs:
            style = {"color": colour_of(i), "linestyle": line_style(i)}
            draw_curve(dice, epochs, [f.ema_fg_dice for f in epochs], **style)
            draw_curve(loss, epochs, [f.val_loss for f in epochs], **style)
    finish_curves(dice, "Pseudo Dice, moving average", longest, legend=False)
    finish_curves(loss, "Validation loss", longest, legend=False)
    return fig


def line_style(index: int) -> str:
    """Colours are used again with another kind of line."""
    return ("-", "--", ":")[index // len(COLOURS) % 3]


def draw_cases(pairing: Pairing) -> Figure:
    """Mean Dice of every common case: boxes and dots of each training, and lines that join a case."""
    means = pairing.case_means()
    columns = [row[np.isfinite(row)] for row in means]
    fig, axes = new_figure(9.0, 0.8 + 0.55 * len(pairing.names))
    ax = axes[0, 0]
    draw_boxes(ax, columns, [colour_of(i) for i in range(len(columns))])
    ax.set_yticks(range(len(pairing.names)), [shortened(name) for name in pairing.names])
    ax.set_xlabel("mean Dice of a case")
    return fig


def draw_pairs(pairing: Pairing) -> Figure:
    """Each training against the first one, a dot for each common case."""
    means = pairing.case_means()
    number = len(pairing.names) - 1
    columns = min(number, 3)
    rows = -(-number // columns)
    fig, axes = new_figure(3.0 * columns + 0.2, 3.1 * rows, rows, columns)
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    margin = 0.05 * max(high - low, 0.02)
    limits = (low - margin, high + margin)
    for i, ax in enumerate(axes.flat):
        if i >= number:
            ax.set_axis_off()
            continue
        ax.plot(limits, limits, color=GREY, linewidth=1.0, linestyle="--")
        style = {"markersize": 4.6, "alpha": 0.75, "markeredgewidth": 0}
        ax.plot(means[0], means[i + 1], "o", color=colour_of(i + 1), **style)
        ax.set(xlim=limits, ylim=limits, aspect="equal")
        ax.set_xlabel(shortened(pairing.names[0]), fontsize=9)
        ax.set_ylabel(shortened(pairing.names[i + 1]), fontsize=9)
    return fig


def draw_differences(pairing: Pairing) -> Figure:
    """Differences from the first training: a dot for each case, the mean with its interval."""
    others = range(1, len(pairing.names))
    fig, axes = new_figure(9.0, 0.85 + 0.5 * len(others))
    ax: Axes = axes[0, 0]
    rng = np.random.default_rng(0)
    ax.axvline(0, color=GREY, linewidth=1.2)
    for row, index in enumerate(others):
        values, colour = pairing.differences(index), colour_of(index)
        spread = rng.uniform(-0.22, 0.22, len(values))
        ax.plot(values, row + spread, "o", color=colour, markersize=3.6, alpha=0.6, markeredgewidth=0)
        if len(values):
            ax.plot(mean_interval(values), [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
            ax.plot([values.mean()], [row], "D", color=colour, markersize=7)
    ax.set_yticks(range(len(others)), [shortened(pairing.names[i]) for i in others])
    ax.set_ylim(len(others) - 0.5, -0.5)
    ax.set_xlabel(f"Dice minus that of {shortened(pairing.names[0])}")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return fig


def shortened(name: str) -> str:
    """A name that fits beside an axis: its middle is left out."""
    half = (_SHORT_NAME - 1) // 2
    return name if len(name) <= _SHORT_NAME else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"
