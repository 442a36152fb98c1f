"""What a user sees of a training: console, text log, ``progress.png``, ``progress.jsonl`` and trackers.

Nothing here may end a training: what cannot be written is a warning, and is tried again with the next epoch.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from nnunet_pt.core.console import Progress, duration, event, get_logger
from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.files import make_folder, remove_leftovers
from nnunet_pt.core.settings import Settings
from nnunet_pt.core.wording import counted
from nnunet_pt.training.history import EpochFigures, History, names_of_classes
from nnunet_pt.training.plots import ProgressPlot
from nnunet_pt.training.text_log import FiguresFile, TextLog, end_lines, start_lines
from nnunet_pt.training.trackers import TensorboardTracker, TrackerGroup, WandbTracker, check_trackers

Phase = Literal["train", "val"]

PHASES: Mapping[Phase, str] = {"train": "training", "val": "validation"}
NOTE_INTERVAL_S = 0.2
SHOWN_CLASSES = 8
EPOCHS_FOR_ETA = 10
_logger = get_logger(__name__)


class Monitor:
    """Shows and records a training. Processes other than the main one may call everything; nothing happens.

    Use it as a context manager, or call :meth:`close` at the end, also after an error.

    Args:
        output_folder: Folder of the fold; it is made if it is missing.
        history: Figures of the epochs that are finished.
        num_epochs: Epochs of the whole training.
        iterations_per_epoch: Training iterations of an epoch.
        validation_iterations_per_epoch: Validation iterations of an epoch.
        is_main: Whether this process is the one that reports.
        settings: Parsed environment: Weights & Biases.
        continued: Whether an earlier training is continued in this folder; otherwise its records are replaced.
        tracker_config: What Weights & Biases shall show as configuration.
        class_names: Names of the foreground classes or regions.
        tensorboard: Write files for TensorBoard.
        progress: Show progress within epochs.

    Raises:
        TrainingError: If a tracker's package is not installed.
        SettingsError: If ``nnUNet_wandb_mode`` is not one of W&B's.
        StorageError: If the folder cannot be written.
    """

    def __init__(
        self,
        output_folder: Path,
        *,
        history: History,
        num_epochs: int,
        iterations_per_epoch: int,
        validation_iterations_per_epoch: int,
        settings: Settings,
        is_main: bool = True,
        continued: bool = False,
        tracker_config: Mapping[str, Any] | None = None,
        class_names: Sequence[str] = (),
        tensorboard: bool = False,
        progress: bool = True,
    ) -> None:
        check_trackers(settings, tensorboard=tensorboard)
        self.history = history
        self._num_epochs = num_epochs
        self._iterations: dict[Phase, int] = {"train": iterations_per_epoch, "val": validation_iterations_per_epoch}
        self._is_main = is_main
        self._class_names = tuple(class_names)
        self._warned: set[str] = set()
        self._recent_seconds: list[float] = []
        self._bar = EpochBar(num_epochs, show=is_main and progress)
        self._text = TextLog(output_folder)
        self._figures = FiguresFile(output_folder, class_names)
        self._plot = ProgressPlot(output_folder, lambda error: self._warn_once("progress.png", error))
        self._trackers = TrackerGroup(self.warn)
        if not is_main:
            return
        remove_leftovers(make_folder(output_folder))
        self._figures.start(history)
        start: dict[str, Any] = {"history": history, "continued": continued}
        if settings.wandb_enabled:
            config = tracker_config or {}
            make_wandb = _later(WandbTracker, output_folder, settings=settings, config=config, warn=self.warn, **start)
            self._trackers.start(WandbTracker.name, make_wandb)
        if tensorboard:
            make_tensorboard = _later(TensorboardTracker, output_folder, class_names=class_names, **start)
            self._trackers.start(TensorboardTracker.name, make_tensorboard)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    @property
    def log_path(self) -> Path:
        """The text log of this process."""
        return self._text.path

    def log(self, text: str, *, timestamp: bool = True, console: bool = True) -> None:
        """A line, or several, for the text log and the console.

        Args:
            text: What to say.
            timestamp: Begin the lines in the text log with the time; nnU-Net leaves it out for headings.
            console: Show it on the console, too.
        """
        if self._is_main:
            if console:
                _logger.info("%s", text)
            self._write_text(text.split("\n") if timestamp else [text], timestamp=timestamp)

    def warn(self, text: str) -> None:
        """A warning for the text log and the console."""
        if self._is_main:
            _logger.warning("%s", text)
            self._write_text(f"WARNING: {text}".split("\n"))

    def epoch_started(self, epoch: int, lr: float, *, done: Mapping[Phase, int] | None = None) -> None:
        """An epoch begins or, after an interruption, goes on.

        Args:
            epoch: Its number, from 0.
            lr: Its learning rate.
            done: Iterations of each phase that were done before an interruption.
        """
        left = {phase: number - (done or {}).get(phase, 0) for phase, number in self._iterations.items()}
        self._bar.epoch_started(epoch, left)
        if self._is_main:
            self._write_text(start_lines(epoch, lr))

    def step(self, loss: float | None = None, *, phase: Phase = "train") -> None:
        """An iteration is done.

        Args:
            loss: Its loss, if it is known; asking a GPU for it costs time, so not every iteration needs it.
            phase: What kind of iteration.
        """
        self._bar.step(phase, loss)

    def epoch_ended(self, figures: EpochFigures, *, new_best: bool) -> None:
        """An epoch is finished; it becomes part of the history unless that has been done.

        Args:
            figures: Its figures.
            new_best: Whether the moving average of the Dice is the best so far.
        """
        self._bar.close()
        self.history.append(figures)
        if not self._is_main:
            return
        self._recent_seconds = [*self._recent_seconds, figures.seconds][-EPOCHS_FOR_ETA:]
        self._write_text(end_lines(figures, new_best=new_best))
        left = (self._num_epochs - figures.epoch - 1) * statistics.median(self._recent_seconds)
        summary = epoch_summary(figures, self._num_epochs, self._class_names, new_best=new_best, left_s=left)
        data = figures.to_json(self._class_names)
        data |= {"num_epochs": self._num_epochs, "new_best": new_best, "seconds_left": round(left, 1)}
        _logger.info("%s", summary, extra=event("epoch", data))
        with self._forgiving("progress.jsonl"):
            self._figures.append(figures, self.history)
        self._trackers.epoch(figures)
        self._plot.update(self.history)

    def final_validation(self, foreground_dice: float, dice_per_class: Mapping[Any, float]) -> None:
        """The validation with whole cases is finished.

        Args:
            foreground_dice: Mean Dice of the foreground over cases.
            dice_per_class: Mean Dice for each label (or region), by the keys of ``mean`` in summary.json.
        """
        if not self._is_main:
            return
        self.log("Validation complete")
        self._write_text([f"Mean Validation Dice:  {foreground_dice}"])
        names = names_of_classes(len(dice_per_class), self._class_names)
        each = "   ".join(f"{n} {d:.4f}" for n, d in zip(names, dice_per_class.values(), strict=True))
        data = {"mean_dice": foreground_dice, "dice_per_class": dict(zip(names, dice_per_class.values(), strict=True))}
        text = f"Mean validation Dice {foreground_dice:.4f}   {each}"
        _logger.info("%s", text, extra=event("validation", data))
        self._trackers.final_validation(foreground_dice, {str(k): v for k, v in dice_per_class.items()})

    def close(self, *, failed: bool = False) -> None:
        """Draw what is not drawn, send what is not sent. A second time does nothing.

        Args:
            failed: Whether an error ended the training; trackers show it.
        """
        self._bar.close()
        self._plot.close()
        self._trackers.close(failed=failed)

    def _write_text(self, lines: Sequence[str], *, timestamp: bool = True) -> None:
        with self._forgiving("The text log"):
            self._text.write(*lines, timestamp=timestamp)

    @contextlib.contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            self._warn_once(what, error)

    def _warn_once(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            _logger.warning("%s is not up to date, training goes on without it.\n%s", what, error)


class EpochBar:
    """Progress within an epoch: first through its training, then through its validation iterations.

    Args:
        num_epochs: Epochs of the whole training.
        show: Whether to show anything.
    """

    def __init__(self, num_epochs: int, *, show: bool) -> None:
        self._num_epochs = num_epochs
        self._show = show
        self._epoch = 0
        self._left: Mapping[Phase, int] = {}
        self._phase: Phase | None = None
        self._bar: Progress | None = None
        self._done, self._count, self._sum, self._noted = 0, 0, 0.0, -math.inf

    def epoch_started(self, epoch: int, left: Mapping[Phase, int]) -> None:
        """Get ready for an epoch with so many iterations left in each phase, and show its first bar."""
        self.close()
        self._epoch, self._left = epoch, left
        self._open("train" if left.get("train") else "val")

    def step(self, phase: Phase, loss: float | None) -> None:
        """Count an iteration; show the mean loss of the phase so far, now and then."""
        if phase != self._phase:
            self._open(phase)
        if self._bar is None:
            return
        if loss is not None and math.isfinite(loss):
            self._sum, self._count = self._sum + loss, self._count + 1
        now = time.monotonic()
        if self._count and now - self._noted >= NOTE_INTERVAL_S:  # each note is drawn
            self._noted = now
            self._bar.note(f"loss {self._sum / self._count:.4f}")
        self._bar.advance()
        self._done += 1
        if phase == "train" and self._done == self._left.get(phase):
            self._open("val")  # now, so that the time of its first iteration counts

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._bar = self._phase = None

    def _open(self, phase: Phase) -> None:
        self.close()
        self._phase = phase
        self._done, self._count, self._sum, self._noted = 0, 0, 0.0, -math.inf
        if self._show:
            title = f"Epoch {self._epoch} ({self._epoch + 1}/{self._num_epochs}) {PHASES[phase]}"
            self._bar = Progress(self._left.get(phase, 0), title, "it", leave=False).__enter__()


def epoch_summary(
    figures: EpochFigures, num_epochs: int, class_names: Sequence[str] = (), *, new_best: bool, left_s: float
) -> str:
    """The figures of an epoch in three lines for the console.

    Args:
        figures: The figures.
        num_epochs: Epochs of the whole training.
        class_names: Names of the foreground classes or regions.
        new_best: Whether the moving average of the Dice is the best so far.
        left_s: Estimated time to the end of the training.
    """
    first = [
        f"Epoch {figures.epoch} ({figures.epoch + 1}/{num_epochs})",
        f"loss {figures.train_loss:.4f}",
        f"validation {figures.val_loss:.4f}",
        f"learning rate {figures.lr:.3g}",
    ]
    second = [f"Dice {figures.mean_fg_dice:.4f}", f"average {figures.ema_fg_dice:.4f}" + ", new best" * new_best]
    third = [f"{figures.seconds:.1f} s"]
    if not math.isnan(figures.data_wait_share):
        third.append(f"waited for data {figures.data_wait_share:.1%}")
    if not math.isnan(figures.peak_memory_gb):
        third.append(f"memory {figures.peak_memory_gb:.1f} GiB")
    if figures.skipped_steps:
        third.append(f"{counted(figures.skipped_steps, 'step')} skipped")
    if figures.epoch + 1 < num_epochs:
        third.append(f"about {_long_duration(left_s)} left")
    lines = (first, [*second, *_class_texts(figures.dice_per_class, class_names)], third)
    return "\n  ".join("   ".join(parts) for parts in lines)


def _class_texts(dice: Sequence[float], class_names: Sequence[str]) -> list[str]:
    named = list(zip(names_of_classes(len(dice), class_names), dice, strict=True))
    if len(named) <= SHOWN_CLASSES:
        return [f"{name} {value:.4f}" for name, value in named]
    known = sorted((pair for pair in named if not math.isnan(pair[1])), key=lambda pair: pair[1])
    shown = [f"{name} {value:.4f}" for name, value in known[:SHOWN_CLASSES]]
    return [f"worst of {len(dice)}: {shown[0]}", *shown[1:]] if shown else []


def _long_duration(seconds: float) -> str:
    days, rest = divmod(seconds, 86400)
    return f"{days:.0f} d {rest // 3600:.0f} h" if days else duration(seconds)


def _later(make: Callable[..., Any], *arguments: Any, **keywords: Any) -> Callable[[], Any]:
    return lambda: make(*arguments, **keywords)
