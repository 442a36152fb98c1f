"""``nnUNetv2_plan_experiment``: turn a fingerprint into plans."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.planning.planner import PlanRequest
    from nnunet_pt.plans.plans import Plans

DEFAULT_PLANS = "nnUNetPlans"
RESIDUAL_HINT = (
    "Hint: the planners nnUNetPlannerResEncM, ...L and ...XL plan networks with a residual encoder for GPUs with about "
    "8, 24 and 40 GB, which usually segment better."
)


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_plan_experiment",
        "Choose spacing, patch and batch size, normalisation and network topology from a dataset's fingerprint and "
        "write nnUNet_preprocessed/DATASET/PLANS_NAME.json.",
        """
        nnUNetv2_plan_experiment -d 4
        nnUNetv2_plan_experiment -d 15 -pl nnUNetPlannerResEncL
        nnUNetv2_plan_experiment -d 20 -overwrite_target_spacing 1.5 1.5 1.5 -overwrite_plans_name isoPlans
        """,
    )
    arguments.add_datasets(parser)
    arguments.add_planner(parser)
    arguments.add_output(parser, progress=False)
    return parser


def requests(args: Namespace) -> tuple[PlanRequest, ...]:
    """What the arguments ask for, one request for each dataset."""
    from nnunet_pt.planning.planner import PlanRequest

    return tuple(
        PlanRequest(
            dataset=dataset,
            planner=args.pl,
            gpu_memory_target_gb=args.gpu_memory_target,
            preprocessor_name=args.preprocessor_name,
            overwrite_target_spacing=arguments.target_spacing(args.overwrite_target_spacing),
            plans_name=args.overwrite_plans_name,
        )
        for dataset in args.d
    )


def plan(args: Namespace, workspace: Workspace) -> tuple[Plans, ...]:
    """Make the plans of all datasets and print them."""
    from nnunet_pt.core.console import get_logger
    from nnunet_pt.core.files import json_text
    from nnunet_pt.planning.planner import plan_experiment
    from nnunet_pt.planning.summary import plan_summary

    arguments.check_datasets(args.d, workspace)
    made = []
    for request in requests(args):
        plans = plan_experiment(request, workspace)
        made.append(plans)
        get_logger().info(plan_summary(plans))
        get_logger().debug(json_text(plans.to_json()))
    if any(plans.plans_name == DEFAULT_PLANS for plans in made):
        get_logger().info(RESIDUAL_HINT)
    return tuple(made)


def outcome(made: Sequence[Plans], workspace: Workspace) -> Outcome:
    """Which plans were written where."""
    return Outcome(
        summaries=tuple(
            f"{plans.dataset_name}: plans for {', '.join(plans.configuration_names)} -> "
            f"{workspace.preprocessed / plans.dataset_name / plans.plans_name}.json"
            for plans in made
        )
    )


def execute(args: Namespace) -> Outcome:
    """Make the plans."""
    from nnunet_pt.core.settings import Workspace

    workspace = Workspace.from_environment()
    return outcome(plan(args, workspace), workspace)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv, ignore_unknown=True)
