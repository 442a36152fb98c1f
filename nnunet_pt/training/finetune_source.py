"""What a user gives to start a training from: a model folder, a checkpoint, a repository on the hub, bare weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.core.files import read_json
from nnunet_pt.core.settings import Settings
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.inference.model_files import FOLD_PREFIX, PLANS_FILE, checkpoints_of_folds
from nnunet_pt.planning.move_plans import GivenPlans
from nnunet_pt.plans.plans import Plans
from nnunet_pt.transfer.adaptation_plan import AdaptationPlan
from nnunet_pt.transfer.checkpoint_files import checkpoint_file
from nnunet_pt.transfer.hub_reference import parse_reference
from nnunet_pt.transfer.source import PretrainedSource, names_in, read_source

_log = get_logger(__name__)

_KINDS = {
    "nnunet": "a checkpoint of nnU-Net",
    "nnunet_v1": "a model of nnU-Net version 1",
    "nnssl": "a checkpoint of nnssl",
    "weights": "weights without a description of their network",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenWeights:
    """Weights to start from, and what is known about how they were trained.

    Attributes:
        reference: How to name them in a command: a path, or what the user wrote for the hub.
        path: The file.
        sha256: Its digest.
        kind: What kind of file it is.
        plans: nnU-Net's plans.
        configuration: Their configuration.
        trainer: Name of nnU-Net's trainer.
        outputs: Number of output channels, if known.
        adaptation: nnssl's description of the network.
    """

    reference: str
    path: Path
    sha256: str
    kind: Literal["nnunet", "nnunet_v1", "nnssl", "weights"]
    plans: GivenPlans | None = None
    configuration: str | None = None
    trainer: str = ""
    outputs: int | None = None
    adaptation: AdaptationPlan | None = None

    def describe(self) -> str:
        """One sentence for the terminal."""
        if self.adaptation is not None:
            about = f", {self.adaptation.architecture.short_name}"
        elif self.plans is not None:
            about = f": {self.plans.plans.dataset_name}, {self.plans.plans.plans_name}, {self.configuration}"
        else:
            about = ""
        return f"{self.path} is {_KINDS[self.kind]}{about}."

    @property
    def default_name(self) -> str:
        """A name for the pre-training, another one for each checkpoint.

        Of nnU-Net's models the number of their dataset; of others what their folder or file is called, and the
        beginning of their digest.
        """
        if self.plans is not None:
            dataset = self.plans.plans.dataset_name
            numbered = re.match(r"Dataset\d{3}", dataset)
            return numbered.group() if numbered else _plain(dataset)
        repository = parse_reference(self.reference)
        folders = [p for p in self.path.parents if not p.name.startswith(FOLD_PREFIX)]
        named = self.path.stem if not self.path.stem.startswith("checkpoint_") else folders[0].name.partition("__")[0]
        return f"{_plain(repository.name if repository is not None else named) or 'weights'}-{self.sha256[:8]}"


def _plain(text: str) -> str:
    """A text without what is unusual in file names; two underscores separate the parts of a model's name."""
    return re.sub("_{2,}", "_", re.sub(r"[^A-Za-z0-9._-]+", "-", text)).strip("._-")


def find_weights(reference: str, settings: Settings, *, progress: bool = True) -> GivenWeights:
    """Find out what a user has given, downloading it if necessary.

    Args:
        reference: Path of a checkpoint, of a fold's or a model's folder; or a repository of the Hugging Face hub.
        settings: Where downloads go.
        progress: Show progress of a download.

    Raises:
        CheckpointError: If there is nothing, or it holds no weights.
        UsageError: If it is the address of something else.
    """
    path = weights_file(reference, settings, progress=progress)
    source = read_source(path, lazy=True)
    plans, configuration = _plans(source)
    return GivenWeights(
        reference=reference if parse_reference(reference) is not None else str(path),
        path=path,
        sha256=source.sha256,
        kind=source.kind,
        plans=plans,
        configuration=configuration,
        trainer=source.trainer_name or "",
        outputs=None if source.label_names is None else len(source.label_names),
        adaptation=source.adaptation_plan,
    )


def plans_in(path: Path, settings: Settings) -> GivenPlans:
    """The plans of a model.

    Args:
        path: Its folder, a fold's folder, or a checkpoint.
        settings: Not needed for paths, but for what they may name.

    Raises:
        CheckpointError: If there are none.
    """
    found = find_weights(str(path), settings)
    if found.plans is None:
        raise CheckpointError(
            f"There are no plans of nnU-Net in {found.path}.",
            found=_KINDS[found.kind],
            expected="a checkpoint of nnU-Net 2, or its model folder",
        )
    return found.plans


def weights_file(reference: str, settings: Settings, *, progress: bool = True) -> Path:
    """The file of the weights that a user names; downloaded if necessary.

    Args:
        reference: Path of a checkpoint, of a fold's or a model's folder; or a repository of the Hugging Face hub.
        settings: Where downloads go.
        progress: Show progress of a download.

    Raises:
        CheckpointError: If there is none.
        UsageError: If it is the address of something else.
    """
    folder = Path(reference).expanduser().absolute()
    if parse_reference(reference) is not None or not folder.is_dir():
        return checkpoint_file(reference, settings, progress=progress)
    folds = [name for name, files in checkpoints_of_folds(folder).items() if files]
    if folds:
        chosen = "all" if "all" in folds else folds[0]
        if len(folds) > 1:
            _log.info(
                "%s has the folds %s; %s is taken. Give the folder of another one to take that.",
                folder,
                ", ".join(folds),
                f"{FOLD_PREFIX}{chosen}",
            )
        folder /= f"{FOLD_PREFIX}{chosen}"
    elif models := sorted(p.parent.name for p in folder.glob(f"*/{PLANS_FILE}")):
        raise CheckpointError(
            f"{folder} is no model.",
            found=f"folders of models: {', '.join(models)}",
            remedy="give one of these folders",
        )
    return checkpoint_file(str(folder), settings, progress=progress)


def _plans(source: PretrainedSource) -> tuple[GivenPlans | None, str | None]:
    """The plans in a checkpoint or in the model's folder, and their configuration."""
    if source.adaptation_plan is not None or source.kind == "nnssl":
        return None, None
    folder = source.path.parent.parent
    configuration = source.configuration
    plans: Mapping[str, Any] | None = source.plans
    channels = source.channel_names
    if plans is None and source.path.parent.name.startswith(FOLD_PREFIX) and (folder / PLANS_FILE).is_file():
        plans, configuration = read_json(folder / PLANS_FILE), folder.name.rpartition("__")[2]
        if (folder / DATASET_FILE).is_file():
            channels = names_in(read_json(folder / DATASET_FILE), folder / DATASET_FILE)[0]
    if plans is None:
        return None, None
    read = replace(Plans.from_json(plans, source.path), pretrain_info=None)  # these weights are the pre-training now
    if configuration not in read.configurations:
        raise CheckpointError(
            f"{source.path} does not say which configuration of its plans it was trained for.",
            found=repr(configuration),
            expected=f"one of {', '.join(read.configuration_names)}",
        )
    return GivenPlans(plans=read, channel_names=channels), configuration
