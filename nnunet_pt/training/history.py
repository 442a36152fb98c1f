"""What a training has achieved so far: the figures of each epoch, and the lists that checkpoints keep of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

NAN = float("nan")
EMA_OLD_SHARE = 0.9
SINGLE_PRECISION = frozenset({"train_loss", "val_loss", "mean_fg_dice", "ema_fg_dice"})
LOGGING_KEYS = {  # nnU-Net's name of a list -> attribute of the figures
    "mean_fg_dice": "mean_fg_dice",
    "ema_fg_dice": "ema_fg_dice",
    "dice_per_class_or_region": "dice_per_class",
    "train_losses": "train_loss",
    "val_losses": "val_loss",
    "lrs": "lr",
    "epoch_start_timestamps": "started",
    "epoch_end_timestamps": "ended",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFigures:
    """The outcome of one epoch. Losses and Dice are kept in single precision, as checkpoints hold them.

    Attributes:
        epoch: Number of the epoch, the first is 0.
        lr: Learning rate.
        train_loss: Mean loss of the training iterations.
        val_loss: Mean loss of the validation iterations.
        dice_per_class: Pseudo Dice of each foreground class or region; nan where there was nothing to find.
        mean_fg_dice: Their mean without nan.
        ema_fg_dice: Its exponential moving average, see :meth:`History.next_ema`.
        seconds: Duration of the epoch.
        data_wait_share: Part of that time during which training waited for data, 0 to 1; nan if not known.
        peak_memory_gb: Largest memory use so far, GiB; nan if not known.
        skipped_steps: Iterations without an update because the loss or the gradients were not finite.
        started: When the epoch began, Unix time in s.
        ended: When the epoch ended, Unix time in s.
    """

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    dice_per_class: tuple[float, ...]
    mean_fg_dice: float
    ema_fg_dice: float
    seconds: float
    data_wait_share: float = NAN
    peak_memory_gb: float = NAN
    skipped_steps: int = 0
    started: float = NAN
    ended: float = NAN

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "dice_per_class":
                value = tuple(_single(v) for v in value)
            elif field.name in ("epoch", "skipped_steps"):
                value = int(value)
            else:
                value = _single(value) if field.name in SINGLE_PRECISION else float(value)
            object.__setattr__(self, field.name, value)

    def to_json(self, class_names: Sequence[str] = ()) -> dict[str, Any]:
        """Every figure under its name; what is not finite becomes None, as JSON has no other word for it.

        Args:
            class_names: Names for the Dice of each class; classes beyond them are ``class_<number from 1>``.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "dice_per_class"}
        names = names_of_classes(len(self.dice_per_class), class_names)
        plain = {k: _plain(v, single=k in SINGLE_PRECISION) for k, v in values.items()}
        dice = {n: _plain(d, single=True) for n, d in zip(names, self.dice_per_class, strict=True)}
        return {**plain, "dice_per_class": dice}


class History:
    """The figures of all epochs so far; epoch ``e`` is entry ``e``.

    Args:
        epochs: Figures of the epochs from 0 on.
        extra: Other entries of the ``logging`` of a checkpoint; given back unchanged.
    """

    def __init__(self, epochs: Iterable[EpochFigures] = (), extra: Mapping[str, Any] | None = None) -> None:
        self._epochs: list[EpochFigures] = []
        self._extra = dict(extra or {})
        for figures in epochs:
            self.append(figures)

    def __len__(self) -> int:
        return len(self._epochs)

    def __iter__(self) -> Iterator[EpochFigures]:
        return iter(tuple(self._epochs))

    def __getitem__(self, epoch: int) -> EpochFigures:
        return self._epochs[epoch]

    def append(self, figures: EpochFigures) -> None:
        """Add an epoch. Epochs from that number on are forgotten, so one that is done again replaces the old one.

        Raises:
            ValueError: If an epoch before it is missing.
        """
        if figures.epoch > len(self):
            raise ValueError(f"the history has {len(self)} epochs, epoch {figures.epoch} cannot be the next")
        del self._epochs[figures.epoch :]
        self._epochs.append(figures)

    def next_ema(self, mean_fg_dice: float) -> float:
        """The moving average after one more epoch: 0.9 of the old one and 0.1 of the new value; at first the value.

        An epoch whose validation patches had no foreground at all (nan) leaves the average as it is.
        """
        last = self.last_ema
        if math.isnan(last) or math.isnan(mean_fg_dice):
            return _single(mean_fg_dice) if math.isnan(last) else last
        return float(np.float32(last) * EMA_OLD_SHARE + np.float32(mean_fg_dice) * (1 - EMA_OLD_SHARE))

    @property
    def last_ema(self) -> float:
        """The moving average after the last epoch; nan without one."""
        return self._epochs[-1].ema_fg_dice if self._epochs else NAN

    @property
    def best_ema(self) -> float | None:
        """The largest moving average of all epochs."""
        return max((f.ema_fg_dice for f in self._epochs if not math.isnan(f.ema_fg_dice)), default=None)

    def to_logging(self) -> dict[str, Any]:
        """The lists of nnU-Net's checkpoints, with its types: numpy's float32 for losses and Dice."""
        result: dict[str, Any] = {}
        for key, name in LOGGING_KEYS.items():
            values: list[Any] = [getattr(f, name) for f in self._epochs]
            if name == "dice_per_class":
                values = [[np.float32(d) for d in dice] for dice in values]
            elif name in SINGLE_PRECISION:
                values = [np.float32(v) for v in values]
            result[key] = values
        return {**result, **self._extra}

    @classmethod
    def from_logging(cls, logging: Mapping[str, Any], epochs: int | None = None) -> History:
        """Read the lists of a checkpoint.

        Args:
            logging: What :meth:`to_logging` or nnU-Net made. Lists of different lengths, as an interruption can
                leave them, are cut to the epochs that all of them have; a list that is missing or empty while others
                are not counts as nan.
            epochs: The number of finished epochs according to the checkpoint: later ones are dropped, missing ones
                filled with nan.
        """
        lists = {name: list(logging.get(key) or ()) for key, name in LOGGING_KEYS.items()}
        whole = min((len(v) for v in lists.values() if v), default=0)
        num_classes = max((len(d) for d in lists["dice_per_class"]), default=0)
        empty: dict[str, Any] = dict.fromkeys(lists, NAN) | {"dice_per_class": (NAN,) * num_classes}
        history = cls(extra={k: v for k, v in logging.items() if k not in LOGGING_KEYS})
        for epoch in range(whole if epochs is None else epochs):
            values = {n: v[epoch] if v and epoch < whole else empty[n] for n, v in lists.items()}
            figures = EpochFigures(epoch=epoch, seconds=NAN, **values)
            history.append(replace(figures, seconds=figures.ended - figures.started))
        return history


def names_of_classes(number: int, known: Sequence[str] = ()) -> tuple[str, ...]:
    """``number`` names: the known ones, then ``class_<number from 1>``."""
    return (*known[:number], *(f"class_{i + 1}" for i in range(len(known), number)))


def _single(value: float) -> float:
    return float(np.float32(value))


def _plain(value: float, *, single: bool) -> float | int | None:
    if isinstance(value, int):
        return value
    if not math.isfinite(value):
        return None
    return float(str(np.float32(value))) if single else value
