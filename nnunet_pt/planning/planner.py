"""Make plans for a dataset: read its description and fingerprint, plan, write the plans file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import DatasetError, NnunetError, PlansError, UsageError
from nnunet_pt.core.files import copy_file, read_json
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import resolve_dataset_name, training_cases
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.registry import choose_reader_writer
from nnunet_pt.planning.experiment import MASK_IF_CROPPED_TO_LESS, Design, dataset_geometry, plan_configurations
from nnunet_pt.planning.presets import PLANNERS, PlannerPreset
from nnunet_pt.plans.fingerprint import FILE_NAME as FINGERPRINT_FILE
from nnunet_pt.plans.fingerprint import Fingerprint
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.normalize import scheme_for_channel, uses_mask
from nnunet_pt.preprocessing.pipeline import PREPROCESSORS
from nnunet_pt.preprocessing.splits import SPLITS_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What to plan.

    Attributes:
        dataset: Dataset id or folder name.
        planner: nnU-Net's name of the planner.
        gpu_memory_target_gb: GPU memory to plan for; the planner's own by default.
        preprocessor_name: nnU-Net's name of the preprocessor.
        overwrite_target_spacing: Target spacing of full resolution instead of the dataset's median, mm, in the order
            of the array axes as the reader gives them.
        plans_name: Plans identifier instead of the planner's.
    """

    dataset: int | str
    planner: str = "ExperimentPlanner"
    gpu_memory_target_gb: float | None = None
    preprocessor_name: str = "DefaultPreprocessor"
    overwrite_target_spacing: tuple[float, ...] | None = None
    plans_name: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def plan_experiment(request: PlanRequest, workspace: Workspace) -> Plans:
    """Plan a dataset whose fingerprint was extracted.

    Writes ``<plans name>.json`` into the preprocessed dataset folder, and copies ``dataset.json`` and, if there is one
    and the folder has none yet, ``splits_final.json`` from the raw dataset. Configurations of an existing plans file
    of that name that are not planned anew stay in it.

    Args:
        request: What to plan.
        workspace: Where the folders are.

    Returns:
        The plans as written.

    Raises:
        UsageError: If a value of the request is impossible.
        UnknownNameError: If the planner or preprocessor does not exist.
        PlansError: If the fingerprint is missing or does not fit the dataset.
        DatasetError: If the raw dataset is unusable, or its splits contradict those already in use.
    """
    preset = PLANNERS[request.planner]
    _check_request(request)
    dataset_name = resolve_dataset_name(request.dataset, workspace)
    raw, preprocessed = workspace.raw / dataset_name, workspace.preprocessed / dataset_name
    description = DatasetDescription.load(raw / DATASET_FILE)
    fingerprint = Fingerprint.load(preprocessed / FINGERPRINT_FILE)
    _check_fingerprint(fingerprint, description, preprocessed / FINGERPRINT_FILE)
    splits_are_new = _check_splits(raw / SPLITS_FILE, preprocessed / SPLITS_FILE)

    plans = _make_plans(request, preset, dataset_name, raw, description, fingerprint)
    path = preprocessed / f"{plans.plans_name}.json"
    plans = _with_old_configurations(plans, path)

    copy_file(raw / DATASET_FILE, preprocessed / DATASET_FILE)
    if splits_are_new:
        copy_file(raw / SPLITS_FILE, preprocessed / SPLITS_FILE)
    plans.save(path)
    return plans


def reader_writer_name(raw: Path, description: DatasetDescription, *, allow_nonmatching: bool = False) -> str:
    """Name of the reader/writer that reads a dataset's files, tried on the first training image."""
    cases = training_cases(raw, description)
    return choose_reader_writer(description, cases[0].images[0], allow_nonmatching=allow_nonmatching).name


def _check_request(request: PlanRequest) -> None:
    PREPROCESSORS[request.preprocessor_name]  # or complain
    memory, spacing, name = request.gpu_memory_target_gb, request.overwrite_target_spacing, request.plans_name
    if memory is not None and not (isfinite(memory) and memory > 0):
        raise UsageError("The GPU memory target is not usable.", found=memory, expected="GB, above 0")
    if spacing is not None and (len(spacing) != 3 or not all(isfinite(s) and s > 0 for s in spacing)):
        raise UsageError(
            "The target spacing is not usable.",
            found=" ".join(f"{s:g}" for s in spacing) or "no number",
            expected="three numbers above 0 (mm), in the order of the array axes: usually z y x",
        )
    if name is not None and (not name or Path(name).name != name):
        raise UsageError("The plans name is not usable.", found=repr(name), expected="a file name without folder")


def _check_fingerprint(fingerprint: Fingerprint, description: DatasetDescription, path: Path) -> None:
    channels = len(fingerprint.foreground_intensity_properties_per_channel)
    if channels == description.num_channels and fingerprint.spacings:
        return
    raise PlansError(
        f"{path} does not belong to the dataset as it is now.",
        found=f"{counted(channels, 'channel')} and {counted(len(fingerprint.spacings), 'case')} in the fingerprint",
        expected=f"{counted(description.num_channels, 'channel')}, as in dataset.json, and at least one case",
        remedy="extract it again with  nnUNetv2_extract_fingerprint --clean",
    )


def _check_splits(raw: Path, preprocessed: Path) -> bool:
    """Whether the raw dataset's splits must be copied; an error if other splits are in use already."""
    if not raw.is_file() or not preprocessed.is_file():
        return raw.is_file()
    wanted, used = _folds(raw), _folds(preprocessed)
    differing = [i for i, fold in enumerate(wanted) if i >= len(used) or fold != used[i]]
    if differing:
        i = differing[0]
        sizes = [f"{len(f[i][0])} / {len(f[i][1])} cases" if i < len(f) else "no such fold" for f in (wanted, used)]
        raise DatasetError(
            f"Two files with splits contradict each other in fold {', '.join(map(str, differing))}.",
            found=f"training / validation of fold {i}: {sizes[0]} in {raw}, {sizes[1]} in {preprocessed}",
            expected="the same cases in every fold of the raw dataset's file",
            remedy="delete the file that is wrong; models trained with one of them cannot be compared with the other",
        )
    return False


def _folds(path: Path) -> list[tuple[frozenset[str], frozenset[str]]]:
    data = read_json(path)
    try:
        return [(frozenset(fold["train"]), frozenset(fold["val"])) for fold in data]
    except (TypeError, KeyError) as error:
        raise DatasetError(
            f"{path} is not a splits file.", expected='[{"train": [case, ...], "val": [case, ...]}, ...]'
        ) from error


def _make_plans(
    request: PlanRequest,
    preset: PlannerPreset,
    dataset_name: str,
    raw: Path,
    description: DatasetDescription,
    fingerprint: Fingerprint,
) -> Plans:
    memory = request.gpu_memory_target_gb or preset.gpu_memory_gb
    if preset.fixed_target and memory != preset.gpu_memory_gb and request.plans_name is None:
        get_logger().warning(
            f"{preset.name} is made for {preset.gpu_memory_gb:g} GB; with {memory:g} GB its plans are no longer what "
            "others mean by that name. Give them a name of their own (-overwrite_plans_name)."
        )
    schemes = tuple(scheme_for_channel(name) for name in description.channel_names)
    mostly_empty = fingerprint.median_relative_size_after_cropping < MASK_IF_CROPPED_TO_LESS
    design = Design(
        preset=preset,
        gpu_memory_gb=memory,
        preprocessor_name=request.preprocessor_name,
        plans_name=request.plans_name or preset.plans_name,
        num_outputs=len(description.labels),
        normalization_schemes=schemes,
        use_mask_for_norm=tuple(mostly_empty and uses_mask(scheme) for scheme in schemes),
    )
    geometry = dataset_geometry(fingerprint, request.overwrite_target_spacing)
    num_training = description.num_training
    if num_training is None:
        num_training = len(training_cases(raw, description))
    return Plans(
        dataset_name=dataset_name,
        plans_name=design.plans_name,
        original_median_spacing_after_transp=tuple(geometry.original_spacing.tolist()),
        original_median_shape_after_transp=tuple(round(n) for n in geometry.original_shape.tolist()),
        image_reader_writer=reader_writer_name(raw, description),
        transpose_forward=geometry.transpose_forward,
        transpose_backward=geometry.transpose_backward,
        configurations=plan_configurations(design, geometry, num_training),
        experiment_planner_used=preset.name,
        foreground_intensity_properties_per_channel=fingerprint.foreground_intensity_properties_per_channel,
    )


def _with_old_configurations(plans: Plans, path: Path) -> Plans:
    """Keep the configurations of an existing file that were not planned anew (users add their own)."""
    if not path.is_file():
        return plans
    try:
        old = Plans.load(path)
    except NnunetError as error:
        raise PlansError(
            f"{path} is to be replaced, but its other configurations, which would be kept, cannot be read.",
            found=error.found or error.problem,
            remedy="correct or delete the file, then plan again",
        ) from error
    configurations: dict[str, Any] = dict(plans.configurations)
    kept = {k: v for k, v in old.configurations.items() if k not in configurations}
    return replace(plans, configurations=configurations | kept)
