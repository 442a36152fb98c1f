"""A trained model as it lies in its folder: plans, labels, network, and the weights of its folds.

The folder is enough. The network follows from the plans and from what the trainer is known to change in them; no
trainer class is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_pt.core.errors import CheckpointError, PredictionError
from nnunet_pt.core.files import read_json
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference.model_files import (
    FINAL_CHECKPOINT,
    FOLD_PREFIX,
    PLANS_FILE,
    available_folds,
    chosen_folds,
    require_model_folder,
)
from nnunet_pt.inference.orientation import read_orientation
from nnunet_pt.networks.build import build_network
from nnunet_pt.networks.trainer_networks import TrainerNetwork, network_of_trainer
from nnunet_pt.plans.plans import Architecture, Configuration, Plans
from nnunet_pt.transfer.checkpoint import OWN_KEY, Checkpoint, read_checkpoint
from nnunet_pt.transfer.weights import check_weights, listing, load_weights, non_finite_tensors, tensors_with_names

__all__ = ["TrainedModel", "available_folds", "load_model"]


@dataclass(slots=True, kw_only=True)
class TrainedModel:
    """A trained model, ready to predict.

    Attributes:
        folder: Its folder.
        plans: The plans.
        configuration: The configuration, with the patch size of the training.
        description: The dataset that it was trained with.
        dataset_json: The dataset description as in its file.
        labels: The labels.
        trainer_name: The trainer that made it.
        mirror_axes: Spatial axes that may be mirrored.
        folds: Names of the folds: "0", "1"... or "all".
        checkpoints: The file of each fold.
        network: On the CPU, float32, in evaluation mode, without deep supervision; holds the first fold's weights. It
            may be moved to another device and data type.
        fold_weights: The weights of each fold, name to tensor, on the CPU. Of a single fold they are the network's
            own tensors.
        orientation: How the training images lay in their arrays, see :mod:`nnunet_pt.inference.orientation`; None if
            that was not recorded.
        input_channels: Channels of the network's input.
        is_cascaded: Whether the segmentation of a previous stage is an input, one channel for each foreground label.
    """

    folder: Path
    plans: Plans
    configuration: Configuration
    description: DatasetDescription
    dataset_json: Mapping[str, Any]
    labels: Labels
    trainer_name: str
    mirror_axes: tuple[int, ...]
    folds: tuple[str, ...]
    checkpoints: tuple[Path, ...]
    network: nn.Module
    fold_weights: tuple[Mapping[str, Tensor], ...]
    orientation: str | None
    input_channels: int
    is_cascaded: bool
    _held: int = field(default=0, init=False, repr=False)

    def use_fold(self, index: int) -> None:
        """Give the network the weights of a fold, wherever it is and in its data type.

        Args:
            index: Which one of :attr:`folds`.
        """
        if index == self._held:
            return
        weights = self.fold_weights[index]
        with torch.no_grad():
            for names, tensor in tensors_with_names(self.network):
                tensor.copy_(weights[names[-1]])  # the last name counts, as where all are loaded one by one
        self._held = index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where weights come from; the same for all folds of a model."""

    configuration: str
    trainer: str
    changes: TrainerNetwork
    mirror_axes: tuple[int, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> _Origin:
        """What a checkpoint says: a recipe that was stored with it, or the name of the trainer."""
        own = checkpoint.extra.get(OWN_KEY)
        recipe = own.get("recipe") if isinstance(own, Mapping) else None
        changes = network_of_trainer(checkpoint.trainer_name)
        if isinstance(recipe, Mapping) and recipe:
            changes = TrainerNetwork(
                network=recipe.get("network"),
                batch_norm=bool(recipe.get("batch_norm")),
                patch_size=tuple(recipe.get("patch_size") or ()) or None,
            )
        return cls(
            configuration=str(checkpoint.init_args["configuration"]),
            trainer=checkpoint.trainer_name,
            changes=changes,
            mirror_axes=checkpoint.mirroring_axes or (),
        )


def load_model(
    folder: Path, *, folds: Sequence[int | str] | None = None, checkpoint_name: str = FINAL_CHECKPOINT
) -> TrainedModel:
    """Load a model that nnU-Net, its fine-tuning fork or this package trained.

    Args:
        folder: The model's folder, with ``plans.json``, ``dataset.json`` and the folders of the folds. Its name does
            not matter.
        folds: Numbers of folds, or "all"; None for every numbered fold that has the checkpoint, and for ``fold_all``
            if there are none.
        checkpoint_name: Name of the file in the folders of the folds.

    Raises:
        PredictionError: If the folder is incomplete, a fold or checkpoint is missing, or they do not belong together.
        CheckpointError: If a checkpoint is damaged, or not one of nnU-Net 2.
        PlansError: If the plans are damaged.
        DatasetError: If the dataset description is damaged.
        StorageError: If a file cannot be read.
    """
    folder = Path(folder)
    require_model_folder(folder)
    names = chosen_folds(folder, folds, checkpoint_name)
    paths = tuple(folder / f"{FOLD_PREFIX}{name}" / checkpoint_name for name in names)
    plans = Plans.load(folder / PLANS_FILE)
    description = DatasetDescription.load(folder / DATASET_FILE)
    labels = Labels.from_description(description)

    origins, weights = zip(*map(_read_fold, paths), strict=True)
    _require_alike(folder, names, origins)
    origin = origins[0]
    configuration = _as_trained(plans, origin, weights[0])
    cascaded = configuration.previous_stage is not None
    channels = description.num_channels + (len(labels.foreground_labels) if cascaded else 0)
    network = build_network(
        configuration.architecture,
        input_channels=channels,
        num_outputs=labels.num_segmentation_heads,
        deep_supervision=False,
        patch_size=configuration.patch_size,
        initialise=False,
    )
    for path, of_fold in zip(paths, weights, strict=True):
        _require_fitting(network, of_fold, path, origin, labels.num_segmentation_heads, channels)
    load_weights(network, weights[0], paths[0], share=len(paths) == 1)
    return TrainedModel(
        folder=folder,
        plans=plans,
        configuration=configuration,
        description=description,
        dataset_json=read_json(folder / DATASET_FILE),
        labels=labels,
        trainer_name=origin.trainer,
        mirror_axes=origin.mirror_axes,
        folds=names,
        checkpoints=paths,
        network=network.eval().requires_grad_(False),
        fold_weights=weights,
        orientation=read_orientation(folder),
        input_channels=channels,
        is_cascaded=cascaded,
    )


def _require_alike(folder: Path, names: Sequence[str], origins: Sequence[_Origin]) -> None:
    """Folds of a model differ in their training cases only."""
    if origins[-1] == origins[0]:
        return
    lines = [
        f"{FOLD_PREFIX}{n}: {o.trainer}, configuration {o.configuration}" for n, o in zip(names, origins, strict=False)
    ]
    raise PredictionError(
        f"The folds of the model {folder} were not trained alike.",
        found="\n" + listing(lines),
        expected="one trainer and configuration",
        remedy="keep models in folders of their own, or choose folds that belong together with -f",
    )


def _read_fold(path: Path) -> tuple[_Origin, Mapping[str, Tensor]]:
    """The weights, and where they come from; the optimiser's state never gets into memory."""
    checkpoint = read_checkpoint(path, lazy=True, check_sums=True)
    weights = _in_memory(checkpoint.network_weights)
    if bad := non_finite_tensors(weights):
        raise CheckpointError(
            f"{path} holds NaN or infinity: its training failed.",
            found=f"in {len(bad)} of {len(weights)} tensors\n" + listing(bad, 5),
            expected="finite weights",
            remedy="use another checkpoint (-chk checkpoint_best.pth) or fold (-f)",
        )
    return _Origin.of(checkpoint), weights


def _in_memory(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that do not depend on the file, float32; one tensor with several names stays one."""
    copies: dict[tuple[Any, ...], Tensor] = {}
    result = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in copies:
            copies[key] = tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        result[name] = copies[key]
    return result


def _as_trained(plans: Plans, origin: _Origin, weights: Mapping[str, Tensor]) -> Configuration:
    """The configuration with the network and patch size that the trainer used."""
    configuration = plans.configuration(origin.configuration)
    changes = origin.changes
    if changes.network is None and _has_running_means(weights) and not _has_batch_norm(configuration.architecture):
        changes = replace(changes, batch_norm=True)
    return replace(
        configuration,
        architecture=changes.architecture(configuration.architecture),
        patch_size=changes.patch_size or configuration.patch_size,
    )


def _has_running_means(weights: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(".running_mean") for name in weights)


def _has_batch_norm(architecture: Architecture) -> bool:
    return "BatchNorm" in str(architecture.arch_kwargs.get("norm_op"))


def _require_fitting(
    network: nn.Module, weights: Mapping[str, Tensor], path: Path, origin: _Origin, outputs: int, channels: int
) -> None:
    """The weights belong to the network, and that to the dataset's labels and channels."""
    sizes = (
        ("outputs", _outputs(weights), outputs, "labels or regions"),
        ("input channels", _inputs(weights), channels, "channels"),
    )
    for what, trained, described, of in sizes:
        if trained is not None and trained != described:
            raise PredictionError(
                f"The {DATASET_FILE} of the model is not that of its training: the {of} do not fit {path}",
                found=f"weights of a network with {trained} {what}",
                expected=f"{described} {what}, for the {of} in {path.parent.parent / DATASET_FILE}",
                remedy=f"put back the {DATASET_FILE} that the model was trained with",
            )
    try:
        check_weights(network, weights, path)
    except CheckpointError as error:
        raise PredictionError(
            f"{path} was trained with another network than that of configuration {origin.configuration} in "
            f"{path.parent.parent / PLANS_FILE}. Its trainer is called {origin.trainer}.",
            found=str(error.found),
            expected=str(error.expected),
            remedy=f"put back the {PLANS_FILE} that the model was trained with; if the trainer is your own and has a "
            "network of its own, describe that network in the plans (architecture)",
        ) from error


def _outputs(weights: Mapping[str, Tensor]) -> int | None:
    """Number of classes that weights were trained for; None if that cannot be told."""
    heads = [
        n for n in weights if n.startswith(("decoder.seg_layers.", "up_projection.decode.")) and n.endswith(".bias")
    ]
    return len(weights[heads[-1]]) if heads else None


def _inputs(weights: Mapping[str, Tensor]) -> int | None:
    """Number of input channels that weights were trained for; None if that cannot be told."""
    first = (t for n, t in weights.items() if n.startswith(("encoder.s", "down_projection.")) and t.ndim > 3)
    return next((int(t.shape[1]) for t in first), None)
