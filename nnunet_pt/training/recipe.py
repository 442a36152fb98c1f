"""Every choice of a training in one place; nnU-Net's trainer variants differ in these values only.

A variant is ``replace(DEFAULT, name=..., num_epochs=250)``. Nothing here imports torch, so that the command line can
list and check recipes quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.training.recipe_checks import LOSS_NAMES, OPTIMIZER_NAMES, SCHEDULE_NAMES, lr_factor_of, problems_of

__all__ = ["DEFAULT", "LOSS_NAMES", "OPTIMIZER_NAMES", "SCHEDULE_NAMES", "TrainingRecipe", "with_overrides"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """How to train. The defaults are those of nnU-Net's ``nnUNetTrainer``.

    Attributes:
        name: Name of the trainer; first part of the model folder's name.
        num_epochs: Epochs.
        iterations_per_epoch: Training steps in each epoch.
        validation_iterations_per_epoch: Validation batches in each epoch.
        initial_lr: Largest learning rate.
        lr_from_scratch: The same where a recipe for pre-trained weights is used without them; None for ``initial_lr``.
        pretrained: Start from the weights that the plans name (their ``pretrain_info``).
        weight_decay: Weight decay, as the optimiser understands it.
        optimizer: One of :data:`OPTIMIZER_NAMES`.
        momentum: Nesterov momentum of SGD.
        betas: Decay rates of the moments of the other optimisers; None for their usual ones.
        amsgrad: The AMSGrad variant of Adam and AdamW.
        schedule: What follows the warm-up, one of :data:`SCHEDULE_NAMES`.
        warmup_epochs: Epochs in which the learning rate rises linearly.
        head_epochs: Epochs before the warm-up in which only the decoder is trained (and the input layer, if it had to
            be adapted to another number of channels), the first half with a rising and the second with a falling
            learning rate.
        head_lr_factor: Learning rate during ``head_epochs`` relative to ``initial_lr``.
        freeze: Layers that stay as they are, normalisation included: names from the beginning (``encoder.stages``), or
            ranges of them (``encoder.stages.0-2``).
        freeze_epochs: Epochs after which they are trained, too; None for never.
        lr_factors: Layers with a learning rate of their own, relative to that of the others: ``encoder=0.1``. Of
            several that concern a layer the last one counts.
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
    lr_from_scratch: float | None = None
    pretrained: bool = False
    weight_decay: float = 3e-5
    optimizer: str = "sgd"
    momentum: float = 0.99
    betas: tuple[float, ...] | None = None
    amsgrad: bool = False
    schedule: str = "poly"
    warmup_epochs: int = 0
    head_epochs: int = 0
    head_lr_factor: float = 1.0
    freeze: tuple[str, ...] = ()
    freeze_epochs: int | None = None
    lr_factors: tuple[str, ...] = ()
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
        problems = list(problems_of(self))
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

    def layer_factors(self) -> tuple[tuple[str, float], ...]:
        """``lr_factors`` as pairs of layers and factor."""
        return tuple(found for text in self.lr_factors if (found := lr_factor_of(text)) is not None)

    def from_scratch(self) -> TrainingRecipe:
        """The same without pre-trained weights."""
        return replace(self, initial_lr=self.lr_from_scratch or self.initial_lr, pretrained=False)

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
    freeze: tuple[str, ...] | None = None,
    freeze_epochs: int | None = None,
    lr_factors: tuple[str, ...] | None = None,
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
        freeze: ``freeze``.
        freeze_epochs: ``freeze_epochs``.
        lr_factors: ``lr_factors``.

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
        "freeze": freeze,
        "freeze_epochs": freeze_epochs,
        "lr_factors": lr_factors,
    }
    return replace(recipe, **{key: value for key, value in given.items() if value is not None})


DEFAULT = TrainingRecipe()
