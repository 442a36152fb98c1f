"""``nnUNetv2_apply_postprocessing``: remove small components from segmentations as determined before."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.cli.determine_postprocessing import add_descriptions

if TYPE_CHECKING:
    from nnunet_pt.evaluation.postprocessing_requests import PostprocessRequest


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
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument("-i", metavar="FOLDER", type=Path, required=True, help="folder of segmentations")
    required.add_argument(
        "-o", metavar="FOLDER", type=Path, required=True, help="output folder; it is made if necessary"
    )
    required.add_argument(
        "-pp_pkl_file",
        metavar="FILE",
        type=Path,
        required=True,
        help="postprocessing.pkl or postprocessing.json, which the two commands above write",
    )
    arguments.add_processes(parser)
    add_descriptions(parser)
    arguments.add_output(parser)
    return parser


def request(args: Namespace) -> PostprocessRequest:
    """What the arguments ask for."""
    from nnunet_pt.evaluation.postprocessing_requests import PostprocessRequest

    return PostprocessRequest(
        segmentations=args.i,
        output=args.o,
        postprocessing=args.pp_pkl_file,
        plans_json=args.plans_json,
        dataset_json=args.dataset_json,
        num_processes=args.np,
        on_failure="continue",
        progress=not args.no_pbar,
    )


def execute(args: Namespace) -> Outcome:
    """Postprocess the folder."""
    from nnunet_pt.evaluation.postprocessing_requests import postprocess_folder

    return Outcome.of([postprocess_folder(request(args))])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
