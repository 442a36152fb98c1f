"""The further keywords of :func:`~nnunet_pt.api.training.nnunet_training`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, get_type_hints

from nnunet_pt.core.value_types import check_types
from nnunet_pt.training.request import Policy, Precision

_TUPLES = frozenset({"transfer_layers", "freeze", "lr_factors"})
_OF_PREPARATION = frozenset({"num_workers", "max_ram_gb"})
_ARGUMENT_TYPES: Final[Mapping[str, Any]] = {
    "configuration": str,
    "trainer": str | None,
    "plans_identifier": str | None,
    "num_gpus": int | None,
    "device": str | None,
    "pretrained_weights": str | Path | None,
}


class TrainingOptions(TypedDict, total=False):
    """What else can be chosen; every default is that of the command.

    Attributes:
        transfer: How ``pretrained_weights`` are transferred: "strict" (default), "match" or "adapt".
        transfer_layers: Transfer only these layers.
        transfer_heads: Whether the segmentation layers are transferred where labels have the same names.
        fix_token_axes: Correct the order of axes in transformers of nnssl's EvaMAE family.
        allow_little_transfer: Train even if less than half of the encoder finds its weights.
        keep_optimizer: Take over the optimiser's state from ``pretrained_weights``, too.
        freeze: Layers that stay as they are, for example ``["encoder.stages.0-1"]``.
        freeze_epochs: Epochs after which they are trained, too; None for never.
        lr_factors: Layers with a learning rate of their own, for example ``["encoder=0.1"]``.
        epochs: Number of epochs, instead of the trainer's.
        lr: Initial learning rate.
        iterations: Training iterations of an epoch.
        warmup_epochs: Epochs in which the learning rate rises.
        patience: Stop after so many epochs without a better (averaged) Dice.
        seed: Seed of everything random.
        deterministic: Same seed, same result.
        precision: Of the network's computations.
        augment_on: Augmentation in worker processes ("cpu") or on the GPU.
        save_every_minutes: Time between two savings of the state; 0 for none by time.
        scratch: Folder on a disk of this machine to copy the cases to before training; "none" for no copies.
        tensorboard: Write files for TensorBoard.
        progress: Show progress bars.
        num_workers: Worker processes of each step of the preparation; None for the defaults.
        max_ram_gb: Memory budget of all of these together.
    """

    transfer: Policy | None
    transfer_layers: str | Sequence[str]
    transfer_heads: Literal["auto", "none"]
    fix_token_axes: bool
    allow_little_transfer: bool
    keep_optimizer: bool
    freeze: str | Sequence[str] | None
    freeze_epochs: int | None
    lr_factors: str | Sequence[str] | None
    epochs: int | None
    lr: float | None
    iterations: int | None
    warmup_epochs: int | None
    patience: int | None
    seed: int | None
    deterministic: bool | None
    precision: Precision | None
    augment_on: Literal["cpu", "gpu"]
    save_every_minutes: float
    scratch: str | Path | None
    tensorboard: bool
    progress: bool
    num_workers: int | None
    max_ram_gb: float | None


def check_names(options: Mapping[str, Any]) -> None:
    """Refuse keywords that do not exist, as Python does for other functions.

    Raises:
        TypeError: Names the first one, and what may have been meant.
    """
    known = TrainingOptions.__annotations__
    for name in options:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise TypeError(f"nnunet_training() got an unexpected keyword argument {name!r}{hint}")


def check_values(arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse values that are of another type than they should be, which no later check expects.

    Raises:
        UsageError: Names all of them.
    """
    hints = {**_ARGUMENT_TYPES, **get_type_hints(TrainingOptions)}
    check_types("nnunet_training", {**arguments, **options}, hints)


def of_training(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that belong into a :class:`~nnunet_pt.training.request.TrainRequest`, in its types."""
    chosen = {name: value for name, value in options.items() if name not in _OF_PREPARATION}
    for name in _TUPLES & chosen.keys():
        value = chosen[name]
        if value is not None:
            chosen[name] = (value,) if isinstance(value, str) else tuple(value)
    return chosen


def of_preparation(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that belong into a :class:`~nnunet_pt.api.preparation.Preparation`."""
    return {name: value for name, value in options.items() if name in {*_OF_PREPARATION, "progress"}}
