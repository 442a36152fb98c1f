"""``nnUNetv2_plan_and_preprocess``: fingerprint, plans and preprocessing in one go."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _case_executor as case_executor
from nnunet_pt.cli._facts import facts_of
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.cli.preprocess import point_out_typing_errors

if TYPE_CHECKING:
    from nnunet_pt.planning.plan_and_preprocess import PlanAndPreprocessRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_plan_and_preprocess",
        "Get datasets of nnUNet_raw ready for training: measure them (fingerprint), decide how to train (plans), and "
        "preprocess the data. Started again after an interruption, it goes on where it stopped.",
        """
        nnUNetv2_plan_and_preprocess -d 4 --verify_dataset_integrity
        nnUNetv2_plan_and_preprocess -d 4 15 16 -c 3d_fullres -np 4
        nnUNetv2_plan_and_preprocess -d 15 -pl nnUNetPlannerResEncL --no_pp
        """,
    )
    arguments.add_datasets(parser)
    arguments.add_extractor(parser)
    arguments.add_processes(parser, "-npfp", "worker processes that measure")
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument("--no_pp", action="store_true", help="stop after planning; no preprocessing")
    method.add_argument(
        "--clean",
        action="store_true",
        help="start over: measure again and delete preprocessed cases; without it, whatever is still valid is kept",
    )
    arguments.add_planner(parser)
    arguments.add_configurations(parser)
    arguments.add_memory(parser)
    case_executor.add_dask(parser)
    arguments.add_output(parser)
    return parser


def request(args: Namespace) -> PlanAndPreprocessRequest:
    """What the arguments ask for."""
    from nnunet_pt.planning.plan_and_preprocess import PlanAndPreprocessRequest

    return PlanAndPreprocessRequest(
        datasets=tuple(args.d),
        extractor=args.fpe,
        planner=args.pl,
        gpu_memory_target_gb=args.gpu_memory_target,
        preprocessor_name=args.preprocessor_name,
        overwrite_target_spacing=arguments.target_spacing(args.overwrite_target_spacing),
        plans_name=args.overwrite_plans_name,
        preprocess=not args.no_pp,
        configurations=tuple(args.c),
        num_fingerprint_processes=args.npfp,
        num_processes=arguments.processes(args.np, args.c),
        verify_integrity=args.verify_dataset_integrity,
        clean=args.clean,
        max_ram_gb=args.max_ram_gb,
        progress=not args.no_pbar,
        on_failure="continue" if args.continue_on_error else "stop",
    )


def execute(args: Namespace) -> Outcome:
    """Run the three steps, each for all datasets."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.planning.plan_and_preprocess import plan_and_preprocess

    workspace = case_executor.absolute(Workspace.from_environment())
    asked = request(args)
    with case_executor.dataset_executor(args, workspace) as executor:
        result = plan_and_preprocess(replace(asked, executor=executor), workspace)
    point_out_typing_errors(result.preprocessed)
    return Outcome(
        summaries=result.summaries(),
        failures=tuple(failure.case for failure in result.failures),
        results=(facts_of(result),),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
