"""Plans as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.core.console import table

if TYPE_CHECKING:
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.plans.plans import Plans

DEFAULT_PLANNER = "ExperimentPlanner"


def describe_plans(plans: Plans, *, complete: bool) -> str:
    """The choices a user looks at first; with ``complete`` the whole file too."""
    rows = []
    for name in plans.configuration_names:
        c = plans.configuration(name)
        network = c.architecture.network_class_name.rpartition(".")[2]
        stages = c.architecture.arch_kwargs.get("n_stages", "?")
        rows.append(
            (
                name,
                _sizes(c.patch_size),
                str(c.batch_size),
                _sizes(c.spacing),
                _sizes(c.median_image_size_in_voxels),
                " ".join(dict.fromkeys(c.normalization_schemes)),
                f"{network}, {stages} stages",
            )
        )
    header = ("configuration", "patch (voxels)", "batch", "spacing (mm)", "median shape", "normalisation", "network")
    text = f"{plans.plans_name} for {plans.dataset_name}\n{table(rows, header)}"
    if plans.experiment_planner_used == DEFAULT_PLANNER:
        text += (
            "\nHint: -pl nnUNetPlannerResEncM, ...L or ...XL plan residual encoders, which usually segment better "
            "(for GPUs with about 8, 24 or 40 GB)."
        )
    if complete:
        from nnunet_pt.core.files import json_text

        text += f"\n{json_text(plans.to_json())}"
    return text


def plans_summary(plans: Plans, workspace: Workspace) -> str:
    """What was written and where, in one line."""
    path = workspace.preprocessed / plans.dataset_name / f"{plans.plans_name}.json"
    return f"{plans.dataset_name}: plans for {', '.join(plans.configuration_names)} -> {path}"


def _sizes(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
