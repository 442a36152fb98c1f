"""The request of a user: what to train, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.value_types import check_fields

Fold = int | Literal["all"]
Policy = Literal["strict", "match", "adapt"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

_CHOICES = {
    "transfer": (*get_args(Policy), None),
    "transfer_heads": ("auto", "none"),
    "precision": (*get_args(Precision), None),
    "augment_on": ("cpu", "gpu"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What a user asks for; the arguments of ``nnUNetv2_train`` and ``nnUNetv2_train_pretrained``.

    Attributes:
        dataset: Dataset id or name.
        configuration: Name of the configuration.
        fold: Number of the fold, or "all" to train on all cases.
        trainer: Name of a recipe or trainer, see :func:`nnunet_pt.training.recipe_lookup.find_recipe`.
        plans_name: Plans identifier.
        pretrained_weights: Checkpoint whose weights training starts from.
        of_plans: Start from the weights that the plans name (``nnUNetv2_train_pretrained``).
        from_scratch: With ``of_plans``: for comparison, do not.
        checkpoint_path: With ``of_plans``: where the checkpoint is now.
        transfer: How weights are transferred: "strict", "match" or "adapt"; by default "strict" for
            ``pretrained_weights`` and "adapt" for the weights that the plans name.
        transfer_layers: Transfer only these layers.
        transfer_heads: Whether the segmentation layers are transferred where labels have the same names.
        fix_token_axes: Correct the order of axes in transformers of nnssl's EvaMAE family.
        allow_little_transfer: Train even if less than half of the encoder finds its weights.
        keep_optimizer: With ``pretrained_weights``: take over the optimiser's state, too.
        freeze: See ``epochs``.
        freeze_epochs: See ``epochs``.
        lr_factors: See ``epochs``.
        reset_optimizer: With ``continue_training``: keep only the weights, and begin at epoch 0 with a new optimiser.
        num_processes: Processes to start on this machine, one for each GPU.
        save_probabilities: Store the probabilities of the final validation, too.
        continue_training: Continue from the newest checkpoint.
        validation_only: Only do the final validation.
        validate_best: Do the final validation with the best checkpoint.
        disable_checkpointing: Write no checkpoints.
        device: "cuda", "cpu" or "mps"; by default the first of these that there is ("cuda", "mps", "cpu").
        epochs: Takes the place of the recipe's value, like the next ones.
        lr: See ``epochs``.
        iterations: See ``epochs``.
        warmup_epochs: See ``epochs``.
        patience: See ``epochs``.
        seed: See ``epochs``.
        deterministic: See ``epochs``.
        precision: See ``epochs``.
        augment_on: Where augmentation is computed: by worker processes ("cpu") or on the GPU.
        save_every_minutes: Time between two savings of the state; 0 for no savings by time.
        requeue: In a job of SLURM: at SIGUSR1 save the state, let SLURM queue the job again, and end; continue in a job
            that SLURM has started again.
        scratch: Folder on a disk of this machine to which cases are copied before training; "none" for no copies; by
            default ``$SLURM_TMPDIR`` if there is one.
        tensorboard: Write files for TensorBoard.
        progress: Show progress bars.
    """

    dataset: int | str
    configuration: str
    fold: Fold
    trainer: str = "nnUNetTrainer"
    plans_name: str = "nnUNetPlans"
    pretrained_weights: Path | None = None
    of_plans: bool = False
    from_scratch: bool = False
    checkpoint_path: Path | None = None
    transfer: Policy | None = None
    transfer_layers: tuple[str, ...] = ()
    transfer_heads: Literal["auto", "none"] = "auto"
    fix_token_axes: bool = False
    allow_little_transfer: bool = False
    keep_optimizer: bool = False
    freeze: tuple[str, ...] | None = None
    freeze_epochs: int | None = None
    lr_factors: tuple[str, ...] | None = None
    reset_optimizer: bool = False
    num_processes: int = 1
    save_probabilities: bool = False
    continue_training: bool = False
    validation_only: bool = False
    validate_best: bool = False
    disable_checkpointing: bool = False
    device: str | None = None
    epochs: int | None = None
    lr: float | None = None
    iterations: int | None = None
    warmup_epochs: int | None = None
    patience: int | None = None
    seed: int | None = None
    deterministic: bool | None = None
    precision: Precision | None = None
    augment_on: Literal["cpu", "gpu"] = "cpu"
    save_every_minutes: float = 10.0
    requeue: bool = False
    scratch: Path | Literal["none"] | None = None
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                expected = ", ".join(repr(choice) for choice in known if choice is not None)
                raise UsageError(f"There is no {name} {value!r}.", expected=expected)
        clashes = [
            (self.continue_training and self.validation_only, "--c and --val"),
            (self.continue_training and self.pretrained_weights is not None, "--c and -pretrained_weights"),
            (self.validation_only and self.pretrained_weights is not None, "--val and -pretrained_weights"),
            (self.keep_optimizer and self.reset_optimizer, "--keep_optimizer and -reset_optimizer"),
            (self.disable_checkpointing and self.requeue, "--disable_checkpointing and --requeue"),
            (self.disable_checkpointing and self.validate_best, "--disable_checkpointing and --val_best"),
        ]
        found = [names for clash, names in clashes if clash]
        if found:
            raise UsageError(
                f"These options exclude each other: {'; '.join(found)}.",
                remedy="-pretrained_weights starts a new training; --c continues one, which has its weights already"
                if "-pretrained_weights" in found[0]
                else "leave one of them out",
            )
        if self.num_processes < 1:
            raise UsageError(f"-num_gpus is {self.num_processes}.", expected="at least 1")
        if not 0 <= self.save_every_minutes < math.inf:
            raise UsageError(f"-save_every_minutes is {self.save_every_minutes:g}.", expected="at least 0")
        if self.keep_optimizer and self.pretrained_weights is None:
            raise UsageError("--keep_optimizer says what is taken from another model, so it needs -pretrained_weights.")
        if self.validation_only and self.reset_optimizer:
            raise UsageError("-reset_optimizer has no effect with --val, which does not train.")
