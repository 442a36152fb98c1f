"""``nnUNetv2_ensemble``: average the probabilities of several models."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.core.wording import counted


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_ensemble",
        "Average the probabilities of several models and write the segmentations. The folders must hold the .npz files "
        "of the same cases (nnUNetv2_predict --save_probabilities).",
        """
        nnUNetv2_ensemble -i out_2d out_3d -o out_ensemble
        nnUNetv2_ensemble -i out_a out_b out_c -o out_ensemble -np 4 --save_npz
        """,
    )
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument(
        "-i", metavar="FOLDER", type=Path, nargs="+", required=True, help="folders of predictions with probabilities"
    )
    required.add_argument(
        "-o", metavar="FOLDER", type=Path, required=True, help="output folder; it is made if necessary"
    )
    arguments.add_processes(parser)
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "--save_npz", action="store_true", help="write the averaged probabilities, too"
    )
    arguments.add_output(parser)
    return parser


def execute(args: Namespace) -> Outcome:
    """Ensemble the folders."""
    from nnunet_pt.core.resources import default_num_processes
    from nnunet_pt.evaluation.ensemble import ensemble_folders

    result = ensemble_folders(
        args.i,
        args.o,
        save_probabilities=args.save_npz,
        num_processes=args.np or default_num_processes(8),
        on_failure="continue",
        progress=not args.no_pbar,
    )
    text = f"ensembles of {len(args.i)} predictions for {counted(len(result.results), 'case')}. Written: {args.o}"
    return Outcome(
        summaries=(text,),
        failures=tuple(failure.case for failure in result.failures),
        results=({"folder": args.o, "cases": sorted(result.results)},),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
