"""Weights & Biases and TensorBoard: optional, and never a reason for a training to end."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nnunet_pt.core.errors import SettingsError, TrainingError
from nnunet_pt.core.settings import Settings
from nnunet_pt.training.history import LOGGING_KEYS, EpochFigures, History, names_of_classes

WANDB_FOLDER = "wandb"
TENSORBOARD_FOLDER = "tensorboard"
WANDB_MODES = ("online", "offline", "disabled", "shared")
NOT_IN_NNUNET = ("seconds", "data_wait_share", "peak_memory_gb", "skipped_steps")


class Tracker(Protocol):
    """Something that shows figures of a training elsewhere."""

    name: str

    def epoch(self, figures: EpochFigures) -> None:
        """Show the figures of an epoch."""

    def final_validation(self, foreground_dice: float, dice_per_class: Mapping[str, float]) -> None:
        """Show the Dice of the validation after training, its mean and by name of the label."""

    def close(self, *, failed: bool) -> None:
        """Send what is still waiting."""


def check_trackers(settings: Settings, *, tensorboard: bool = False) -> None:
    """Make sure that what the user asked for is installed and can be meant.

    Raises:
        TrainingError: With the command that installs it.
        SettingsError: If ``nnUNet_wandb_mode`` is not one of W&B's.
    """
    if settings.wandb_enabled and settings.wandb_mode not in WANDB_MODES:
        raise SettingsError(
            "The environment variable nnUNet_wandb_mode is not usable.",
            found=repr(settings.wandb_mode),
            expected=", ".join(WANDB_MODES),
        )
    wanted = {"wandb": settings.wandb_enabled, "tensorboard": tensorboard}
    missing = [package for package, asked in wanted.items() if asked and not _is_installed(package)]
    if missing:
        turn_off = {"wandb": "export nnUNet_wandb_enabled=0", "tensorboard": "leave TensorBoard off"}
        raise TrainingError(
            f"The training is to be tracked with a package that is not installed: {', '.join(missing)}.",
            remedy=f"pip install 'nnunet-pt[{','.join(missing)}]'   (or {', '.join(turn_off[m] for m in missing)})",
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # imported from no file
        return True


class WandbTracker:
    """Weights & Biases with nnU-Net's names.

    Args:
        folder: Folder of the fold; W&B keeps its files in ``wandb`` below it.
        history: Epochs so far; those that the run does not have yet are sent.
        settings: Project, mode and job id.
        continued: Continue the run whose files are in ``folder``; otherwise they are deleted.
        config: Configuration of the run: plans, configuration, fold, dataset, hparas.
        warn: Tells the user about a run that could not be opened and is kept on this machine instead.
    """

    name = "Weights & Biases"

    def __init__(
        self,
        folder: Path,
        *,
        history: History,
        settings: Settings,
        continued: bool,
        config: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        import wandb

        if not continued:
            shutil.rmtree(folder / WANDB_FOLDER, ignore_errors=True)
        arguments: dict[str, Any] = {
            "project": settings.wandb_project,
            "dir": str(folder),
            "id": previous_run_id(folder) if continued else None,
            "resume": "allow" if continued else "never",
        }
        try:
            run = wandb.init(**arguments, mode=settings.wandb_mode)
        except Exception as error:
            if settings.wandb_mode != "online":
                raise
            warn(
                f"Weights & Biases cannot be reached ({_first_line(error)}). The run is recorded in"
                f" {folder / WANDB_FOLDER}; send it later with: wandb sync {folder / WANDB_FOLDER}/offline-run-*"
            )
            run = wandb.init(**arguments, mode="offline")
        self._run = run
        run.config.update({"JobID": settings.job_id, **config}, allow_val_change=True)
        self._next_step = int(run.step or 0) if continued else 0
        for figures in history:
            self.epoch(figures)

    def epoch(self, figures: EpochFigures) -> None:
        """Send the figures of an epoch, unless the run has them: what was sent cannot be changed."""
        if figures.epoch < self._next_step:
            return
        values: dict[str, Any] = {}
        for key, attribute in LOGGING_KEYS.items():
            value = getattr(figures, attribute)
            if isinstance(value, tuple):
                values |= {f"{key}/class_{i}": v for i, v in enumerate(value, start=1)}
            else:
                values[key] = value
        values |= {name: getattr(figures, name) for name in NOT_IN_NNUNET}
        self._run.summary["current_epoch"] = figures.epoch
        self._run.log(values, step=figures.epoch)
        self._next_step = figures.epoch + 1

    def final_validation(self, foreground_dice: float, dice_per_class: Mapping[str, float]) -> None:
        """Write the validation into the summary of the run."""
        for label, dice in dice_per_class.items():
            self._run.summary[f"final_val/class_{label}_dice"] = dice
        self._run.summary["final_val/foreground_dice"] = foreground_dice

    def close(self, *, failed: bool) -> None:
        """Send the rest and mark the run as finished or failed."""
        self._run.finish(exit_code=1 if failed else 0)


class TensorboardTracker:
    """Files for TensorBoard in the folder ``tensorboard``.

    Args:
        folder: Folder of the fold.
        history: Epochs so far; written when the folder is new, and hides those after them when it is not.
        continued: Add to the files that are there; otherwise they are deleted.
        class_names: Names of the foreground classes or regions.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path, *, history: History, continued: bool, class_names: Sequence[str] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / TENSORBOARD_FOLDER
        if not continued:
            shutil.rmtree(path, ignore_errors=True)
        is_new = not path.exists()
        self._class_names = class_names
        self._writer: Any = SummaryWriter(str(path), purge_step=len(history) or None)
        for figures in history if is_new else ():
            self.epoch(figures)

    def epoch(self, figures: EpochFigures) -> None:
        """Write the figures of an epoch; what is not finite is left out."""
        names = names_of_classes(len(figures.dice_per_class), self._class_names)
        values = {
            "loss/train": figures.train_loss,
            "loss/validation": figures.val_loss,
            "dice/mean": figures.mean_fg_dice,
            "dice/moving_average": figures.ema_fg_dice,
            **{f"dice_per_class/{n}": d for n, d in zip(names, figures.dice_per_class, strict=True)},
            "training/learning_rate": figures.lr,
            **{f"training/{name}": getattr(figures, name) for name in NOT_IN_NNUNET},
        }
        time = None if math.isnan(figures.ended) else figures.ended
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, figures.epoch, walltime=time)
        self._writer.flush()

    def final_validation(self, foreground_dice: float, dice_per_class: Mapping[str, float]) -> None:
        """Write the validation after training."""
        for name, dice in {"foreground": foreground_dice, **dice_per_class}.items():
            if math.isfinite(dice):
                self._writer.add_scalar(f"final_validation/{name}", dice)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:  # noqa: ARG002 - a part of the protocol
        """Close the file."""
        self._writer.close()


class TrackerGroup:
    """Calls several trackers; an error in one is a single warning.

    Args:
        warn: Tells the user.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._trackers: list[Tracker] = []
        self._warned: set[str] = set()

    def start(self, name: str, make: Callable[[], Tracker]) -> None:
        """Add a tracker, or warn that it cannot be used in this training."""
        with self._forgiving(name):
            self._trackers.append(make())

    def epoch(self, figures: EpochFigures) -> None:
        """See :meth:`Tracker.epoch`."""
        for tracker in self._trackers:
            with self._forgiving(tracker.name):
                tracker.epoch(figures)

    def final_validation(self, foreground_dice: float, dice_per_class: Mapping[str, float]) -> None:
        """See :meth:`Tracker.final_validation`."""
        for tracker in self._trackers:
            with self._forgiving(tracker.name):
                tracker.final_validation(foreground_dice, dice_per_class)

    def close(self, *, failed: bool) -> None:
        """See :meth:`Tracker.close`; after it there are no trackers."""
        trackers, self._trackers = self._trackers, []
        for tracker in trackers:
            with self._forgiving(tracker.name):
                tracker.close(failed=failed)

    @contextlib.contextmanager
    def _forgiving(self, name: str) -> Any:
        try:
            yield
        except Exception as error:  # of packages and networks; none is worth a training
            if name not in self._warned:
                self._warned.add(name)
                self._warn(f"{name} failed and may miss figures from here on: {_first_line(error)}. Training goes on.")


def previous_run_id(folder: Path) -> str | None:
    """The id of the W&B run whose files are in ``folder``, from the name ``run-<id>.wandb``; None without one."""
    files = sorted((folder / WANDB_FOLDER / "latest-run").glob("run-*.wandb"))
    return files[0].stem.removeprefix("run-") if files else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0].rstrip(".: ")
