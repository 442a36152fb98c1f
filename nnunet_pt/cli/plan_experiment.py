"""``nnUNetv2_plan_experiment``: turn a fingerprint into plans."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.planning.planner import PlanRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_plan_experiment",
        "Choose spacing, patch and batch size, normalisation and network topology from the fingerprints of datasets "
        "and write nnUNet_preprocessed/DATASET/PLANS_NAME.json: the second step of nnUNetv2_plan_and_preprocess.",
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


def execute(args: Namespace) -> Outcome:
    """Make the plans."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.planning.plan_and_preprocess import plan_and_show

    workspace = Workspace.from_environment()
    arguments.check_datasets(args.d, workspace)
    return Outcome.of(plan_and_show(requests(args), workspace))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv, ignore_unknown=True)


if __name__ == "__main__":
    raise SystemExit(main())
