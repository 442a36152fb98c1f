"""Every choice of a training in one place; nnU-Net's trainer variants differ in these values only.

A variant is ``replace(DEFAULT, name=..., num_epochs=250)``. Nothing here imports torch, so that the command line can
list and check recipes quickly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from nnunet_pt.core.errors import TrainingError

OPTIMIZER_NAMES = ("sgd", "adamw", "adam", "adan")
SCHEDULE_NAMES = ("poly", "cosine", "constant")
LOSS_NAMES = ("default", "dice_ce_no_smooth", "ce", "dice", "topk10", "topk10_smoothed", "dice_topk10")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZER_NAMES,
    "schedule": SCHEDULE_NAMES,
    "loss": LOSS_NAMES,
    "augmentation": ("default", "da5", "none"),
    "mirroring": ("all", "first", "none"),
    "image_interpolation": ("linear", "nearest"),
    "segmentation_interpolation": ("linear", "nearest"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
_AT_LEAST: Mapping[str, int] = {
    "num_epochs": 1,
    "iterations_per_epoch": 1,
    "validation_iterations_per_epoch": 0,
    "warmup_epochs": 0,
    "head_epochs": 0,
    "save_every": 1,
    "batch_size": 1,
    "patience": 1,
    "seed": 0,
}
_POSITIVE = ("initial_lr", "gradient_clip", "head_lr_factor")
_SHARES = ("oversample_foreground", "cascade_label_probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """How to train. The defaults are those of nnU-Net's ``nnUNetTrainer``.

    Attributes:
        name: Name of the trainer; first part of the model folder's name.
        num_epochs: Epochs.
        iterations_per_epoch: Training steps in each epoch.
        validation_iterations_per_epoch: Validation batches in each epoch.
        initial_lr: Largest learning rate.
        weight_decay: Weight decay, as the optimiser understands it.
        optimizer: One of :data:`OPTIMIZER_NAMES`.
        momentum: Nesterov momentum of SGD.
        betas: Decay rates of the moments of the other optimisers; None for their usual ones.
        amsgrad: The AMSGrad variant of Adam and AdamW.
        schedule: What follows the warm-up, one of :data:`SCHEDULE_NAMES`.
        warmup_epochs: Epochs in which the learning rate rises linearly.
        head_epochs: Epochs before the warm-up in which only the segmentation heads (of a pre-trained network) are
            trained, the first half with a rising and the second with a falling learning rate.
        head_lr_factor: Learning rate during ``head_epochs`` relative to ``initial_lr``.
        gradient_clip: Largest norm of the gradient; None for no limit.
        oversample_foreground: Share of samples that must contain foreground.
        probabilistic_oversampling: Whether each sample decides by chance; otherwise the last ones of a batch must.
        oversample_as_fixed: With probabilistic oversampling: take as probability the share that the fixed rule has
            with the plans' batch size.
        deep_supervision: Whether the lower resolutions of the decoder have losses, too.
        loss: One of :data:`LOSS_NAMES`; "default" is Dice plus cross-entropy, binary cross-entropy with regions.
        augmentation: "default", "da5", or "none" for the validation pipeline.
        mirroring: "all" spatial axes, "first" for all but the last one, or "none"; also at test time.
        dummy_2d: Whether anisotropic patches are rotated and scaled within their slices only.
        image_interpolation: Interpolation of images by the spatial augmentation.
        segmentation_interpolation: The same for segmentations.
        cascade_label_probability: For each label, the chance that the augmentation of a previous stage's segmentation
            concerns it; None for the pipeline's own.
        batch_norm: Batch instead of instance normalisation.
        network: Name of a network that takes the place of the plans'; None for the plans'.
        batch_size: Takes the place of the plans'; None for the plans'.
        patch_size: Takes the place of the plans', voxels along each axis; None for the plans'.
        save_every: Epochs between two writings of ``checkpoint_latest.pth``.
        patience: Epochs without a better moving average of the Dice after which training ends; None for never.
        seed: Seed of everything random; None for a fresh one.
        deterministic: Whether only deterministic operations are used.
        precision: "auto", "fp32", "bf16" or "fp16".
        benchmark: Measure epochs only: no checkpoints, no final validation, ``benchmark_result.json`` at the end.
        synthetic_batch: With ``benchmark``: one fixed random batch instead of the loader.

    Raises:
        TrainingError: With every value that cannot be used.
    """

    name: str = "nnUNetTrainer"
    num_epochs: int = 1000
    iterations_per_epoch: int = 250
    validation_iterations_per_epoch: int = 50
    initial_lr: float = 1e-2
    weight_decay: float = 3e-5
    optimizer: str = "sgd"
    momentum: float = 0.99
    betas: tuple[float, ...] | None = None
    amsgrad: bool = False
    schedule: str = "poly"
    warmup_epochs: int = 0
    head_epochs: int = 0
    head_lr_factor: float = 1.0
    gradient_clip: float | None = 12.0
    oversample_foreground: float = 0.33
    probabilistic_oversampling: bool = False
    oversample_as_fixed: bool = False
    deep_supervision: bool = True
    loss: str = "default"
    augmentation: Literal["default", "da5", "none"] = "default"
    mirroring: Literal["all", "first", "none"] = "all"
    dummy_2d: bool = True
    image_interpolation: Literal["linear", "nearest"] = "linear"
    segmentation_interpolation: Literal["linear", "nearest"] = "linear"
    cascade_label_probability: float | None = None
    batch_norm: bool = False
    network: str | None = None
    batch_size: int | None = None
    patch_size: tuple[int, ...] | None = None
    save_every: int = 50
    patience: int | None = None
    seed: int | None = None
    deterministic: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    benchmark: bool = False
    synthetic_batch: bool = False

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise TrainingError(
                f"The training recipe {self.name!r} cannot be used.", found="\n            ".join(problems)
            )

    def mirror_axes(self, num_axes: int) -> tuple[int, ...] | None:
        """Spatial axes along which training and prediction mirror; None for none at all."""
        count = {"all": num_axes, "first": num_axes - 1, "none": 0}[self.mirroring]
        return tuple(range(count)) or None

    def foreground_share(self, batch_size: int) -> float:
        """Share (fixed) or probability (probabilistic oversampling) of samples that must contain foreground.

        Args:
            batch_size: Of the plans, over all processes.
        """
        if not (self.probabilistic_oversampling and self.oversample_as_fixed):
            return self.oversample_foreground
        return (batch_size - round(batch_size * (1 - self.oversample_foreground))) / batch_size

    def to_json(self) -> dict[str, Any]:
        """Every value, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainingRecipe:
        """Read what :meth:`to_json` wrote; missing values take their defaults.

        Raises:
            TrainingError: If there are unknown keys or unusable values.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise TrainingError(
                f"The training recipe {data.get('name', '(without name)')!r} has values that are not known.",
                found=", ".join(unknown),
                expected=", ".join(known),
            )
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**values)


def with_overrides(
    recipe: TrainingRecipe,
    *,
    epochs: int | None = None,
    lr: float | None = None,
    iterations: int | None = None,
    warmup_epochs: int | None = None,
    patience: int | None = None,
    seed: int | None = None,
    deterministic: bool | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None,
) -> TrainingRecipe:
    """A recipe with the values that were given on the command line; None keeps the recipe's own.

    Args:
        recipe: The recipe that was asked for by name.
        epochs: ``num_epochs``.
        lr: ``initial_lr``.
        iterations: ``iterations_per_epoch``.
        warmup_epochs: ``warmup_epochs``.
        patience: ``patience``.
        seed: ``seed``.
        deterministic: ``deterministic``.
        precision: ``precision``.

    Raises:
        TrainingError: If a value cannot be used with the others.
    """
    given: dict[str, Any] = {
        "num_epochs": epochs,
        "initial_lr": lr,
        "iterations_per_epoch": iterations,
        "warmup_epochs": warmup_epochs,
        "patience": patience,
        "seed": seed,
        "deterministic": deterministic,
        "precision": precision,
    }
    return replace(recipe, **{key: value for key, value in given.items() if value is not None})


def _problems(recipe: TrainingRecipe) -> Iterator[str]:
    values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    for field in fields(recipe):
        problem = _type_problem(values[field.name], str(field.type))
        if problem:
            yield f"{field.name} is {values[field.name]!r}, expected {problem}"
            values.pop(field.name)
    name = values.get("name", "x")
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", name) or name.strip(".") == "":
        yield f"name is {name!r}, expected letters, digits, '_', '-' and '.', since a folder gets this name"
    for key, choices in _CHOICES.items():
        if key in values and values[key] not in choices:
            yield f"{key} is {values[key]!r}, expected one of {', '.join(choices)}"
    for key, minimum in _AT_LEAST.items():
        if values.get(key) is not None and values[key] < minimum:
            yield f"{key} is {values[key]}, expected at least {minimum}"
    for key in _POSITIVE:
        if values.get(key) is not None and not values[key] > 0:
            yield f"{key} is {values[key]}, expected more than 0"
    for key in _SHARES:
        if values.get(key) is not None and not 0 <= values[key] <= 1:
            yield f"{key} is {values[key]}, expected a number from 0 to 1"
    yield from _joint_problems(values)


def _joint_problems(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("weight_decay", 0) < 0:
        yield f"weight_decay is {values['weight_decay']}, expected at least 0"
    if not 0 <= values.get("momentum", 0) < 1 or not all(0 <= beta < 1 for beta in values.get("betas") or ()):
        yield f"momentum is {values.get('momentum')} and betas are {values.get('betas')}, expected numbers below 1"
    number = {"adan": 3}.get(values.get("optimizer", ""), 2)
    if values.get("betas") is not None and len(values["betas"]) != number:
        yield f"betas are {values['betas']}, expected {number} numbers for {values['optimizer']}"
    patch = values.get("patch_size")
    if patch is not None and (len(patch) not in (2, 3) or any(size < 1 for size in patch)):
        yield f"patch_size is {patch}, expected two or three numbers of voxels"
    epochs, before = values.get("num_epochs"), values.get("warmup_epochs", 0) + values.get("head_epochs", 0)
    if epochs is not None and before > epochs:
        yield f"{before} epochs of warm-up do not fit into {epochs} (give fewer with -warmup_epochs)"
    if values.get("synthetic_batch") and not values.get("benchmark"):
        yield "synthetic_batch without benchmark would train on noise"


def _type_problem(value: object, annotation: str) -> str | None:
    """What a value should have been, or None if its type is right."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    if value is None:
        return None if "None" in kinds else "a value"
    kind = kinds[0]
    if kind == "bool":
        return None if isinstance(value, bool) else "true or false"
    if kind == "int":
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if kind == "float":
        return None if _is_number(value) else "a finite number"
    if kind.startswith("tuple"):
        whole = "int" in kind
        fits = isinstance(value, tuple) and all(isinstance(v, int) if whole else _is_number(v) for v in value)
        return None if fits else "numbers"
    return None if isinstance(value, str) else "a text"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


DEFAULT = TrainingRecipe()
