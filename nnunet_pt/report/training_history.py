"""The epochs of a training, put together from what its folder holds.

``progress.jsonl`` has every figure, but only trainings of this package write it; checkpoints have nnU-Net's lists up to
the epoch in which they were saved; the text logs have the rest, rounded.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.files import storage_errors
from nnunet_pt.training.history import NAN, EpochFigures, History
from nnunet_pt.training.state import BEST, FINAL, LATEST
from nnunet_pt.training.text_log import FIGURES_NAME
from nnunet_pt.transfer.checkpoint import Checkpoint, read_checkpoint

LOG_PATTERN: Final = "training_log_*.txt"
_STAMPED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?): ?(.*)")
_EPOCH = re.compile(r"Epoch (\d+)$")
_NUMBER = re.compile(r"(?<![\w.])-?(?:nan|inf|\d+\.?\d*(?:e[+-]?\d+)?)")
_FIGURE_NAMES = frozenset(f.name for f in fields(EpochFigures))

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingHistory:
    """What is known of the epochs.

    Attributes:
        epochs: Figures of every epoch from 0 on.
        class_names: Names of the classes or regions as ``progress.jsonl`` has them; empty without one.
        best_ema: Best moving average of the pseudo Dice; None if it is not known.
        checkpoint: The checkpoint that got farthest, without its tensors; None if there is none.
        checkpoint_name: Its file name.
        sources: Names of the files that the figures come from.
    """

    epochs: tuple[EpochFigures, ...]
    class_names: tuple[str, ...] = ()
    best_ema: float | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_name: str = ""
    sources: tuple[str, ...] = ()

    @property
    def total_seconds(self) -> float:
        """Duration of all epochs together; nan if it is not known of any."""
        known = [f.seconds for f in self.epochs if math.isfinite(f.seconds)]
        return sum(known) if known else NAN

    @property
    def data_wait_share(self) -> float:
        """Part of the time of those epochs in which training waited for data; nan if it is not known."""
        known = [f for f in self.epochs if math.isfinite(f.seconds) and math.isfinite(f.data_wait_share)]
        total = sum(f.seconds for f in known)
        return sum(f.seconds * f.data_wait_share for f in known) / total if total else NAN


def read_history(folder: Path, note: Note) -> TrainingHistory:
    """Read the epochs of a training.

    Args:
        folder: Folder of the fold.
        note: Called with what cannot be read.
    """
    recorded, names = _recorded(folder / FIGURES_NAME, note)
    name, checkpoint = _farthest_checkpoint(folder, note)
    saved = _saved(checkpoint, name, note)
    if _contradict(recorded, saved):
        note(f"{FIGURES_NAME} belongs to another training than {name}, so it is not used.")
        recorded = {}
    logged = _logged(folder, note)
    history, used = History(), []
    for source, epochs in ((FIGURES_NAME, recorded), (name, saved), ("the text log", logged)):
        before = len(history)
        while len(history) in epochs:
            figures = epochs[len(history)]
            ema = figures.ema_fg_dice
            known = ema if math.isfinite(ema) or source != "the text log" else history.next_ema(figures.mean_fg_dice)
            history.append(replace(figures, ema_fg_dice=known))
        used += [source] if len(history) > before else []
    best = [b for b in (history.best_ema, None if checkpoint is None else checkpoint.best_ema) if b is not None]
    return TrainingHistory(
        epochs=tuple(history),
        class_names=names if recorded else (),
        best_ema=max(best, default=None),
        checkpoint=checkpoint,
        checkpoint_name=name,
        sources=tuple(used),
    )


def _recorded(path: Path, note: Note) -> tuple[dict[int, EpochFigures], tuple[str, ...]]:
    """The epochs of ``progress.jsonl`` and the names of the classes; damaged lines are left out."""
    epochs: dict[int, EpochFigures] = {}
    names: tuple[str, ...] = ()
    damaged = 0
    for line in _text(path, note).splitlines():
        try:
            values: dict[str, Any] = {k: v for k, v in json.loads(line).items() if k in _FIGURE_NAMES}
            dice: Mapping[str, float | None] = values.pop("dice_per_class")
            plain: dict[str, Any] = {k: NAN if v is None else v for k, v in values.items()}
            figures = EpochFigures(**plain, dice_per_class=tuple(NAN if d is None else d for d in dice.values()))
        except (ValueError, TypeError, KeyError, AttributeError):
            damaged += 1
            continue
        epochs[figures.epoch], names = figures, tuple(dice)
    if damaged:
        note(f"{damaged} lines of {path.name} are damaged and left out.")
    return epochs, names


def _farthest_checkpoint(folder: Path, note: Note) -> tuple[str, Checkpoint | None]:
    found: list[tuple[str, Checkpoint]] = []
    for name in (FINAL, LATEST, BEST):
        if (folder / name).is_file():
            try:
                found.append((name, read_checkpoint(folder / name, lazy=True)))
            except NnunetError as error:
                note(f"{error.problem} Found: {error.found}")
    return max(found, key=lambda f: f[1].current_epoch, default=("", None))


def _saved(checkpoint: Checkpoint | None, name: str, note: Note) -> dict[int, EpochFigures]:
    if checkpoint is None:
        return {}
    try:
        return dict(enumerate(History.from_logging(checkpoint.logging, checkpoint.current_epoch)))
    except (ValueError, TypeError, AttributeError) as error:
        note(f"The figures of the epochs in {name} cannot be read: {error}")
        return {}


def _contradict(one: Mapping[int, EpochFigures], other: Mapping[int, EpochFigures]) -> bool:
    pairs = [(one[e].train_loss, other[e].train_loss) for e in one if e in other]
    return any(not math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3) for a, b in pairs if math.isfinite(a + b))


def _logged(folder: Path, note: Note) -> dict[int, EpochFigures]:
    """The epochs of all text logs; a later start replaces the epochs that it does again."""
    epochs: dict[int, EpochFigures] = {}
    for path in sorted(folder.glob(LOG_PATTERN), key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)]):
        for figures in epochs_of_log(_text(path, note).splitlines()):
            epochs = {e: f for e, f in epochs.items() if e < figures.epoch}
            epochs[figures.epoch] = figures
    return epochs


def epochs_of_log(lines: Iterable[str]) -> list[EpochFigures]:
    """The finished epochs in a text log of nnU-Net or of this package; their moving average is not in it.

    Args:
        lines: Its lines.
    """
    found: list[EpochFigures] = []
    values: dict[str, Any] = {}
    for line in lines:
        stamped = _STAMPED.match(line)
        text = (stamped[2] if stamped else line).strip()
        key, _, rest = text.rpartition(" ")
        if epoch := _EPOCH.match(text):
            values = {"epoch": int(epoch[1]), "started": _seconds(stamped)}
        elif text.startswith("Current learning rate:"):
            values["lr"] = _number(rest)
        elif key in ("train_loss", "val_loss"):
            values[key] = _number(rest)
        elif text.startswith("Pseudo dice"):
            numbers = _NUMBER.findall(text.removeprefix("Pseudo dice").replace("np.float32", ""))
            values["dice_per_class"] = tuple(float(n) for n in numbers)
        elif text.startswith("Epoch time:") and "epoch" in values:
            values |= {"seconds": _number(text.split()[2]), "ended": _seconds(stamped)}
            found.append(_figures(values))
            values = {}
    return found


def _figures(values: Mapping[str, Any]) -> EpochFigures:
    dice = values.get("dice_per_class", ())
    there = [d for d in dice if math.isfinite(d)]
    empty = dict.fromkeys(("lr", "train_loss", "val_loss"), NAN)
    mean = sum(there) / len(there) if there else NAN
    return EpochFigures(**{"dice_per_class": dice, **empty, **values}, mean_fg_dice=mean, ema_fg_dice=NAN)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return NAN


def _seconds(stamped: re.Match[str] | None) -> float:
    return NAN if stamped is None else datetime.datetime.fromisoformat(stamped[1]).timestamp()


def _text(path: Path, note: Note) -> str:
    if not path.is_file():
        return ""
    try:
        with storage_errors(path):
            return path.read_text(encoding="utf-8", errors="replace")
    except NnunetError as error:
        note(str(error))
        return ""
