"""``progress.png``: losses and pseudo Dice, duration of the epochs, learning rate.

The panels are nnU-Net's. Figures are drawn in a thread of their own, so that training does not wait for them, and no
more often than costs a small share of the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_pt.core.files import atomic_path
from nnunet_pt.training.history import EpochFigures, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_NAME = "progress.png"
FIGURE_SIZE_INCHES = (10.0, 18.0)  # nnU-Net's proportions at a third of its size, drawn in a third of the time
RESOLUTION_DPI = 100
COLOURS = {"train": "#4c72b0", "val": "#c44e52", "dice": "#55a868"}
BACKGROUND = "#eaeaf2"
MAX_SHARE_OF_TIME = 0.02
NUM_SINGLE_MARKS = 30
NUM_THICK_LINE = 300
MIN_DICE_SPAN = 0.05


def draw_progress(history: Sequence[EpochFigures], path: Path) -> None:
    """Draw the figures of all epochs.

    Args:
        history: Figures of at least one epoch; nan leaves a gap.
        path: Where the picture goes; it appears there complete.

    Raises:
        StorageError: If it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=FIGURE_SIZE_INCHES, dpi=RESOLUTION_DPI)  # not pyplot, which belongs to the main thread
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.1, right=0.9, top=0.965, bottom=0.035, hspace=0.2)
    losses, durations, rates = figure.subplots(3, 1)
    epochs = [f.epoch for f in history]
    dice = losses.twinx()
    _line(losses, epochs, [f.train_loss for f in history], "loss_tr", color=COLOURS["train"])
    _line(losses, epochs, [f.val_loss for f in history], "loss_val", color=COLOURS["val"])
    raw = [f.mean_fg_dice for f in history]
    _line(dice, epochs, raw, "pseudo dice", color=COLOURS["dice"], linestyle=":", linewidth=1.2)
    _line(dice, epochs, [f.ema_fg_dice for f in history], "pseudo dice (mov. avg.)", color=COLOURS["dice"])
    _line(durations, epochs, [f.seconds for f in history], "epoch duration", color=COLOURS["train"])
    _line(rates, epochs, [f.lr for f in history], "learning rate", color=COLOURS["train"])
    durations.set_ylim(bottom=0)
    for axes, label in ((losses, "loss"), (durations, "time [s]"), (rates, "learning rate")):
        _dress(axes, label, max(epochs, default=0))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2)
    dice.set_ylabel("pseudo dice")
    dice.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.2)
    _widen(dice, MIN_DICE_SPAN)
    _hide_frame(dice)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _line(axes: Axes, epochs: Sequence[int], values: Sequence[float], label: str, **style: Any) -> None:
    marker = "o" if len(epochs) <= NUM_SINGLE_MARKS else ""  # a line through a single epoch is invisible
    width = 1.8 if len(epochs) <= NUM_THICK_LINE else 1.2
    axes.plot(epochs, values, label=label, marker=marker, markersize=3.5, **{"linewidth": width, **style})


def _dress(axes: Axes, label: str, last_epoch: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    if last_epoch == 0:
        axes.set_xlim(-0.5, 0.5)
    axes.set_facecolor(BACKGROUND)
    axes.grid(color="white", linewidth=1)
    axes.set_axisbelow(True)
    axes.ticklabel_format(axis="y", useOffset=False)
    _hide_frame(axes)


def _widen(axes: Axes, min_span: float) -> None:
    low, high = axes.get_ylim()
    missing = max(min_span - (high - low), 0)
    axes.set_ylim(low - missing / 2, high + missing / 2)


def _hide_frame(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


class ProgressPlot:
    """Keeps ``progress.png`` up to date in the background.

    After a drawing that took t seconds the next one begins no earlier than 50 t later; :meth:`close` draws what is
    still missing.

    Args:
        folder: Folder of the fold.
        on_error: Called from the thread with an error that occurred while drawing.
    """

    def __init__(self, folder: Path, on_error: Callable[[Exception], None]) -> None:
        self.path = folder / PLOT_NAME
        self._on_error = on_error
        self._thread: threading.Thread | None = None
        self._missing: tuple[EpochFigures, ...] = ()
        self._next_start = 0.0

    def update(self, history: History) -> None:
        """Draw soon, or leave it to a later call if the last drawing is too recent."""
        self._missing = tuple(history)
        busy = self._thread is not None and self._thread.is_alive()
        if self._missing and not busy and time.monotonic() >= self._next_start:
            self._thread = threading.Thread(target=self._draw, args=(self._missing,), daemon=True)
            self._missing = ()
            self._thread.start()

    def close(self) -> None:
        """Finish the drawing under way and draw the latest figures if that has not been done."""
        if self._thread is not None:
            self._thread.join()
        if self._missing:
            self._draw(self._missing)
            self._missing = ()

    def _draw(self, history: tuple[EpochFigures, ...]) -> None:
        started = time.monotonic()
        try:
            draw_progress(history, self.path)
        except Exception as error:  # whatever it is, it must not end the training
            self._on_error(error)
        ended = time.monotonic()
        self._next_start = ended + (ended - started) / MAX_SHARE_OF_TIME
