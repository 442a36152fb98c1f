"""The plans report: what the planner decided, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.description import FILE_NAME, DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.plans.plans import Configuration, Plans
from nnunet_pt.plans.pretrain_info import citation_lines
from nnunet_pt.report.page import TIMES, Cell, Section, details, facts, page, sizes, svg, table, text, warning
from nnunet_pt.report.plans_drawings import patch_drawing, unet_drawing
from nnunet_pt.report.plans_networks import ASSUMED_OUTPUTS, Planned, network_arguments, planned_network

NORMALISATIONS: Final = {
    "ZScoreNormalization": "each image gets mean 0 and standard deviation 1",
    "CTNormalization": "clipped to the 0.5 and 99.5 percentiles of the dataset, then its mean becomes 0 and its "
    "standard deviation 1",
    "NoNormalization": "as it is",
    "RescaleTo01Normalization": "each image is stretched to 0...1",
    "RGBTo01Normalization": "divided by 255",
}


def plans_report(plans_file: Path) -> str:
    """Configurations, networks, patches, normalisation and pre-training of a plans file as one page.

    The dataset.json beside the file says how many outputs the networks have.

    Args:
        plans_file: The plans.

    Returns:
        A self-contained HTML document; :func:`~nnunet_pt.report.page.write_page` writes it.

    Raises:
        PlansError: If the file is missing or has missing or wrong entries.
        StorageError: If it cannot be read.
    """
    plans = Plans.load(plans_file)
    description = _description(plans_file.parent / FILE_NAME)
    planned: list[Planned] = []
    damaged: dict[str, str] = {}
    for name in plans.configuration_names:
        try:
            planned.append(planned_network(plans, plans.configuration(name), description))
        except NnunetError as error:
            damaged[name] = str(error.found or error.problem)
    sections = [_overview(plans, planned, damaged, description)]
    sections += [_configuration_section(item, description) for item in planned]
    sections.append(_normalisation(plans, planned, description))
    if plans.pretrain_info is not None:
        sections.append(_pretraining(plans))
    subtitle = f"Plans report of nnunet_pt: {plans.plans_name}, made by {plans.experiment_planner_used}"
    return page(plans.dataset_name, subtitle, sections)


def _description(path: Path) -> DatasetDescription | None:
    try:
        return DatasetDescription.load(path)
    except NnunetError:  # the page says that the number of outputs is assumed
        return None


def _overview(
    plans: Plans, planned: Sequence[Planned], damaged: dict[str, str], description: DatasetDescription | None
) -> Section:
    pairs = {
        "Planner": plans.experiment_planner_used,
        "Median shape": sizes(plans.original_median_shape_after_transp),
        "Median spacing (mm)": sizes(plans.original_median_spacing_after_transp, 3),
        "Images read by": plans.image_reader_writer,
    }
    if description is not None:
        pairs["Channels"] = ", ".join(description.channel_names)
        pairs["Outputs"] = str(Labels.from_description(description).num_segmentation_heads)
    body = facts(pairs)
    for name, problem in damaged.items():
        body += warning(f"The configuration {name} cannot be used: {problem}")
    if description is None:
        body += warning(f"There is no usable {FILE_NAME} beside the plans: {ASSUMED_OUTPUTS} outputs are assumed.")
    rows: list[list[Cell]] = [
        [
            p.configuration.name,
            sizes(p.configuration.patch_size),
            p.configuration.batch_size,
            sizes(p.configuration.spacing),
            sizes(p.configuration.median_image_size_in_voxels),
            p.configuration.architecture.short_name,
            None if p.parameters is None else float(f"{p.parameters / 1e6:.3g}"),
            None if p.memory_gb is None else float(f"{p.memory_gb:.2g}"),
        ]
        for p in planned
    ]
    header = (
        "configuration", "patch", "batch", "spacing (mm)", "median image", "network", "parameters (million)",
        "memory (GB)",
    )  # fmt: skip
    body += table(rows, header)
    body += text(
        "GPU memory is nnU-Net's estimate for training with mixed precision: a rule of three from the size of the "
        "feature maps, not a measurement."
    )
    if plans.transpose_forward != (0, 1, 2):
        body += text(f"Image axes are reordered to {', '.join(map(str, plans.transpose_forward))} first.")
    names = plans.configuration_names
    many = "One configuration" if len(names) == 1 else f"{len(names)} configurations"
    return Section("Overview", body, f"{many}: {', '.join(names)}.")


def _configuration_section(planned: Planned, description: DatasetDescription | None) -> Section:
    c = planned.configuration
    pairs = {
        "Patch": sizes(c.patch_size),
        "Batch": counted(c.batch_size, "patch"),
        "Spacing (mm)": sizes(c.spacing, 3),
        "Patch covers": _coverage(planned),
        "Network": c.architecture.short_name,
        "Parameters": _millions(planned.parameters),
        "GPU memory": _gigabytes(planned.memory_gb),
        "Dice of a batch": "as one" if c.batch_dice else "patch by patch",
    }
    body = facts(pairs)
    if planned.problem:
        body += warning(planned.problem)
    if c.previous_stage is not None:
        body += text(f"It gets what {c.previous_stage} predicts as additional input channels, one for each label.")
    body += _network(planned, description)
    patch_mm = [n * s for n, s in zip(c.patch_size, planned.spacing, strict=True)]
    image_mm = [n * s for n, s in zip(c.median_image_size_in_voxels, planned.spacing, strict=True)]
    body += svg(
        patch_drawing(patch_mm, image_mm),
        f"The patch (orange, {sizes(patch_mm)} mm) within the median image ({sizes(image_mm)} mm), to scale.",
    )
    return Section(c.name, body, _in_words(planned))


def _network(planned: Planned, description: DatasetDescription | None) -> str:
    if not planned.stages:
        if planned.problem:
            return ""
        rows: list[list[Cell]] = [[key, str(value)] for key, value in _arguments_shown(planned.configuration)]
        return table(rows, ("argument of the network", "value"), sortable=False)
    names = ", ".join(description.channel_names) if description is not None else ""
    channels = planned.input_channels
    drawing = unet_drawing(
        planned.stages,
        residual=planned.residual,
        input_text=counted(channels, "channel") + (f" ({names})" if 0 < len(names) <= 24 else ""),
        output_text=f"{planned.num_outputs} outputs" if planned.num_outputs > 1 else "1 output",
    )
    body = svg(
        drawing,
        "Encoder (left) and decoder (right); dashed: skip connections. The stronger a colour, the more memory its "
        "feature maps take.",
    )
    total = sum(stage.values for stage in planned.stages)
    stage_rows: list[list[Cell]] = [
        [
            f"{stage.part} {stage.level}" if stage.part != "bottleneck" else stage.part,
            stage.features,
            sizes(stage.size),
            stage.blocks,
            sizes(stage.kernel),
            sizes(stage.stride),
            round(100 * stage.values / total, 1),
        ]
        for stage in planned.stages
    ]
    header = ("stage", "features", "feature map (voxels)", "blocks", "kernel", "stride", "share of memory (%)")
    return body + details("All stages as a table", table(stage_rows, header))


def _arguments_shown(configuration: Configuration) -> list[tuple[str, Any]]:
    return sorted(network_arguments(configuration.architecture).items())


def _in_words(planned: Planned) -> str:
    c = planned.configuration
    covered = all(share >= 1 for share in planned.coverage)
    how = "A patch covers the whole median image" if covered else "A patch covers a part of the median image"
    least = min(c.spacing[-len(c.patch_size) :], key=lambda s: s or 0)
    finest = f", at {least:.3g} mm along the finest axis" if least is not None else ""
    slices = "; slices are segmented one by one" if len(c.patch_size) == 2 else ""
    return f"{how}{finest}{slices}."


def _normalisation(plans: Plans, planned: Sequence[Planned], description: DatasetDescription | None) -> Section:
    names = description.channel_names if description is not None else ()
    rows: list[list[Cell]] = []
    schemes: dict[str, None] = {}
    for index in range(max((len(p.configuration.normalization_schemes) for p in planned), default=0)):
        used = {
            (p.configuration.normalization_schemes[index], p.configuration.use_mask_for_norm[index])
            for p in planned
            if index < len(p.configuration.normalization_schemes)
        }
        schemes |= dict.fromkeys(scheme for scheme, _ in sorted(used))
        s = plans.foreground_intensity_properties_per_channel.get(str(index))
        rows.append(
            [
                names[index] if index < len(names) else f"channel {index}",
                ", ".join(f"{scheme}{' (within the nonzero region)' if mask else ''}" for scheme, mask in sorted(used)),
                *((s.mean, s.std, s.percentile_00_5, s.median, s.percentile_99_5) if s is not None else ()),
            ]
        )
    body = table(rows, ("channel", "normalisation", "mean", "std", "0.5 %", "median", "99.5 %"))
    body += "".join(text(f"{s}: {NORMALISATIONS[s]}.") for s in schemes if s in NORMALISATIONS)
    return Section("Normalisation", body, "Statistics are those of the foreground of the whole dataset.")


def _pretraining(plans: Plans) -> Section:
    info = plans.pretrain_info
    if info is None:
        raise ValueError("these plans do not follow a pre-training")
    pairs = {
        "Pre-training": info.checkpoint_name or "without a name",
        "Input channels": str(info.pt_num_in_channels),
        "Patch of the pre-training": sizes(info.pt_used_patchsize) or "unknown",
        "Recommended patch": sizes(info.pt_recommended_downstream_patchsize) or "none",
    }
    rows: list[list[Cell]] = [
        ["checkpoint", info.checkpoint_path],
        ["SHA-256", info.checkpoint_sha256],
        ["encoder", info.key_to_encoder],
        ["stem", info.key_to_stem],
        ["input projections", ", ".join(info.keys_to_in_proj)],
        ["positional embedding", info.key_to_lpe],
    ]
    body = facts(pairs) + table(rows, ("what", "in the checkpoint"), sortable=False)
    cited = citation_lines(info.citations)
    if cited:
        body += text("Please cite:") + "".join(text(line) for line in cited)
    return Section("Pre-training", body, "These plans follow a pre-trained network, whose weights are transferred.")


def _coverage(planned: Planned) -> str:
    if all(share >= 1 for share in planned.coverage):
        return "the whole image"
    return TIMES.join(f"{share:.0%}" for share in planned.coverage)


def _millions(parameters: int | None) -> str:
    if parameters is None:
        return "unknown"
    return f"{parameters / 1e6:.3g} million" if parameters >= 1e5 else f"{parameters:,}"


def _gigabytes(memory: float | None) -> str:
    if memory is None:
        return "unknown"
    return "< 0.1 GB" if memory < 0.1 else f"about {memory:.1f} GB"
