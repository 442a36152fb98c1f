"""``nnUNetv2_preprocess_like_nnssl`` and ``nnUNetv2_plan_like_dynamic``: from a checkpoint to plans and data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import PlansError, UsageError
from nnunet_pt.core.files import write_json
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.workers import CaseFailure
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.planning.edited_plans import with_edits
from nnunet_pt.planning.pretrained_plans import (
    CONFIGURATION,
    DYNAMIC_PREFIX,
    PREFIX,
    SEPARATOR,
    AdaptationMode,
    Normalization,
    Pretraining,
    adapted_spacing,
    find_base_plans,
    name_conflicts,
    named_base_plans,
    plans_like_dynamic,
    plans_like_nnssl,
)
from nnunet_pt.plans.plans import Plans, PretrainInfo
from nnunet_pt.preprocessing.case import CaseSettings
from nnunet_pt.preprocessing.pipeline import PreprocessRequest, PreprocessResult, preprocess_dataset
from nnunet_pt.preprocessing.shared_data import differences, plans_sharing
from nnunet_pt.transfer.checkpoint_files import checkpoint_file
from nnunet_pt.transfer.source import PretrainedSource, read_source

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlansRequest:
    """What both commands need.

    Attributes:
        dataset: Number or folder name.
        name: The user's name for the pre-training.
        checkpoint: Path, address or OWNER/REPO of the checkpoint.
        num_processes: Worker processes; None for the default.
        overwrite_preprocessed: Preprocess every case again.
        force: Replace plans of this name, also if they were edited or made for another checkpoint.
        max_ram_gb: Memory budget of all workers together.
        progress: Show progress.
        on_failure: "stop" at the first failing case, or "continue" with the others.
    """

    dataset: int | str
    name: str
    checkpoint: str
    num_processes: int | None = None
    overwrite_preprocessed: bool = False
    force: bool = False
    max_ram_gb: float | None = None
    progress: bool = True
    on_failure: Literal["stop", "continue"] = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class LikeNnsslRequest(_PlansRequest):
    """What to preprocess like which pre-training.

    Attributes:
        mode: Which spacing to use.
        override_spacing: The spacing for the mode ``fixed``, mm, in the order of the plans' axes.
        normalization: ``zscore`` for every channel, or ``default_nnunet``: as the dataset's own plans.
    """

    mode: AdaptationMode = "default_nnunet"
    override_spacing: tuple[float, ...] | None = None
    normalization: Normalization = "zscore"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LikeDynamicRequest(_PlansRequest):
    """Which plans are to take weights from which checkpoint.

    Attributes:
        base_plans: Plans identifier.
    """

    base_plans: str = "nnUNetPlans"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedPlansResult:
    """What was made.

    Attributes:
        plans: The plans.
        path: Their file.
        preprocessing: What was preprocessed.
    """

    plans: Plans
    path: Path
    preprocessing: PreprocessResult

    @property
    def failures(self) -> tuple[CaseFailure, ...]:
        """Cases that could not be preprocessed."""
        return self.preprocessing.failures

    def summary(self) -> str:
        """A few lines for the terminal, with the command that trains."""
        return f"{self.preprocessing.summary()}\n  plans written: {self.path}\n  to train:  {self.training_command()}"

    def training_command(self, fold: int | str = 0) -> str:
        """The command that a user would type next."""
        number = self.plans.dataset_name.removeprefix("Dataset").partition("_")[0]
        dynamic = "-tr DynamicPretrainedTrainer " if self.plans.plans_name.startswith(DYNAMIC_PREFIX) else ""
        return f"nnUNetv2_train_pretrained {int(number)} {CONFIGURATION} {fold} {dynamic}-p {self.plans.plans_name}"


def preprocess_like_nnssl(request: LikeNnsslRequest, workspace: Workspace) -> PretrainedPlansResult:
    """Write plans for a pre-trained network and preprocess the dataset as its pre-training did.

    Cases that are there already are kept, also those that were made for another pre-training with the same spacing and
    normalisation.

    Raises:
        UsageError: If mode and spacing do not fit, or the name is none or belongs to another checkpoint.
        PlansError: If the dataset has no plans to start from, or others need the data folder for other data.
        CheckpointError: If the checkpoint cannot be used.
        NnunetError: For cases that cannot be preprocessed.
    """
    _check_name(request.name)
    dataset = resolve_dataset_name(request.dataset, workspace)
    folder = workspace.preprocessed / dataset
    base = find_base_plans(folder)
    own_spacing = base.configuration(CONFIGURATION).spacing
    adapted_spacing(request.mode, own_spacing, None, request.override_spacing)  # wrong arguments before a long download
    if request.override_spacing is not None and request.mode != "fixed":
        _log.warning("-os is ignored: it belongs to the adaptation mode fixed, not to %s.", request.mode)
    pretraining = read_pretraining(request, workspace)
    plans = plans_like_nnssl(
        base,
        pretraining,
        mode=request.mode,
        override_spacing=request.override_spacing,
        normalization=request.normalization,
    )
    if request.mode == "like_pretrained" and pretraining.spacing is None:
        _log.warning(
            "The pre-training did not resample its images, so there is no spacing to follow; that of %s is used. "
            "To keep each image's own spacing, as the pre-training did: -am no_resample",
            base.plans_name,
        )
    return _finish(request, workspace, folder, plans, f"{PREFIX}{request.name}{SEPARATOR}*.json")


def plan_like_dynamic(request: LikeDynamicRequest, workspace: Workspace) -> PretrainedPlansResult:
    """Write plans that keep the dataset's own network and data, and take what fits from a checkpoint.

    Raises:
        UsageError: If the name is none or belongs to another checkpoint.
        PlansError: If there are no such plans.
        CheckpointError: If the checkpoint cannot be used.
        NnunetError: For cases that cannot be preprocessed.
    """
    _check_name(request.name)
    folder = workspace.preprocessed / resolve_dataset_name(request.dataset, workspace)
    base = named_base_plans(folder, request.base_plans)
    plans = plans_like_dynamic(base, read_pretraining(request, workspace))
    return _finish(request, workspace, folder, plans, f"{plans.plans_name}.json")


def read_pretraining(request: _PlansRequest, workspace: Workspace) -> Pretraining:
    """What a checkpoint says about its network; it is downloaded if it is on the hub.

    Raises:
        CheckpointError: If it cannot be used.
        UnknownNameError: If there is no such network.
    """
    path = checkpoint_file(request.checkpoint, workspace.settings, progress=request.progress)
    return pretraining_of(read_source(path, lazy=True), request.name)


def pretraining_of(source: PretrainedSource, name: str) -> Pretraining:
    """What plans note about a checkpoint.

    Args:
        source: The checkpoint.
        name: The user's name for the pre-training.

    Raises:
        CheckpointError: If it has no adaptation plan.
        UnknownNameError: If there is no such network.
    """
    plan = source.require_adaptation_plan()
    plan.check_architecture()
    info = PretrainInfo(
        checkpoint_path=str(source.path.absolute()),
        checkpoint_name=name,
        key_to_encoder=plan.key_to_encoder,
        key_to_stem=plan.key_to_stem,
        keys_to_in_proj=plan.keys_to_in_proj,
        key_to_lpe=plan.key_to_lpe,
        pt_num_in_channels=plan.num_input_channels,
        pt_used_patchsize=plan.patch_size or plan.recommended_patch_size,
        pt_recommended_downstream_patchsize=plan.recommended_patch_size,
        citations=source.citations,
        checkpoint_sha256=source.sha256,
    )
    return Pretraining(info=info, architecture=plan.architecture, spacing=plan.spacing)


def _check_name(name: str) -> None:
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(
            "The name of the pre-training cannot be part of a file name.",
            found=repr(name),
            expected="a name without slashes, such as MAE_OpenMind",
            remedy="choose another -n",
        )


def _finish(
    request: _PlansRequest, workspace: Workspace, folder: Path, plans: Plans, same_name: str
) -> PretrainedPlansResult:
    """Write the plans unless something speaks against it, and preprocess."""
    assert plans.pretrain_info is not None
    if not request.force and (conflicts := name_conflicts(folder, same_name, plans.pretrain_info)):
        raise UsageError(
            f"The name {request.name} was used before, for another checkpoint.",
            found="\n            ".join(conflicts),
            expected=plans.pretrain_info.checkpoint_path,
            remedy="choose another -n; or replace the plans with --force",
        )
    path = folder / f"{plans.plans_name}.json"
    if not request.force:
        plans = with_edits(plans, path)
        _check_shared_folder(folder, plans)
    write_json(path, plans.to_json(), sort_keys=True)
    result = preprocess_dataset(
        PreprocessRequest(
            dataset=folder.name,
            plans_name=plans.plans_name,
            configurations=(CONFIGURATION,),
            num_processes=request.num_processes,
            clean=request.overwrite_preprocessed,
            max_ram_gb=request.max_ram_gb,
            progress=request.progress,
            on_failure=request.on_failure,
            any_layout=True,
        ),
        workspace,
    )
    return PretrainedPlansResult(plans=plans, path=path, preprocessing=result)


def _check_shared_folder(folder: Path, plans: Plans) -> None:
    """Do not let two plans fill one folder with different data.

    Raises:
        PlansError: If other plans use the folder for other data.
    """
    description = DatasetDescription.load(folder / DATASET_FILE)
    labels = Labels.from_description(description)
    ours = CaseSettings.of(plans, CONFIGURATION, labels, description.channel_names)
    identifier = ours.configuration.data_identifier
    for name, theirs in plans_sharing(identifier, folder, labels, description.channel_names):
        different = differences(ours, theirs)
        if name != plans.plans_name and different:
            raise PlansError(
                f"The plans {name} use the data folder {identifier} for other data.",
                found=f"different: {', '.join(different)}",
                remedy=f"if {name} are not needed any more, delete {folder / f'{name}.json'}; or go on with --force: "
                "their data are replaced, and have to be made again before they are used",
            )
