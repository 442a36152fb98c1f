"""``nnUNetv2_determine_postprocessing``: find out which small components to remove."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.evaluation.postprocessing_requests import FindPostprocessingRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_determine_postprocessing",
        "Find out whether removing all but the largest component of the foreground, of a label or of a region improves "
        "segmentations. Writes postprocessing.pkl and postprocessing.json into the folder of the segmentations, and "
        "the improved segmentations into postprocessed in it.",
        """
        nnUNetv2_determine_postprocessing -i crossval_results_folds_0_1_2_3_4 -ref labelsTr
        nnUNetv2_determine_postprocessing -i out -ref labelsTr -plans_json plans.json -dataset_json dataset.json
        """,
    )
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument("-i", metavar="FOLDER", type=Path, required=True, help="folder of segmentations")
    required.add_argument(
        "-ref", metavar="FOLDER", type=Path, required=True, help="folder of annotations with the same file names"
    )
    add_descriptions(parser)
    arguments.add_processes(parser)
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "--remove_postprocessed", action="store_true", help="do not keep the postprocessed segmentations"
    )
    arguments.add_output(parser)
    return parser


def add_descriptions(parser: ArgumentParser) -> None:
    """``-plans_json`` and ``-dataset_json``."""
    for name, says in (("plans", "how the files are read"), ("dataset", "what the labels are")):
        arguments.group(parser, arguments.METHOD).add_argument(
            f"-{name}_json",
            metavar="FILE",
            type=Path,
            help=f"file that says {says} (default: {name}.json in the input folder)",
        )


def request(args: Namespace) -> FindPostprocessingRequest:
    """What the arguments ask for."""
    from nnunet_pt.evaluation.postprocessing_requests import FindPostprocessingRequest

    return FindPostprocessingRequest(
        segmentations=args.i,
        references=args.ref,
        plans_json=args.plans_json,
        dataset_json=args.dataset_json,
        keep_files=not args.remove_postprocessed,
        num_processes=args.np,
        progress=not args.no_pbar,
    )


def execute(args: Namespace) -> Outcome:
    """Determine the postprocessing."""
    from nnunet_pt.evaluation.postprocessing_requests import find_postprocessing

    return Outcome.of([find_postprocessing(request(args))])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
