"""Let one dataset be preprocessed with the plans of another, so that weights can travel between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import NnunetError, PlansError, UsageError
from nnunet_pt.core.files import copy_file
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import resolve_dataset_name
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.planning.experiment import MASK_IF_CROPPED_TO_LESS
from nnunet_pt.planning.fit_plans import channel_origins, fit_channels, share_data
from nnunet_pt.planning.planner import reader_writer_name
from nnunet_pt.planning.summary import plan_summary, sizes
from nnunet_pt.plans.fingerprint import FILE_NAME as FINGERPRINT_FILE
from nnunet_pt.plans.fingerprint import Fingerprint
from nnunet_pt.plans.plans import Configuration, Plans
from nnunet_pt.preprocessing.normalize import scheme_for_channel, uses_mask

MAX_SPACING_FACTOR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPlans:
    """Plans that are not in a dataset's folder, but with a model.

    Attributes:
        plans: The plans.
        channel_names: Names of the channels that they are made for, if they are known.
    """

    plans: Plans
    channel_names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MovePlansRequest:
    """Which plans to copy where.

    Attributes:
        source: Dataset id or name that has the plans (for pre-training: the finetuning dataset), or the plans.
        target: Dataset id or name that receives them (the pretraining dataset).
        source_plans: Plans identifier; not needed if the plans are given.
        target_plans: Identifier of the copy; the same by default.
        force: Copy even if the numbers of channels differ.
        fit: Give every channel of the target a normalisation, and share data folders with the target's other plans
            where they hold the same data.
    """

    source: int | str | GivenPlans
    target: int | str
    source_plans: str | None = None
    target_plans: str | None = None
    force: bool = False
    fit: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveAccount:
    """What moving plans means for the dataset that receives them.

    Attributes:
        source: Name of the dataset that has the plans.
        source_plans: Their identifier.
        plans: The plans as the target receives them.
        ct_channels: Channel number as text -> clip range, mean and standard deviation, for channels normalised as CT.
        harms: What will hurt, one sentence each.
        unknown: What could not be compared, and why.
    """

    source: str
    source_plans: str
    plans: Plans
    ct_channels: Mapping[str, str]
    harms: tuple[str, ...]
    unknown: tuple[str, ...]


def move_plans(request: MovePlansRequest, workspace: Workspace) -> Path:
    """Copy plans to another dataset and say what travels with them and what will hurt.

    The copy has the target's dataset name and reader/writer; if its identifier is another, the names of its data
    folders change too. ``dataset.json`` is put beside it if it is not there yet: preprocessing needs it, and a dataset
    that is only pre-trained on is never planned itself.

    Returns:
        The plans file of the target.

    Raises:
        PlansError: If the source plans are missing, or the target has another number of channels (unless forced, or
            unless the plans are made to fit).
        UsageError: If the name of the copy is no file name.
        DatasetError: If the target is unusable.
    """
    target = resolve_dataset_name(request.target, workspace)
    given = request.source if isinstance(request.source, GivenPlans) else _plans_of(request, workspace)
    plans = given.plans
    source, source_plans = plans.dataset_name, plans.plans_name
    target_plans = request.target_plans or source_plans
    if Path(target_plans).name != target_plans:
        raise UsageError("The plans name is not usable.", found=repr(target_plans), expected="a name without folder")
    description = DatasetDescription.load(workspace.raw / target / DATASET_FILE)
    moved = replace(
        plans,
        dataset_name=target,
        plans_name=target_plans,
        image_reader_writer=reader_writer_name(workspace.raw / target, description, allow_nonmatching=True),
        configurations={
            name: _renamed(entries, source_plans, target_plans) for name, entries in plans.configurations.items()
        },
    )
    folder = workspace.preprocessed / target
    if request.fit:
        moved = _fitted(moved, given, description, folder)
    account = review(source_plans, plans, moved, description, workspace)
    channels = _num_channels(moved)
    if channels is not None and channels != description.num_channels and not request.force:
        raise PlansError(
            f"The plans {source_plans} of {source} do not fit {target}: different numbers of channels.",
            found=f"{description.num_channels} ({', '.join(description.channel_names)}) in {target}",
            expected=f"{channels}, as in {source}",
            remedy="preprocessing with them would fail. Make a dataset with the same channels; or add --fit, which "
            "gives each channel a normalisation (weights can then be transferred with -transfer adapt); or copy them "
            "anyhow with --force and correct normalization_schemes and use_mask_for_norm in the copy",
        )
    if not (folder / DATASET_FILE).exists():
        copy_file(workspace.raw / target / DATASET_FILE, folder / DATASET_FILE)
    path = folder / f"{target_plans}.json"
    moved.save(path)
    get_logger().info(describe_move(account))
    return path


def _plans_of(request: MovePlansRequest, workspace: Workspace) -> GivenPlans:
    """The plans in the folder of a dataset."""
    assert not isinstance(request.source, GivenPlans)
    source = resolve_dataset_name(request.source, workspace)
    if request.source_plans is None:
        raise UsageError(f"It is not said which plans of {source} are to be moved.", remedy="give their name with -sp")
    file = workspace.preprocessed / source / f"{request.source_plans}.json"
    # The file may come from elsewhere, and have been renamed
    plans = replace(Plans.load(file), dataset_name=source, plans_name=request.source_plans)
    return GivenPlans(plans=plans, channel_names=_channel_names(source, workspace) or None)


def _fitted(moved: Plans, given: GivenPlans, description: DatasetDescription, folder: Path) -> Plans:
    count = _num_channels(given.plans)
    if count is None:
        return moved
    origins = channel_origins(given.channel_names, count, description.channel_names)
    if origins != tuple(range(count)):
        moved = fit_channels(moved, origins, description, Fingerprint.load(folder / FINGERPRINT_FILE))
    return share_data(moved, folder, description)


def _renamed(entries: Mapping[str, Any], old: str, new: str) -> Mapping[str, Any]:
    """Entries of a configuration with the data folder's name adapted to a new plans identifier."""
    identifier = entries.get("data_identifier")
    if old == new or not isinstance(identifier, str):
        return entries
    renamed = new + identifier[len(old) :] if identifier.startswith(old) else f"{new}_{identifier}"
    return {**entries, "data_identifier": renamed}


def review(
    source_plans: str, plans: Plans, moved: Plans, description: DatasetDescription, workspace: Workspace
) -> MoveAccount:
    """Compare plans with the dataset that is to follow them.

    Args:
        source_plans: Identifier of the plans.
        plans: The plans of the source dataset.
        moved: The plans as the target will receive them.
        description: The target's dataset.json.
        workspace: Where the target's fingerprint and the source's dataset.json are, if they are.
    """
    target, unknown = moved.dataset_name, []
    harms = [*_channel_harms(plans, moved, description, workspace)]
    try:
        fingerprint = Fingerprint.load(workspace.preprocessed / target / FINGERPRINT_FILE)
    except NnunetError as error:
        unknown.append(f"Spacing, and masks of the normalisation: {error.problem}")
        fingerprint = None
    configurations = _usable_configurations(moved)
    for configuration in configurations:
        harms += _normalization_harms(configuration, description, fingerprint)
    if fingerprint is not None:
        harms += _spacing_harms(configurations, moved, fingerprint)
    schemes = {s for c in configurations for s in enumerate(c.normalization_schemes)}
    ct = sorted(str(channel) for channel, scheme in schemes if scheme == "CTNormalization")
    statistics = moved.foreground_intensity_properties_per_channel
    return MoveAccount(
        source=plans.dataset_name,
        source_plans=source_plans,
        plans=moved,
        ct_channels={
            c: f"clip to {p.percentile_00_5:g} .. {p.percentile_99_5:g}, mean {p.mean:g}, standard deviation {p.std:g}"
            for c, p in statistics.items()
            if c in ct
        },
        harms=tuple(dict.fromkeys(harms)),  # configurations often share them
        unknown=tuple(unknown),
    )


def describe_move(account: MoveAccount) -> str:
    """The account as text for the terminal."""
    plans = account.plans
    lines = [
        f"The plans {account.source_plans} of {account.source} are now {plans.plans_name} of {plans.dataset_name}.",
        "",
        "What travels with them: patch and batch size, spacing, network topology, normalisation, resampling",
        plan_summary(plans),
    ]
    if account.ct_channels:
        lines += [f"CT statistics of {account.source}, used for {plans.dataset_name} too:"]
        lines += [f"  channel {channel}: {text}" for channel, text in account.ct_channels.items()]
    lines += ["", "What will hurt:" if account.harms else "Nothing was found that will hurt."]
    lines += [f"  - {harm}" for harm in account.harms]
    if account.unknown:
        lines += ["What could not be compared:", *(f"  - {text}" for text in account.unknown)]
    return "\n".join(lines)


def _usable_configurations(plans: Plans) -> list[Configuration]:
    usable = []
    for name in plans.configuration_names:
        try:
            usable.append(plans.configuration(name))
        except NnunetError:
            continue  # the table says what is wrong with it
    return usable


def _num_channels(plans: Plans) -> int | None:
    """Number of channels that plans are made for."""
    counts = {len(c.normalization_schemes) for c in _usable_configurations(plans)}
    return max(counts) if counts else None


def _channel_harms(plans: Plans, moved: Plans, description: DatasetDescription, workspace: Workspace) -> list[str]:
    target, channels = moved.dataset_name, _num_channels(moved)
    harms = []
    if channels is not None and channels != description.num_channels:
        harms.append(
            f"The plans are made for {counted(channels, 'channel')}, but {target} has {description.num_channels}."
        )
    names = _channel_names(plans.dataset_name, workspace)
    for i, (theirs, ours) in enumerate(zip(names, description.channel_names, strict=False)):
        if theirs.casefold() != ours.casefold():
            harms.append(f"Channel {i} is {theirs!r} in {plans.dataset_name}, but {ours!r} in {target}.")
    return harms


def _channel_names(dataset: str, workspace: Workspace) -> tuple[str, ...]:
    """Channel names of the dataset the plans come from, if its dataset.json can still be read."""
    folders = [workspace.preprocessed / dataset]
    if workspace.settings.raw is not None:
        folders.append(workspace.settings.raw / dataset)
    for folder in folders:
        try:
            return DatasetDescription.load(folder / DATASET_FILE).channel_names
        except NnunetError:
            continue
    return ()


def _normalization_harms(
    configuration: Configuration, description: DatasetDescription, fingerprint: Fingerprint | None
) -> list[str]:
    """Where the plans normalise a channel differently than plans made for the dataset itself would."""
    harms = []
    channels = zip(
        configuration.normalization_schemes, configuration.use_mask_for_norm, description.channel_names, strict=False
    )
    for i, (scheme, masked, channel) in enumerate(channels):
        own = scheme_for_channel(channel)
        if scheme != own:
            harms.append(f"Channel {i} ({channel}) will be normalised with {scheme}; for its name it would be {own}.")
        elif fingerprint is not None:
            mostly_empty = fingerprint.median_relative_size_after_cropping < MASK_IF_CROPPED_TO_LESS
            if masked != (mostly_empty and uses_mask(own)):
                extent = "only inside the nonzero region" if masked else "over the whole image"
                harms.append(f"Channel {i} ({channel}) will be normalised {extent}; by itself it would not be.")
    return harms


def _spacing_harms(configurations: Sequence[Configuration], moved: Plans, fingerprint: Fingerprint) -> list[str]:
    """Configurations in which an axis is resampled by more than a factor of two."""
    from numpy import median

    median_spacing = median(fingerprint.spacings, axis=0)[list(moved.transpose_forward)].tolist()
    concerned: dict[tuple[float | None, ...], list[str]] = {}
    for configuration in configurations:
        concerned.setdefault(configuration.spacing, []).append(configuration.name)
    harms = []
    for spacing, names in concerned.items():
        own = median_spacing[-len(spacing) :]
        factor = max((max(a / b, b / a) for a, b in zip(spacing, own, strict=True) if a is not None), default=1.0)
        if factor > MAX_SPACING_FACTOR:
            harms.append(
                f"{', '.join(names)}: spacing {sizes(spacing)} mm, but the median of {moved.dataset_name} is "
                f"{sizes(own)} mm: up to a factor of {factor:.2g} apart, so objects look larger, smaller or blurred."
            )
    return harms
