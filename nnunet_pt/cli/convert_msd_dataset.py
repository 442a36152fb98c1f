"""``nnUNetv2_convert_MSD_dataset``: a task of the Medical Segmentation Decathlon as a raw dataset."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_convert_MSD_dataset",
        "Convert a downloaded and unpacked task of the Medical Segmentation Decathlon to nnUNet_raw/DatasetXXX_Name. "
        "Images with several channels become one file for each channel.",
        """
        nnUNetv2_convert_MSD_dataset -i Task04_Hippocampus
        nnUNetv2_convert_MSD_dataset -i /data/Task05_Prostate -overwrite_id 105 -np 4
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "-i", metavar="FOLDER", type=Path, required=True, help="the folder TaskXX_Name"
    )
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "-overwrite_id",
        metavar="ID",
        type=arguments.positive_integer,
        help="dataset id to use (default: the number in the folder's name)",
    )
    arguments.add_processes(parser)
    arguments.add_output(parser)
    return parser


def execute(args: Namespace) -> Outcome:
    """Convert the dataset."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.dataset.convert import convert_msd_dataset

    folder = convert_msd_dataset(
        args.i,
        Workspace.from_environment(),
        dataset_id=args.overwrite_id,
        num_processes=args.np,
        progress=not args.no_pbar,
    )
    return Outcome(summaries=(f"{args.i.name} -> {folder}",), results=({"folder": folder},))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
