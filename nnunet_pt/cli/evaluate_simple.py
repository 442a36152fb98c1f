"""``nnUNetv2_evaluate_simple``: compare segmentations without files of a model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _evaluation_arguments as evaluation
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.evaluation.requests import EvaluateRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_evaluate_simple",
        "Compare a folder of segmentations with annotations, label by label, and write summary.json. Neither "
        "dataset.json nor plans.json is needed; the file format is found out.",
        """
        nnUNetv2_evaluate_simple labelsTs predictions -l 1 2
        nnUNetv2_evaluate_simple labelsTs predictions -l 1 2 3 -il 4 -o evaluation.json --surface
        """,
    )
    evaluation.add_folders(parser)
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "-l",
        metavar="LABEL",
        type=evaluation.label_value,
        nargs="+",
        required=True,
        help="labels to compare: their values in the files, from 0 to 65535",
    )
    arguments.group(parser, arguments.METHOD).add_argument(
        "-il",
        metavar="LABEL",
        type=evaluation.label_value,
        help="ignore label: voxels with this value in the annotation do not count (default: all count)",
    )
    evaluation.add_evaluation(parser)
    return parser


def request(args: Namespace) -> EvaluateRequest:
    """What the arguments ask for."""
    from nnunet_pt.evaluation.requests import label_settings

    settings = label_settings(
        args.l, args.il, args.gt_folder, args.pred_folder, nsd_tolerances_mm=evaluation.tolerances(args)
    )
    return evaluation.make_request(args, settings)


def execute(args: Namespace) -> Outcome:
    """Compare the folders."""
    return evaluation.execute(args, request(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
