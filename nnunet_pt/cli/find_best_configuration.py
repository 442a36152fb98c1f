"""``nnUNetv2_find_best_configuration``: choose a model or an ensemble by its cross-validation."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.cli.accumulate_crossval_results import add_folds

if TYPE_CHECKING:
    from nnunet_pt.evaluation.best_configuration import SelectionRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_find_best_configuration",
        "Compare the trained models of a dataset, and the ensembles of two of them, by their cross-validation; find "
        "the postprocessing for the best one; say which commands to predict with. Ensembles need probabilities: train "
        "or validate with --npz.",
        """
        nnUNetv2_find_best_configuration 4 -c 2d 3d_fullres
        nnUNetv2_find_best_configuration 4 -c 2d 3d_fullres --disable_ensembling
        nnUNetv2_find_best_configuration 4 -c 3d_fullres -tr nnUNetTrainer nnUNetTrainerDA5 -f 0 1 2
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "dataset_name_or_id", metavar="DATASET", type=arguments.dataset_reference, help=arguments.DATASET_HELP
    )
    subject = arguments.group(parser, arguments.SUBJECT)
    method = arguments.group(parser, arguments.METHOD)
    subject.add_argument(
        "-p", metavar="NAME", nargs="+", default=["nnUNetPlans"], help="plans to compare (default: nnUNetPlans)"
    )
    subject.add_argument(
        "-c",
        metavar="NAME",
        nargs="+",
        default=[*arguments.CONFIGURATIONS, "3d_cascade_fullres"],
        help="configurations to compare (default: 2d 3d_fullres 3d_lowres 3d_cascade_fullres); those the plans do not "
        "have are skipped",
    )
    subject.add_argument(
        "-tr", metavar="NAME", nargs="+", default=["nnUNetTrainer"], help="trainers to compare (default: nnUNetTrainer)"
    )
    arguments.add_processes(parser)
    add_folds(parser)
    method.add_argument("--disable_ensembling", action="store_true", help="compare single models only")
    method.add_argument(
        "--no_overwrite",
        action="store_true",
        help="keep what an earlier run accumulated and ensembled, even if models were validated again since",
    )
    arguments.add_output(parser)
    return parser


def request(args: Namespace) -> SelectionRequest:
    """What the arguments ask for."""
    from nnunet_pt.core.resources import default_num_processes
    from nnunet_pt.evaluation.best_configuration import SelectionRequest

    return SelectionRequest(
        dataset=args.dataset_name_or_id,
        configurations=tuple(args.c),
        trainers=tuple(args.tr),
        plans_names=tuple(args.p),
        folds=tuple(args.f),
        ensembling=not args.disable_ensembling,
        overwrite=not args.no_overwrite,
        num_processes=args.np or default_num_processes(8),
        progress=not args.no_pbar,
    )


def execute(args: Namespace) -> Outcome:
    """Choose the best."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.evaluation.best_configuration import find_best_configuration

    selection = find_best_configuration(request(args), Workspace.from_environment())
    return Outcome.of([selection])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
