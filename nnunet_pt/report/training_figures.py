"""The figures of a training: curves over the epochs, Dice of the validation, account of a transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nnunet_pt.report.page import COLOURS, new_figure
from nnunet_pt.report.training_record import TrainingRecord
from nnunet_pt.report.training_transfer import Transfer
from nnunet_pt.report.training_validation import Validation
from nnunet_pt.training.history import EpochFigures
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.transfer.account import ACTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = COLOURS[:3]
GREY: Final = "#8a93a0"
ACTION_COLOURS: Final = {"copied": GREEN, "adapted": ORANGE, "skipped": COLOURS[3], "initial": GREY}
MAX_MARKED_EPOCHS: Final = 40
MAX_NAMED_CLASSES: Final = 12
MAX_BOXES: Final = 40
MAX_POINTS: Final = 200  # of the curve of a class
_STRIP_WIDTH: Final = 0.28


def draw_losses(record: TrainingRecord) -> Figure:
    """Training and validation loss, and the pseudo Dice with its moving average."""
    fig, axes = new_figure(9.0, 3.3, 1, 2)
    loss, dice = axes[0]
    epochs = record.history.epochs
    draw_curve(loss, epochs, [f.train_loss for f in epochs], label="training", color=BLUE)
    draw_curve(loss, epochs, [f.val_loss for f in epochs], label="validation", color=ORANGE)
    finish_curves(loss, "Loss", epochs)
    draw_curve(
        dice, epochs, [f.mean_fg_dice for f in epochs], label="each epoch", color=GREEN, alpha=0.45, linewidth=1.0
    )
    draw_curve(dice, epochs, [f.ema_fg_dice for f in epochs], label="moving average", color=GREEN, linewidth=2.2)
    _mark_best(dice, epochs)
    dice.margins(y=0.14)
    finish_curves(dice, "Pseudo Dice", epochs)
    for ax in (loss, dice):
        for epoch in phase_starts(record.recipe, len(epochs)):
            ax.axvline(epoch - 0.5, color=GREY, linestyle=":", linewidth=1.2)
    return fig


def draw_classes(record: TrainingRecord) -> Figure:
    """Pseudo Dice of each class; of many classes only the lowest are named, of many epochs means are drawn."""
    fig, axes = new_figure(9.0, 3.3)
    ax, epochs = axes[0, 0], record.history.epochs
    values = class_dice(epochs, len(record.class_names))
    order = np.argsort(np.nan_to_num(_last_known(values), nan=2.0), kind="stable")
    named = list(range(len(order))) if len(order) <= MAX_NAMED_CLASSES else sorted(order[: len(COLOURS)].tolist())
    block = epochs_per_point(record)
    places, means = _block_means(np.arange(len(epochs)), block), _block_means(values, block)
    marker = "o" if len(epochs) <= MAX_MARKED_EPOCHS else ""
    for i in set(range(len(order))).difference(named):
        ax.plot(places, means[:, i], color=GREY, alpha=0.4, linewidth=0.8)
    for rank, i in enumerate(named):
        style = {"color": COLOURS[rank % len(COLOURS)], "linestyle": "-" if rank < len(COLOURS) else "--"}
        ax.plot(places, means[:, i], label=record.class_names[i], marker=marker, markersize=3.2, **style)
    finish_curves(ax, "Pseudo Dice of each class", epochs, beside=True)
    return fig


def epochs_per_point(record: TrainingRecord) -> int:
    """How many epochs :func:`draw_classes` averages for a point."""
    return -(-len(record.history.epochs) // MAX_POINTS)


def _block_means(values: NDArray[Any], block: int) -> NDArray[np.float64]:
    """Means without nan of so many rows at a time; nan where there is nothing else."""
    rows = [values[start : start + block] for start in range(0, len(values), block)]
    sums, numbers = np.array([np.nansum(r, axis=0) for r in rows]), np.array([np.isfinite(r).sum(axis=0) for r in rows])
    means: NDArray[np.float64] = np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)
    return means


def draw_pace(record: TrainingRecord) -> Figure:
    """Learning rate, and the duration of epochs with the part in which training waited for data."""
    fig, axes = new_figure(9.0, 2.8, 1, 2)
    rate, pace = axes[0]
    epochs = record.history.epochs
    rates = [f.lr for f in epochs]
    draw_curve(rate, epochs, rates, color=BLUE)
    finish_curves(rate, "Learning rate", epochs, legend=False)
    seconds = np.array([f.seconds for f in epochs])
    waited = seconds * np.array([f.data_wait_share for f in epochs])
    numbers = np.array([f.epoch for f in epochs])
    _draw_amounts(pace, numbers, seconds, color=BLUE, label="computing")
    if np.isfinite(waited).any():
        _draw_amounts(pace, numbers, waited, color=ORANGE, label="waiting for data")
    finish_curves(pace, "Epoch, seconds", epochs, legend=bool(np.isfinite(waited).any()))
    pace.set_ylim(bottom=0, top=_usual_top(seconds))
    return fig


def draw_validation(validation: Validation) -> Figure:
    """Dice of the validation cases for each class: a box of quartiles, and every case."""
    dice, names = validation.dice_of_cases(), validation.class_names
    order = np.argsort([np.nanmedian(d) if np.isfinite(d).any() else 2.0 for d in dice.T], kind="stable")
    shown = order[:MAX_BOXES] if len(names) > MAX_BOXES else np.arange(len(names))
    labels = [names[i] for i in shown]
    columns = [dice[:, i][np.isfinite(dice[:, i])] for i in shown]
    if len(names) > 1:
        means = np.array([c.mean_dice for c in validation.cases])
        labels, columns = [*labels, "mean of classes"], [*columns, means[np.isfinite(means)]]
    height = 0.42 if len(labels) <= MAX_NAMED_CLASSES else 0.26
    fig, axes = new_figure(9.0, 0.75 + height * len(labels))
    ax = axes[0, 0]
    draw_boxes(ax, columns, [GREEN if name == "mean of classes" else BLUE for name in labels])
    ax.set_yticks(range(len(labels)), labels)
    ax.set_xlabel("Dice")
    return fig


def draw_boxes(ax: Axes, columns: Sequence[NDArray[np.float64]], colours: Sequence[str]) -> None:
    """Horizontal boxes from top to bottom with every value as a dot.

    Args:
        ax: Where.
        columns: The values of each box, without nan.
        colours: The colour of each box.
    """
    rng = np.random.default_rng(0)  # dots are spread, alike in every report
    for row, (values, colour) in enumerate(zip(columns, colours, strict=True)):
        if not len(values):
            continue
        low, middle, high = np.percentile(values, (25, 50, 75))
        reach = 1.5 * (high - low)
        ends = values[(values >= low - reach) & (values <= high + reach)]
        ax.plot([ends.min(), ends.max()], [row, row], color=colour, linewidth=1.3)
        ax.barh(row, high - low, left=low, height=0.62, color=colour, alpha=0.25)
        ax.plot([middle, middle], [row - 0.31, row + 0.31], color=colour, linewidth=2.4, solid_capstyle="butt")
        spread = rng.uniform(-_STRIP_WIDTH, _STRIP_WIDTH, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(values, row + spread, "o", color=colour, markersize=3.4, alpha=0.75, markeredgewidth=0)
    ax.set_ylim(len(columns) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)


def draw_transfer(transfer: Transfer) -> Figure:
    """Parameters of each stage by where they come from, as shares."""
    stages = transfer.stages
    fig, axes = new_figure(9.0, 0.8 + 0.3 * len(stages))
    ax = axes[0, 0]
    for row, stage in enumerate(stages):
        came = stage.share
        adapted = stage.tensors["adapted"] > 0 and came > 0
        ax.barh(row, came, color=ACTION_COLOURS["adapted" if adapted else "copied"], height=0.68)
        rest = "skipped" if stage.tensors["skipped"] else "initial"
        ax.barh(row, 1 - came, left=came, color=ACTION_COLOURS[rest], height=0.68, alpha=0.85)
    ax.set_yticks(range(len(stages)), [s.stage for s in stages])
    ax.set_ylim(len(stages) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel("share of the parameters")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    return fig


def transfer_legend() -> list[tuple[str, str]]:
    """What the colours of :func:`draw_transfer` mean."""
    meaning = {
        "copied": "from the file",
        "adapted": "from the file, at least in part changed",
        "skipped": "in the file but not used: initial values",
        "initial": "not in the file: initial values",
    }
    return [(meaning[action], ACTION_COLOURS[action]) for action in ACTIONS]


def class_dice(epochs: Sequence[EpochFigures], number: int) -> NDArray[np.float64]:
    """Pseudo Dice (epochs, classes); nan where an epoch does not have a class."""
    values = np.full((len(epochs), number), np.nan)
    for row, figures in zip(values, epochs, strict=True):
        row[: len(figures.dice_per_class)] = figures.dice_per_class[:number]
    return values


def _last_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last value of each column that is not nan."""
    known = [column[np.isfinite(column)] for column in values.T]
    return np.array([column[-1] if len(column) else np.nan for column in known])


def draw_curve(ax: Axes, epochs: Sequence[EpochFigures], values: Sequence[float] | NDArray[Any], **style: Any) -> None:
    """A figure of each epoch as a line, with dots if there are few epochs."""
    marker = "o" if len(epochs) <= MAX_MARKED_EPOCHS else ""
    ax.plot([f.epoch for f in epochs], values, marker=marker, markersize=3.2, **style)


def finish_curves(
    ax: Axes, title: str, epochs: Sequence[EpochFigures], *, legend: bool = True, beside: bool = False
) -> None:
    """Title, epochs as whole numbers, and the legend.

    Args:
        ax: Where curves were drawn.
        title: What they show.
        epochs: The epochs of the longest curve.
        legend: Whether there is a legend, beside the title.
        beside: Put it to the right of the axes instead, for many entries.
    """
    from matplotlib.ticker import MaxNLocator

    ax.set_title(title, loc="left", fontweight="bold", fontsize=11)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        ax.set_xlim(-0.6, 0.6)
    if beside:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    elif legend:
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.99), "borderaxespad": 0.0}
        ax.legend(ncols=3, fontsize=9, frameon=False, columnspacing=1.2, handlelength=1.4, **place)


def _mark_best(ax: Axes, epochs: Sequence[EpochFigures]) -> None:
    known = [f for f in epochs if math.isfinite(f.ema_fg_dice)]
    if known:
        best = max(known, key=lambda f: f.ema_fg_dice)
        ax.plot([best.epoch], [best.ema_fg_dice], "D", color=GREEN, markersize=6)
        ax.annotate(
            f"{best.ema_fg_dice:.3f}", (best.epoch, best.ema_fg_dice), xytext=(-4, 7), textcoords="offset points",
            ha="right", fontsize=9, color=GREEN, fontweight="bold",
        )  # fmt: skip


def phase_starts(recipe: TrainingRecipe | None, num_epochs: int) -> tuple[int, ...]:
    """Epochs with which layers begin to be trained, or in which the learning rate has risen.

    Args:
        recipe: The recipe; None if it is not known.
        num_epochs: Finished epochs; later ones do not count.
    """
    if recipe is None:
        return ()
    head = recipe.head_epochs
    starts = {recipe.freeze_epochs if recipe.freeze else None, head, head + recipe.warmup_epochs}
    return tuple(sorted(epoch for epoch in starts if epoch and epoch < num_epochs))


def _draw_amounts(ax: Axes, epochs: NDArray[Any], values: NDArray[np.float64], **style: Any) -> None:
    """Bars, or for many epochs the area below a line."""
    known = np.nan_to_num(values)
    if len(epochs) <= MAX_MARKED_EPOCHS:
        ax.bar(epochs, known, linewidth=0, **style)
    else:
        ax.fill_between(epochs, known, step="mid", linewidth=0, **style)


def _usual_top(seconds: NDArray[np.float64]) -> float | None:
    """An upper limit that a few slow epochs, such as the first one, do not decide; None for the largest value."""
    known = seconds[np.isfinite(seconds)]
    if len(known) < 10:
        return None
    usual = float(np.percentile(known, 95))
    return 1.5 * usual if known.max() > 2 * usual else None
