"""``nnUNetv2_apply_postprocessing``: remove small components from segmentations as determined before."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.cli.determine_postprocessing import add_descriptions


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_apply_postprocessing",
        "Postprocess all segmentations of a folder as nnUNetv2_find_best_configuration or "
        "nnUNetv2_determine_postprocessing found best. Nothing in postprocessing.pkl is executed.",
        """
        nnUNetv2_apply_postprocessing -i out -o out_pp -pp_pkl_file MODEL_FOLDER/postprocessing.pkl
        """,
    )
    parser.add_argument("-i", metavar="FOLDER", type=Path, required=True, help="folder of segmentations")
    parser.add_argument("-o", metavar="FOLDER", type=Path, required=True, help="output folder")
    parser.add_argument(
        "-pp_pkl_file",
        metavar="FILE",
        type=Path,
        required=True,
        help="postprocessing.pkl, or postprocessing.json",
    )
    arguments.add_processes(parser)
    add_descriptions(parser)
    arguments.add_output(parser)
    return parser


def execute(args: Namespace) -> Outcome:
    """Postprocess the folder."""
    from nnunet_pt.core.resources import default_num_processes
    from nnunet_pt.dataset.description import DatasetDescription
    from nnunet_pt.evaluation.postprocessing import apply_postprocessing
    from nnunet_pt.evaluation.postprocessing_files import read_postprocessing
    from nnunet_pt.plans.plans import Plans

    steps = read_postprocessing(args.pp_pkl_file)
    result = apply_postprocessing(
        args.i,
        args.o,
        steps,
        Plans.load(args.plans_json or _beside(args.i, args.pp_pkl_file, "plans.json")),
        DatasetDescription.load(args.dataset_json or _beside(args.i, args.pp_pkl_file, "dataset.json")),
        num_processes=args.np or default_num_processes(8),
        on_failure="continue",
        progress=not args.no_pbar,
    )
    done = "; ".join(f"only the largest component of {step}" for step in steps) or "nothing to be done, copied"
    text = f"{len(result.results)} segmentations ({done}). Written: {args.o}"
    return Outcome(summaries=(text,), failures=tuple(failure.case for failure in result.failures))


def _beside(folder: Path, postprocessing: Path, name: str) -> Path:
    """A file in the folder of the segmentations, else in that of the postprocessing, which is a model's."""
    other = postprocessing.parent / name
    return other if other.is_file() and not (folder / name).is_file() else folder / name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
