"""``nnUNetv2_plan_and_preprocess``: fingerprint, plans and preprocessing in one go."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import extract_fingerprint, plan_experiment, preprocess
from nnunet_pt.cli._run import Outcome, run


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_plan_and_preprocess",
        "Extract the fingerprint, plan the experiment and preprocess the data of one or several datasets. Started "
        "again after an interruption, it goes on where it stopped.",
        """
        nnUNetv2_plan_and_preprocess -d 4 --verify_dataset_integrity
        nnUNetv2_plan_and_preprocess -d 4 15 16 -c 3d_fullres -np 4
        nnUNetv2_plan_and_preprocess -d 15 -pl nnUNetPlannerResEncL --no_pp
        """,
    )
    arguments.add_datasets(parser)
    arguments.add_extractor(parser)
    arguments.add_processes(parser, "-npfp")
    parser.add_argument("--no_pp", action="store_true", help="stop after planning; no preprocessing")
    parser.add_argument(
        "--clean",
        action="store_true",
        help="start over: measure again and delete preprocessed cases; without it, whatever is still valid is kept",
    )
    arguments.add_planner(parser)
    arguments.add_configurations(parser)
    arguments.add_memory(parser)
    arguments.add_output(parser)
    return parser


def execute(args: Namespace) -> Outcome:
    """Run the three steps, each for all datasets."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.planning.presets import PLANNERS

    arguments.processes(args.np, args.c)  # complain now, not after the first steps
    arguments.target_spacing(args.overwrite_target_spacing)
    PLANNERS[args.pl]
    workspace = Workspace.from_environment()
    outcome = extract_fingerprint.execute(Namespace(**{**vars(args), "np": args.npfp}))
    if outcome.failures:  # planning needs all cases
        return outcome
    plans = plan_experiment.plan(args, workspace)
    outcome += plan_experiment.outcome(plans, workspace)
    if args.no_pp:
        return outcome
    plans_name = plans[-1].plans_name  # as in nnU-Net, the last one is followed for all
    return outcome + preprocess.execute(Namespace(**{**vars(args), "plans_name": plans_name, "verify": False}))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)
