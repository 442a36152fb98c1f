"""nnU-Net's checkpoint files: read without executing them, written completely or not at all.

A checkpoint written here has the keys of nnU-Net 2.8.1 in its order and is read by it. What it needs beyond that to
continue a killed training exactly is under a key of its own, which nnU-Net ignores. All values are plain Python values
and CPU tensors, so that ``torch.load(..., weights_only=True)`` reads it anywhere.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_pt.core.errors import CheckpointError, TrainingError
from nnunet_pt.core.files import atomic_path
from nnunet_pt.core.wording import counted
from nnunet_pt.transfer.safe_load import load_file
from nnunet_pt.transfer.weights import listing, non_finite_tensors, strip_prefixes, tensors_in

__all__ = ["Checkpoint", "kind_of_content", "read_checkpoint", "strip_prefixes", "write_checkpoint"]

OWN_KEY = "nnunet_pt"  # of what nnU-Net's checkpoints do not have
NEEDED_INIT_ARGS = ("plans", "configuration", "fold", "dataset_json")
_KNOWN = (
    "network_weights",
    "optimizer_state",
    "grad_scaler_state",
    "logging",
    "_best_ema",
    "current_epoch",
    "init_args",
    "trainer_name",
    "inference_allowed_mirroring_axes",
)


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        network_weights: Name to tensor; one tensor may have several names.
        init_args: ``plans``, ``configuration``, ``fold``, ``dataset_json`` and ``device`` of the training.
        trainer_name: The recipe's name.
        current_epoch: The epoch to continue with, counted from 0; so many epochs are complete.
        optimizer_state: State of the optimiser; ``None`` if the file was reduced to what prediction needs.
        grad_scaler_state: State of the gradient scaler; ``None`` where there was none.
        logging: nnU-Net's per-epoch lists.
        best_ema: Best moving average of the foreground Dice so far.
        mirroring_axes: Spatial axes that may be mirrored at prediction.
        extra: All other keys.
    """

    network_weights: dict[str, Tensor]
    init_args: dict[str, Any]
    trainer_name: str
    current_epoch: int = 0
    optimizer_state: dict[str, Any] | None = None
    grad_scaler_state: dict[str, Any] | None = None
    logging: dict[str, list[Any]] = field(default_factory=dict)
    best_ema: float | None = None
    mirroring_axes: tuple[int, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, *, lazy: bool = False, check_sums: bool | None = None) -> Checkpoint:
    """Read a checkpoint of nnU-Net 2 or of this package.

    Args:
        path: The file.
        lazy: Do not read the tensors, see :func:`nnunet_pt.transfer.safe_load.load_file`.
        check_sums: Compare checksums; None for unless ``lazy``.

    Raises:
        CheckpointError: If the file is missing, damaged, or something else.
        StorageError: If the file cannot be accessed.
    """
    content = load_file(path, lazy=lazy, check_sums=check_sums)
    _require_nnunet(path, content)
    axes = content.get("inference_allowed_mirroring_axes")
    best = content.get("_best_ema")
    try:
        return Checkpoint(
            network_weights=strip_prefixes(content["network_weights"]),
            init_args=dict(content["init_args"]),
            trainer_name=str(content["trainer_name"]),
            current_epoch=int(content.get("current_epoch", 0)),
            optimizer_state=content.get("optimizer_state"),
            grad_scaler_state=content.get("grad_scaler_state"),
            logging=dict(content.get("logging") or {}),
            best_ema=None if best is None else float(best),
            mirroring_axes=None if axes is None else tuple(int(a) for a in axes),
            extra={key: value for key, value in content.items() if key not in _KNOWN},
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"A value in the checkpoint {path} has another form than nnU-Net's.",
            found=str(error),
            remedy="use a checkpoint as nnU-Net 2 or this package wrote it",
        ) from error


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the file that was there stays as it is until the new one is complete.

    Args:
        path: The file.
        checkpoint: Its content. Tensors may be anywhere; they are written as CPU tensors.

    Raises:
        TrainingError: If a weight or a tensor of the optimiser is not finite. Nothing is written then.
        StorageError: If the file cannot be written, for example because the disk is full.
    """
    trained = {"network_weights": checkpoint.network_weights, "optimizer_state": checkpoint.optimizer_state}
    if bad := non_finite_tensors(trained):
        raise TrainingError(
            f"The checkpoint {path} was not written, because NaN or infinity would be saved.",
            found=f"in {counted(len(bad), 'tensor')}\n" + listing(bad, 5),
            expected="finite weights",
            remedy="continue from an earlier checkpoint, with a lower learning rate or with float32 (fp32) precision",
        )
    content = _plain(
        {
            "network_weights": OrderedDict(checkpoint.network_weights),
            "optimizer_state": checkpoint.optimizer_state,
            "grad_scaler_state": checkpoint.grad_scaler_state,
            "logging": checkpoint.logging,
            "_best_ema": checkpoint.best_ema,
            "current_epoch": checkpoint.current_epoch,
            "init_args": checkpoint.init_args,
            "trainer_name": checkpoint.trainer_name,
            "inference_allowed_mirroring_axes": checkpoint.mirroring_axes,
            **checkpoint.extra,
        },
        {},
    )
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer complains about its position after a failed write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _plain(value: Any, copies: dict[tuple[Any, ...], Tensor]) -> Any:
    """Plain Python values and CPU tensors; tensors that share memory still do."""
    if isinstance(value, Tensor):
        if value.device.type == "cpu":
            return value.detach()
        key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if key not in copies:
            copies[key] = value.detach().cpu()
        return copies[key]
    if isinstance(value, Mapping):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((_plain(k, copies), _plain(v, copies)) for k, v in value.items())
    if isinstance(value, tuple):
        return tuple(_plain(v, copies) for v in value)
    if isinstance(value, (list, set, frozenset)):
        return [_plain(v, copies) for v in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return value


def _are_weights(weights: Any) -> bool:
    return (
        isinstance(weights, Mapping)
        and bool(weights)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items())
    )


def _require_nnunet(path: Path, content: Any) -> None:
    needed = ("network_weights", "init_args", "trainer_name")
    if isinstance(content, Mapping) and all(key in content for key in needed):
        arguments = content["init_args"]
        sound = isinstance(arguments, Mapping) and all(key in arguments for key in NEEDED_INIT_ARGS)
        if sound and _are_weights(content["network_weights"]):
            return
    missing = [key for key in needed if not isinstance(content, Mapping) or key not in content]
    raise CheckpointError(
        f"{path} is not a checkpoint of nnU-Net 2.",
        found=kind_of_content(content) + (f"; missing: {', '.join(missing)}" if missing else ""),
        expected=f"{', '.join(needed)} (with {', '.join(NEEDED_INIT_ARGS)})",
        remedy="choose another file; weights from elsewhere can be used to start a training: -pretrained_weights",
    )


def kind_of_content(content: Any) -> str:
    """What a file seems to be, for error messages."""
    if not isinstance(content, Mapping):
        return f"an object of type {type(content).__name__}"
    arguments = content.get("init_args")
    if "nnssl_adaptation_plan" in content or "spark_weights" in content:
        return "a checkpoint of nnssl pre-training"
    if isinstance(arguments, Mapping) and "pretrain_json" in arguments:
        return "a checkpoint of nnssl pre-training"
    if "state_dict" in content and ("plot_stuff" in content or "optimizer_state_dict" in content):
        return "a model of nnU-Net version 1"
    if "pytorch-lightning_version" in content:
        return "a checkpoint of PyTorch Lightning"
    if _are_weights(content):
        return f"weights only ({counted(len(content), 'tensor')}) without nnU-Net's other information"
    keys = [str(key) for key in content]
    more = f", ... ({len(keys)} in all)" if len(keys) > 10 else ""
    tensors = sum(1 for _ in tensors_in(content))
    return f"a dictionary with {counted(tensors, 'tensor')} and the keys {', '.join(keys[:10]) or '(none)'}{more}"
