"""``nnUNetv2_accumulate_crossval_results``: the validation of all folds in one folder."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.evaluation.crossval_request import CrossvalRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_accumulate_crossval_results",
        "Copy the validation predictions of all folds of a model into one folder and evaluate them together. "
        "nnUNetv2_find_best_configuration does it by itself.",
        """
        nnUNetv2_accumulate_crossval_results 4 -c 3d_fullres
        nnUNetv2_accumulate_crossval_results 4 -c 2d -f 0 1 2 -o /data/crossval_2d
        """,
    )
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument(
        "dataset_name_or_id", metavar="DATASET", type=arguments.dataset_reference, help=arguments.DATASET_HELP
    )
    required.add_argument(
        "-c",
        metavar="NAME",
        required=True,
        help="configuration of the model: 2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres",
    )
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "-o",
        metavar="FOLDER",
        type=Path,
        help="output folder, which must be empty (default: crossval_results_folds_0_1_2_3_4 in the model's folder, "
        "which is replaced)",
    )
    add_folds(parser)
    subject = arguments.group(parser, arguments.SUBJECT)
    subject.add_argument("-p", metavar="NAME", default="nnUNetPlans", help="plans of the model (default: %(default)s)")
    subject.add_argument(
        "-tr", metavar="NAME", default="nnUNetTrainer", help="trainer of the model (default: %(default)s)"
    )
    arguments.add_processes(parser)
    arguments.add_output(parser)
    return parser


def add_folds(parser: ArgumentParser) -> None:
    """``-f``: the folds of a cross-validation."""
    arguments.group(parser, arguments.SUBJECT).add_argument(
        "-f",
        metavar="FOLD",
        type=fold,
        nargs="+",
        default=[0, 1, 2, 3, 4],
        help="folds, which must be trained and validated (default: 0 1 2 3 4)",
    )


def fold(text: str) -> int:
    """The number of a fold."""
    if text == "all":
        raise ArgumentTypeError("fold all was trained on all cases: it cannot be part of a cross-validation")
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not the number of a fold")
    return int(text)


def request(args: Namespace) -> CrossvalRequest:
    """What the arguments ask for."""
    from nnunet_pt.evaluation.crossval_request import CrossvalRequest

    return CrossvalRequest(
        dataset=args.dataset_name_or_id,
        configuration=args.c,
        trainer=args.tr,
        plans_name=args.p,
        folds=tuple(args.f),
        output=args.o,
        num_processes=args.np,
        progress=not args.no_pbar,
    )


def execute(args: Namespace) -> Outcome:
    """Accumulate and evaluate."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.evaluation.crossval_request import accumulate_crossval

    return Outcome.of([accumulate_crossval(request(args), Workspace.from_environment())])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
