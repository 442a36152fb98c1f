"""``nnUNetv2_evaluate_folder``: compare predictions with annotations."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _evaluation_arguments as evaluation
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.evaluation.requests import EvaluateRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_evaluate_folder",
        "Compare a folder of predictions with annotations, class by class as dataset.json defines them, and write "
        "summary.json.",
        """
        nnUNetv2_evaluate_folder labelsTs predictions -djfile predictions/dataset.json -pfile predictions/plans.json
        nnUNetv2_evaluate_folder labelsTs out -djfile dataset.json -pfile plans.json -nsd_tolerance_mm 1 2
        """,
    )
    evaluation.add_folders(parser)
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument(
        "-djfile",
        metavar="FILE",
        type=Path,
        required=True,
        help="dataset.json, which says what the labels are; nnUNetv2_predict puts one into the folder of predictions",
    )
    required.add_argument(
        "-pfile",
        metavar="FILE",
        type=Path,
        required=True,
        help="plans.json, which says how the files are read; it is there, too",
    )
    evaluation.add_evaluation(parser)
    return parser


def request(args: Namespace) -> EvaluateRequest:
    """What the arguments ask for."""
    from nnunet_pt.evaluation.requests import dataset_settings

    settings, names = dataset_settings(
        args.djfile, args.pfile, args.gt_folder, nsd_tolerances_mm=evaluation.tolerances(args)
    )
    return evaluation.make_request(args, settings, names)


def execute(args: Namespace) -> Outcome:
    """Compare the folders."""
    return evaluation.execute(args, request(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
