"""Weights from elsewhere, whatever file they are in: nnU-Net 1 and 2, nnssl, MONAI, Lightning, bare, safetensors."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from torch import Tensor

from nnunet_pt.core.errors import CheckpointError, DatasetError
from nnunet_pt.core.files import storage_errors
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import BACKGROUND, Labels
from nnunet_pt.plans.configuration import Architecture
from nnunet_pt.transfer.adaptation_plan import (
    FILE_NAME,
    KEY_IN_CHECKPOINT,
    AdaptationPlan,
    citations_in,
    find_beside,
    load,
)
from nnunet_pt.transfer.checkpoint import kind_of_content
from nnunet_pt.transfer.names import names_of_version_1, one_name_each, stale_names
from nnunet_pt.transfer.safe_load import load_file
from nnunet_pt.transfer.safetensors import looks_like_safetensors, read_safetensors
from nnunet_pt.transfer.weights import strip_prefixes

Kind = Literal["nnunet", "nnunet_v1", "nnssl", "weights"]
_CONTAINERS: Final = ("network_weights", "state_dict", "model_state_dict", "model", "net", "network", "weights")
_VERSION_1_KEYS: Final = ("plot_stuff", "lr_scheduler_state_dict", "best_stuff")
_PIECE: Final = 4 << 20
_UNTOUCHED_NS: Final = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedSource:
    """The weights in a file, and what the file says about them.

    Attributes:
        path: The file.
        weights: Plainest name (without the prefixes of wrappers) to tensor; each tensor once.
        stored_as: The same names to those in the file.
        kind: What kind of file it is; ``weights`` for tensors without more.
        sha256: Hexadecimal digest of the file.
        plans: nnU-Net's plans, as JSON.
        dataset_json: nnU-Net's description of the dataset, as JSON.
        configuration: The configuration of the plans.
        trainer_name: Name of the trainer.
        adaptation_plan: nnssl's description of the network.
        channel_names: Names of the image's channels.
        label_names: Names of the output channels.
        citations: What to cite, as in the file.
        stale: Names in the file whose values differ from those of another name of the same tensor and do not count.
    """

    path: Path
    weights: Mapping[str, Tensor]
    stored_as: Mapping[str, str] = field(default_factory=dict, repr=False)
    kind: Kind
    sha256: str
    plans: Mapping[str, Any] | None = field(default=None, repr=False)
    dataset_json: Mapping[str, Any] | None = field(default=None, repr=False)
    configuration: str | None = None
    trainer_name: str | None = None
    adaptation_plan: AdaptationPlan | None = None
    channel_names: tuple[str, ...] | None = None
    label_names: tuple[str, ...] | None = None
    citations: tuple[Any, ...] = ()
    stale: tuple[str, ...] = ()

    @property
    def patch_size(self) -> tuple[int, ...] | None:
        """The patch size that a positional embedding belongs to, if the file says it."""
        if self.adaptation_plan is not None:
            return self.adaptation_plan.position_patch_size
        size = self._planned().get("patch_size")
        return None if size is None else tuple(int(n) for n in size)

    @property
    def architecture(self) -> Architecture | None:
        """The network, if the file says it."""
        if self.adaptation_plan is not None:
            return self.adaptation_plan.architecture
        entry = self._planned().get("architecture")
        if not isinstance(entry, Mapping) or "network_class_name" not in entry:
            return None
        return Architecture(
            network_class_name=str(entry["network_class_name"]),
            arch_kwargs=dict(entry.get("arch_kwargs") or {}),
            requires_import=tuple(entry.get("_kw_requires_import") or ()),
        )

    @property
    def input_names(self) -> tuple[str, ...] | None:
        """Names of the network's input channels, if known."""
        if self.dataset_json is None or self.channel_names is None:
            return self.channel_names
        description = DatasetDescription.from_json(self.dataset_json, self.path)
        return input_names(description, cascaded=self._planned().get("previous_stage") is not None)

    def _planned(self) -> Mapping[str, Any]:
        """The configuration's entries with those it inherits; nothing where the plans are not as they should be."""
        configurations = (self.plans or {}).get("configurations")
        left = dict(configurations) if isinstance(configurations, Mapping) else {}
        merged: dict[str, Any] = {}
        entry = left.pop(self.configuration, None)
        while isinstance(entry, Mapping):
            merged = {**entry, **merged}
            entry = left.pop(entry.get("inherits_from"), None)
        return merged

    def require_adaptation_plan(self) -> AdaptationPlan:
        """nnssl's description of the network.

        Raises:
            CheckpointError: If there is none in the file or near it.
        """
        if self.adaptation_plan is None:
            raise CheckpointError(
                f"There is no adaptation plan of nnssl for {self.path}.",
                found=f"a file of the kind {self.kind!r}, and no {FILE_NAME} in {self.path.parent} or the folder above",
                expected=f"{KEY_IN_CHECKPOINT} in the checkpoint, or {FILE_NAME} beside it",
                remedy=f"copy the {FILE_NAME} that nnssl wrote beside the checkpoint; for a model of nnU-Net use "
                "nnUNetv2_train -pretrained_weights",
            )
        return self.adaptation_plan


def read_source(path: Path, *, lazy: bool = False) -> PretrainedSource:
    """Read weights from any checkpoint; nothing in it is executed, tensors come to the CPU.

    Args:
        path: A file of nnU-Net 2, of nnU-Net 1 (``.model``; the ``.pkl`` beside it is not opened), of nnssl, of
            Lightning or MONAI, a bare dictionary of tensors, or safetensors.
        lazy: Map the tensors into memory instead of reading them, see :func:`nnunet_pt.transfer.safe_load.load_file`.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds no weights.
        StorageError: If the file cannot be accessed.
    """
    content, is_safetensors = _content(path, lazy=lazy)
    tensors = strip_prefixes(weights_in(content, path))
    kind = _kind(content, tensors)
    if kind == "nnunet_v1":
        new_names = names_of_version_1(tensors)
        tensors = {new_names[name]: tensor for name, tensor in tensors.items()}
    weights, stored = one_name_each(tensors)
    plan = _adaptation_plan(path, content, kind)
    said = {} if is_safetensors else content
    arguments = said["init_args"] if kind == "nnunet" else {}
    dataset_json, configuration = arguments.get("dataset_json"), arguments.get("configuration")
    channels, labels = names_in(dataset_json, path)
    return PretrainedSource(
        path=path,
        weights=weights,
        stored_as=stored,
        kind="nnssl" if plan is not None else kind,
        sha256=sha256_of(path),
        plans=arguments.get("plans"),
        dataset_json=dataset_json if isinstance(dataset_json, Mapping) else None,
        configuration=configuration if isinstance(configuration, str) else None,
        trainer_name=str(said["trainer_name"]) if "trainer_name" in said else None,
        adaptation_plan=plan,
        channel_names=channels,
        label_names=labels,
        citations=citations_in(said.get("citations")) or (plan.citations if plan else ()),
        stale=() if lazy else stale_names(tensors, stored),
    )


def _content(path: Path, *, lazy: bool) -> tuple[Any, bool]:
    """What is in a file, and whether it is safetensors."""
    if path.is_file():
        with storage_errors(path), path.open("rb") as file:
            beginning = file.read(16)
        if looks_like_safetensors(beginning):
            tensors, _ = read_safetensors(path)
            return tensors if lazy else {name: tensor.clone() for name, tensor in tensors.items()}, True
    return load_file(path, lazy=lazy), False


def weights_in(content: object, path: Path) -> dict[str, Tensor]:
    """The network's weights in what a checkpoint holds.

    Args:
        content: What was read.
        path: Where from, for messages.

    Raises:
        CheckpointError: If there are none.
    """
    if isinstance(content, Mapping):
        for candidate in (content, *(content.get(key) for key in _CONTAINERS)):
            if isinstance(candidate, Mapping) and _are_weights(candidate):
                return {k: v for k, v in candidate.items() if isinstance(v, Tensor)}
    raise CheckpointError(
        f"{path} holds no network weights that can be used here.",
        found=kind_of_content(content),
        expected="a checkpoint of nnU-Net, nnssl or PyTorch Lightning, or a dictionary of tensors",
        remedy="choose another file",
    )


def _are_weights(candidate: Mapping[Any, Any]) -> bool:
    """Whether these are tensors by name; modules may have added values of their own (``_extra_state``)."""
    if not all(isinstance(name, str) for name in candidate):
        return False
    others = [name for name, value in candidate.items() if not isinstance(value, Tensor)]
    return len(others) < len(candidate) and all(name.endswith(("_extra_state", "_metadata")) for name in others)


def _kind(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Kind:
    arguments = content.get("init_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    if KEY_IN_CHECKPOINT in content or "spark_weights" in content or "pretrain_json" in arguments:
        return "nnssl"
    if "network_weights" in content and isinstance(arguments.get("plans"), Mapping):
        return "nnunet"
    if any(key in content for key in _VERSION_1_KEYS) or any(n.startswith("conv_blocks_context.") for n in tensors):
        return "nnunet_v1"
    return "weights"


def _adaptation_plan(path: Path, content: Mapping[str, Any], kind: Kind) -> AdaptationPlan | None:
    if content.get(KEY_IN_CHECKPOINT) is not None:
        return AdaptationPlan.from_json(content[KEY_IN_CHECKPOINT], path)
    beside = find_beside(path) if kind in ("nnssl", "weights") else None
    return None if beside is None else load(beside)


def names_in(dataset_json: object, source: Path) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Names of a network's input and output channels, from a description of its dataset; None if they cannot be told.

    Args:
        dataset_json: The description, as JSON.
        source: Where it is from.
    """
    try:
        description = DatasetDescription.from_json(dataset_json, source)
        return description.channel_names, output_names(description)
    except DatasetError:
        return None, None


def input_names(description: DatasetDescription, *, cascaded: bool) -> tuple[str, ...]:
    """Names of the network's input channels.

    Args:
        description: The dataset.
        cascaded: Whether the network also sees each label of a previous stage.
    """
    if not cascaded:
        return description.channel_names
    labels = Labels.from_description(description)
    previous = labels.foreground_labels if labels.has_regions else labels.class_names
    return (*description.channel_names, *(f"previous stage: {label}" for label in previous))


def output_names(description: DatasetDescription) -> tuple[str, ...]:
    """Names of the network's output channels."""
    labels = Labels.from_description(description)
    return labels.class_names if labels.has_regions else (BACKGROUND, *labels.class_names)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 digest of a file's content; it is remembered as long as the file stays the same."""
    with storage_errors(path):
        status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    # a file that is just being written could change again without another time
    still = time.time_ns() - max(identity[-2:]) > _UNTOUCHED_NS
    return _known_digest(path, identity) if still else _digest(path)


@lru_cache(maxsize=64)
def _known_digest(path: Path, _identity: tuple[int, ...]) -> str:
    return _digest(path)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with storage_errors(path), path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
