"""Plans as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_pt.core.console import table
from nnunet_pt.core.errors import NnunetError
from nnunet_pt.core.wording import counted
from nnunet_pt.networks.memory import feature_map_size
from nnunet_pt.planning.presets import EXPERIMENT_PLANNER, PLANNERS, REFERENCE_BATCH_SIZE, RESIDUAL_L
from nnunet_pt.plans.plans import Configuration, Plans

HEADER = (
    "configuration",
    "patch",
    "batch",
    "spacing (mm)",
    "median shape",
    "network",
    "pooling",
    "GPU",
    "normalisation",
)


def plan_summary(plans: Plans, *, num_outputs: int = 2) -> str:
    """What plans say, one line for each configuration.

    Args:
        plans: The plans.
        num_outputs: Output channels of the network; matters for the estimated memory if there are very many.
    """
    rows = [_row(plans, name, num_outputs) for name in plans.configuration_names]
    title = (
        f"{plans.plans_name} for {plans.dataset_name} ({plans.experiment_planner_used}, {plans.image_reader_writer})"
    )
    lines = [title, table(rows, HEADER)]
    if plans.transpose_forward != (0, 1, 2):
        lines.append(f"Image axes are reordered to {', '.join(map(str, plans.transpose_forward))} first.")
    return "\n".join(lines)


def _row(plans: Plans, name: str, num_outputs: int) -> tuple[str, ...]:
    try:
        configuration = plans.configuration(name)
    except NnunetError as error:
        return (name, "not usable:", str(error.found or error.problem).splitlines()[0], *[""] * (len(HEADER) - 3))
    memory = estimated_memory_gb(plans, configuration, num_outputs)
    number = configuration.architecture.arch_kwargs.get("n_stages")
    masks = configuration.use_mask_for_norm
    schemes = [f"{s} (masked)" if m else s for s, m in zip(configuration.normalization_schemes, masks, strict=True)]
    return (
        name,
        sizes(configuration.patch_size),
        str(configuration.batch_size),
        sizes(configuration.spacing),
        sizes(configuration.median_image_size_in_voxels),
        f"{configuration.architecture.short_name}, {counted(number, 'stage') if number else '? stages'}",
        _pooling(configuration),
        "?" if memory is None else "< 0.1 GB" if memory < 0.1 else f"{memory:.1f} GB",
        _repeated(schemes),
    )


def estimated_memory_gb(plans: Plans, configuration: Configuration, num_outputs: int) -> float | None:
    """GPU memory that training needs, by nnU-Net's rule of proportion.

    The planner's reference: a feature map of that size, at that batch size, fills that many GB. It is a rule of thumb
    for 32-bit accumulation with mixed precision, made on the GPUs of nnU-Net's authors.

    Returns:
        ``None`` for networks whose size is not known.
    """
    dimensions = len(configuration.patch_size)
    residual = configuration.architecture.short_name == "ResidualEncoderUNet"
    preset = RESIDUAL_L if residual else EXPERIMENT_PLANNER
    planner = plans.experiment_planner_used
    if planner in PLANNERS and PLANNERS[planner].network == configuration.architecture.short_name:
        preset = PLANNERS[planner]
    try:
        size = feature_map_size(configuration.architecture, configuration.patch_size, num_outputs)
    except NnunetError:
        return None
    share = size / preset.reference_size[dimensions] * configuration.batch_size / REFERENCE_BATCH_SIZE[dimensions]
    return share * preset.gpu_memory_gb


def sizes(values: Sequence[float | None]) -> str:
    """Numbers of the axes, e.g. ``40 x 56 x 40``; "own" for those that each case has its own of."""
    return " x ".join("own" if value is None else f"{value:.4g}" for value in values)


def _pooling(configuration: Configuration) -> str:
    """How often each axis is halved."""
    strides = configuration.architecture.arch_kwargs.get("strides")
    if not isinstance(strides, (list, tuple)) or not all(isinstance(s, (list, tuple)) for s in strides):
        return "?"
    return " ".join(str(sum(s > 1 for s in axis)) for axis in zip(*strides, strict=False))


def _repeated(names: Sequence[str]) -> str:
    """Names of the channels' normalisations, once if they are all the same."""
    distinct = list(dict.fromkeys(names))
    return f"{distinct[0]} (all {len(names)})" if len(distinct) == 1 and len(names) > 1 else ", ".join(names)
