"""``nnUNetv2_preprocess``: make the arrays the network is trained on."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _case_executor as case_executor
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.preprocessing.pipeline import PreprocessRequest, PreprocessResult

CONFIGURATIONS = (*arguments.CONFIGURATIONS, "3d_cascade_fullres")


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_preprocess",
        "Crop, normalise and resample all cases as the plans say and write them to nnUNet_preprocessed/DATASET: the "
        "last step of nnUNetv2_plan_and_preprocess. Started again after an interruption, it redoes only what is "
        "missing or out of date.",
        """
        nnUNetv2_preprocess -d 4 -c 3d_fullres
        nnUNetv2_preprocess -d 15 -plans_name pretrainPlans -c 2d 3d_fullres -np 8 4 --max_ram_gb 24
        nnUNetv2_preprocess -d 15 --verify
        nnUNetv2_preprocess -d 15 -c 3d_fullres -num_parts 4 -part_id 0
        nnUNetv2_preprocess -d 15 -c 3d_fullres --dask tcp://host:8786
        """,
    )
    arguments.add_datasets(parser)
    arguments.group(parser, arguments.SUBJECT).add_argument(
        "-plans_name",
        "-p",
        metavar="NAME",
        default="nnUNetPlans",
        help="plans to follow, NAME.json in the dataset's folder (default: %(default)s)",
    )
    arguments.add_configurations(parser)
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument("--clean", action="store_true", help="delete what is there and start over")
    method.add_argument(
        "--verify",
        action="store_true",
        help="read every preprocessed case, and rebuild those that are damaged on disk",
    )
    arguments.add_parts(parser)
    arguments.add_memory(parser)
    case_executor.add_dask(parser)
    arguments.add_output(parser)
    return parser


def requests(args: Namespace) -> tuple[PreprocessRequest, ...]:
    """What the arguments ask for, one request for each dataset."""
    from nnunet_pt.preprocessing.pipeline import PreprocessRequest

    return tuple(
        PreprocessRequest(
            dataset=dataset,
            plans_name=args.plans_name,
            configurations=tuple(args.c),
            num_processes=arguments.processes(args.np, args.c),
            clean=args.clean,
            verify=args.verify,
            max_ram_gb=args.max_ram_gb,
            progress=not args.no_pbar,
            on_failure="continue" if args.continue_on_error else "stop",
            num_parts=args.num_parts,
            part_id=args.part_id,
        )
        for dataset in args.d
    )


def execute(args: Namespace) -> Outcome:
    """Preprocess the datasets."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.preprocessing.pipeline import preprocess_dataset

    workspace = case_executor.absolute(Workspace.from_environment())
    arguments.check_datasets(args.d, workspace)
    with case_executor.dataset_executor(args, workspace) as executor:
        results = [preprocess_dataset(replace(r, executor=executor), workspace) for r in requests(args)]
    point_out_typing_errors(results)
    return Outcome.of(results)


def point_out_typing_errors(results: Sequence[PreprocessResult]) -> None:
    """Say which configurations may have been meant by those that were skipped."""
    from nnunet_pt.core.console import get_logger

    for name in dict.fromkeys(name for result in results for name in result.skipped):
        similar = difflib.get_close_matches(name, CONFIGURATIONS, 1, 0.8)
        if similar and similar[0] != name:
            get_logger().warning(f"There was no configuration {name}; did you mean {similar[0]}?")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv, ignore_unknown=True)


if __name__ == "__main__":
    raise SystemExit(main())
