"""The text log of a training, with the lines that nnU-Net writes, and ``progress.jsonl`` for programs."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_pt.core.files import storage_errors, write_bytes
from nnunet_pt.training.history import EpochFigures, History

FIGURES_NAME = "progress.jsonl"


class TextLog:
    """``training_log_Y_M_D_hh_mm_ss.txt``: a new file for each start, complete after every line.

    Args:
        folder: Folder of the fold.
        started: When training was started; now by default.
    """

    def __init__(self, folder: Path, started: datetime.datetime | None = None) -> None:
        at = started or datetime.datetime.now()
        name = f"training_log_{at.year}_{at.month}_{at.day}_{at:%H_%M_%S}.txt"
        self.path = folder / name

    def write(self, *lines: str, timestamp: bool = True) -> None:
        """Append lines.

        Args:
            lines: Texts.
            timestamp: Begin each line with the time, as nnU-Net does for all but its headings.

        Raises:
            StorageError: If the file cannot be written.
        """
        now = f"{datetime.datetime.now()}: " if timestamp else ""
        _append(self.path, "".join(f"{now}{line} \n" for line in lines))


def start_lines(epoch: int, lr: float) -> tuple[str, ...]:
    """nnU-Net's lines at the start of an epoch."""
    return "", f"Epoch {epoch}", f"Current learning rate: {np.round(lr, decimals=5)}"


def end_lines(figures: EpochFigures, *, new_best: bool) -> tuple[str, ...]:
    """nnU-Net's lines at the end of an epoch; numbers look as the installed numpy prints them, as nnU-Net's do."""
    lines = (
        f"train_loss {np.round(np.float32(figures.train_loss), decimals=4)!s}",
        f"val_loss {np.round(np.float32(figures.val_loss), decimals=4)!s}",
        f"Pseudo dice {[np.round(np.float32(d), decimals=4) for d in figures.dice_per_class]}",
        f"Epoch time: {np.round(figures.seconds, decimals=2)} s",
    )
    best = f"Yayy! New best EMA pseudo Dice: {float(np.round(np.float32(figures.ema_fg_dice), decimals=4))}"
    return (*lines, best) if new_best else lines


class FiguresFile:
    """``progress.jsonl``: one line for each epoch with every figure, in order and without gaps.

    Args:
        folder: Folder of the fold.
        class_names: Names of the foreground classes or regions.
    """

    def __init__(self, folder: Path, class_names: Sequence[str] = ()) -> None:
        self.path = folder / FIGURES_NAME
        self._class_names = tuple(class_names)
        self._epochs = -1  # lines in the file; -1: not known

    def start(self, history: History) -> None:
        """Make the file fit the history: later epochs and damaged lines are removed, missing ones added.

        Raises:
            StorageError: If the file cannot be read or written.
        """
        old = self._whole_lines()
        self._epochs = -1
        write_bytes(self.path, "".join(old.get(f.epoch) or self._line(f) for f in history).encode())
        self._epochs = len(history)

    def append(self, figures: EpochFigures, history: History) -> None:
        """Add the line of an epoch.

        Args:
            figures: The epoch's figures.
            history: All epochs. If the epoch is not the next one, or if writing failed before, the file is first made
                to fit those before it.

        Raises:
            StorageError: If the file cannot be written.
        """
        if figures.epoch != self._epochs:
            self.start(History(f for f in history if f.epoch < figures.epoch))
        self._epochs = -1
        _append(self.path, self._line(figures))
        self._epochs = figures.epoch + 1

    def _line(self, figures: EpochFigures) -> str:
        return json.dumps(figures.to_json(self._class_names), ensure_ascii=False, allow_nan=False) + "\n"

    def _whole_lines(self) -> dict[int, str]:
        if not self.path.is_file():
            return {}
        with storage_errors(self.path):
            text = self.path.read_text(encoding="utf-8", errors="replace")
        lines: dict[int, str] = {}
        for line in text.splitlines(keepends=True):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # what is left of a line
                if line.endswith("\n"):
                    lines[json.loads(line)["epoch"]] = line
        return lines


def _append(path: Path, text: str) -> None:
    """Open, append, close: what was written survives a killed process, and the file may be moved meanwhile."""
    with storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(text)
