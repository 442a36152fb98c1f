"""``nnUNetv2_determine_postprocessing``: find out which small components to remove."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run


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
    parser.add_argument("-i", metavar="FOLDER", type=Path, required=True, help="folder of segmentations")
    parser.add_argument("-ref", metavar="FOLDER", type=Path, required=True, help="folder of the annotations")
    add_descriptions(parser)
    arguments.add_processes(parser)
    parser.add_argument(
        "--remove_postprocessed", action="store_true", help="do not keep the postprocessed segmentations"
    )
    arguments.add_output(parser)
    return parser


def add_descriptions(parser: ArgumentParser) -> None:
    """``-plans_json`` and ``-dataset_json``."""
    for name, says in (("plans", "how the files are read"), ("dataset", "what the labels are")):
        parser.add_argument(
            f"-{name}_json", metavar="FILE", type=Path, help=f"says {says} (default: {name}.json in the input folder)"
        )


def execute(args: Namespace) -> Outcome:
    """Determine the postprocessing."""
    from nnunet_pt.core.resources import default_num_processes
    from nnunet_pt.dataset.description import DatasetDescription
    from nnunet_pt.evaluation.postprocessing import determine_postprocessing
    from nnunet_pt.plans.plans import Plans

    result = determine_postprocessing(
        args.i,
        args.ref,
        Plans.load(args.plans_json or args.i / "plans.json"),
        DatasetDescription.load(args.dataset_json or args.i / "dataset.json"),
        num_processes=args.np or default_num_processes(8),
        keep_files=not args.remove_postprocessed,
        progress=not args.no_pbar,
    )
    return Outcome(summaries=(result.summary(),))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
