"""Everything that is needed to continue a training as if it had never been interrupted.

The state is part of nnU-Net's checkpoint file: what nnU-Net knows is under its names, the rest under the key
``nnunet_pt``. A checkpoint that nnU-Net wrote continues at the beginning of an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import CheckpointError, StorageError
from nnunet_pt.core.files import plain_json
from nnunet_pt.training.determinism import random_states, restore_random_states
from nnunet_pt.training.freezing import FACTOR
from nnunet_pt.training.snapshot import Scaler, copied
from nnunet_pt.transfer.checkpoint import OWN_KEY, Checkpoint, read_checkpoint
from nnunet_pt.transfer.weights import bare_network, load_weights

KEY = OWN_KEY
FORMAT = 1
FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"
_TELLING = ("momentum", "betas", "alpha", "rho")  # settings that some kinds of optimiser have and others do not


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """Where a training is. Weights, optimiser and scaler are not in here; ``capture`` and ``restore`` handle them.

    Attributes:
        epoch: The epoch in progress, or the next one, counted from 0.
        iteration: Training iterations of this epoch that are done. If all of them are, validation comes next.
        step: Training batches drawn since the beginning; goes on when training returns to an earlier state.
        train_losses: Losses of this epoch's iterations.
        skipped_steps: Steps of this epoch without an update because of a non-finite loss.
        non_finite_in_a_row: Non-finite losses since the last finite one.
        returns: How often training returned to the last good state.
        rate_factor: What the schedule's learning rate is multiplied by; halved by each return.
        epoch_elapsed_s: Time spent in this epoch so far, over all interruptions.
        epoch_waited_s: Part of that time in which training waited for data.
        logging: nnU-Net's per-epoch lists, of complete epochs only.
        best_ema: Best moving average of the foreground Dice so far.
        epochs_without_improvement: For early stopping.
        seed: The training's seed.
        recipe: The recipe as JSON.
        stage: What the optimiser trains, see :class:`nnunet_pt.training.freezing.Stage`; empty if not known.
        input_adapted: Whether the input layer was changed or left out when weights were transferred.
    """

    epoch: int = 0
    iteration: int = 0
    step: int = 0
    train_losses: list[float] = field(default_factory=list)
    skipped_steps: int = 0
    non_finite_in_a_row: int = 0
    returns: int = 0
    rate_factor: float = 1.0
    epoch_elapsed_s: float = 0.0
    epoch_waited_s: float = 0.0
    logging: dict[str, list[Any]] = field(default_factory=dict)
    best_ema: float | None = None
    epochs_without_improvement: int = 0
    seed: int | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    stage: str = ""
    input_adapted: bool = False

    def begin_epoch(self, epoch: int) -> None:
        """Set what counts within an epoch back to its beginning."""
        self.epoch = epoch
        self.iteration = 0
        self.train_losses = []
        self.skipped_steps = 0
        self.epoch_elapsed_s = 0.0
        self.epoch_waited_s = 0.0

    def capture(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        scaler: Scaler | None = None,
        *,
        init_args: Mapping[str, Any],
        trainer_name: str,
        mirroring_axes: tuple[int, ...] | None,
    ) -> Checkpoint:
        """The checkpoint of this moment. It refers to the live tensors: write it before training goes on.

        Args:
            network: The network in training; wrappers are looked through.
            optimizer: Its optimiser.
            scaler: The gradient scaler, if there is one.
            init_args: ``plans``, ``configuration``, ``fold``, ``dataset_json`` and ``device``.
            trainer_name: The recipe's name.
            mirroring_axes: Spatial axes that may be mirrored at prediction.
        """
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("logging", "best_ema", "epoch")}
        return Checkpoint(
            network_weights=bare_network(network).state_dict(),
            optimizer_state=optimizer.state_dict(),
            grad_scaler_state=None if scaler is None else scaler.state_dict(),
            logging=self.logging,
            best_ema=self.best_ema,
            current_epoch=self.epoch,
            init_args=dict(init_args),
            trainer_name=trainer_name,
            mirroring_axes=mirroring_axes,
            extra={KEY: {"format": FORMAT, **plain_json(own), "random_states": random_states()}},
        )

    @classmethod
    def restore(
        cls,
        checkpoint: Checkpoint,
        source: Path,
        network: nn.Module,
        optimizer: Optimizer,
        scaler: Scaler | None = None,
    ) -> TrainingState:
        """Give network, optimiser, scaler and random generators the state of a checkpoint.

        Args:
            checkpoint: Its content.
            source: Its file, for error messages.
            network: A network of the same architecture.
            optimizer: An optimiser of the same kind over the network's parameters.
            scaler: The gradient scaler, if there is one.

        Raises:
            CheckpointError: If the checkpoint belongs to another network or optimiser, or cannot be continued.
        """
        state = state_of(checkpoint, source)
        load_weights(network, checkpoint.network_weights, source)
        _check_optimizer(checkpoint, source, optimizer)
        # torch keeps the given tensors if they are on the right device, and the checkpoint's must stay as they are
        factors = [group.get(FACTOR) for group in optimizer.param_groups]
        optimizer.load_state_dict(copied(checkpoint.optimizer_state))
        for group, factor in zip(optimizer.param_groups, factors, strict=True):  # they may be others than before
            if factor is not None:
                group[FACTOR] = factor
        if scaler is not None and checkpoint.grad_scaler_state:
            scaler.load_state_dict(dict(checkpoint.grad_scaler_state))
        restore_random_states(checkpoint.extra.get(KEY, {}).get("random_states", {}))
        return state


def state_of(checkpoint: Checkpoint, source: Path) -> TrainingState:
    """The state in a checkpoint, without touching network, optimiser or random generators.

    Raises:
        CheckpointError: If a newer version of this package wrote it, or if it is damaged.
    """
    own = checkpoint.extra.get(KEY, {})
    state = TrainingState(
        epoch=checkpoint.current_epoch,
        logging={k: list(v) for k, v in checkpoint.logging.items()},
        best_ema=checkpoint.best_ema,
    )
    if not isinstance(own, Mapping) or own.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"The training state in {source} cannot be read.",
            found=f"format {own.get('format')!r}" if isinstance(own, Mapping) else type(own).__name__,
            expected=f"format {FORMAT}",
            remedy="continue with the version of nnunet_pt that wrote it",
        )
    for entry in fields(state):
        if entry.name in own:
            setattr(state, entry.name, own[entry.name])
    return state


def _check_optimizer(checkpoint: Checkpoint, source: Path, optimizer: Optimizer) -> None:
    saved = checkpoint.optimizer_state
    if not saved:
        raise CheckpointError(
            f"{source} cannot be continued.",
            found="no state of the optimiser: the file was reduced to what prediction needs",
            expected="a checkpoint as training writes it",
            remedy="start a new training from its weights with -pretrained_weights",
        )
    own = optimizer.state_dict()
    differences = []
    sizes = [[len(group["params"]) for group in state["param_groups"]] for state in (saved, own)]
    if sizes[0] != sizes[1]:
        differences.append(f"groups of {sizes[0]} parameters instead of {sizes[1]}")
    else:
        for theirs, ours in zip(saved["param_groups"], own["param_groups"], strict=True):
            differences += [
                f"{'has' if key in theirs else 'lacks'} {key!r}" for key in _TELLING if (key in theirs) != (key in ours)
            ]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, parameter in enumerate(parameters):
            state = saved["state"].get(number, {})
            if any(isinstance(v, Tensor) and v.ndim and v.shape != parameter.shape for v in state.values()):
                differences.append("state for parameters of other shapes")
    if differences:
        raise CheckpointError(
            f"The state in {source} is that of another optimiser.",
            found="; ".join(dict.fromkeys(differences)),
            expected=f"the state of {type(optimizer).__name__}",
            remedy="continue with the trainer (-tr), -freeze and -lr_factor that the checkpoint was made with, or keep "
            "only its weights: --c -reset_optimizer",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCheckpoint:
    """A checkpoint to continue from."""

    path: Path
    checkpoint: Checkpoint
    state: TrainingState


def newest_valid_checkpoint(fold_folder: Path) -> FoundCheckpoint | None:
    """The checkpoint of a training that got farthest, of those that can be read.

    Damaged ones are named in a warning.

    Args:
        fold_folder: The folder with checkpoint_final.pth, checkpoint_latest.pth and checkpoint_best.pth.

    Returns:
        ``None`` if there are none.

    Raises:
        CheckpointError: If there are checkpoints, but none can be read.
    """
    present = [path for path in (fold_folder / name for name in (FINAL, LATEST, BEST)) if path.exists()]
    problems: list[str] = []
    progress: dict[Path, tuple[int, int]] = {}
    for path in present:  # without reading tensors; their order decides between equals
        try:
            state = state_of(read_checkpoint(path, lazy=True), path)
            progress[path] = (state.epoch, state.iteration)
        except (CheckpointError, StorageError) as error:
            problems.append(_skipped(error))
    for path in sorted(progress, key=lambda p: progress[p], reverse=True):
        try:
            checkpoint = read_checkpoint(path)
            return FoundCheckpoint(path=path, checkpoint=checkpoint, state=state_of(checkpoint, path))
        except (CheckpointError, StorageError) as error:
            problems.append(_skipped(error))
    if not problems:
        return None
    raise CheckpointError(
        f"No checkpoint in {fold_folder} can be read, so training cannot be continued.",
        found="\n" + "\n".join(problems),
        remedy="restore one of them from a backup, or start again without --c",
    )


def _skipped(error: CheckpointError | StorageError) -> str:
    reason = f"{error.problem} Found: {error.found}"
    get_logger(__name__).warning("Skipped a checkpoint. %s", reason)
    return f"      {reason}"
