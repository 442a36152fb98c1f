"""``nnUNetv2_convert_old_nnUNet_dataset``: a dataset of nnU-Net v1 as a raw dataset."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_convert_old_nnUNet_dataset",
        "Convert a raw dataset of nnU-Net v1 to nnUNet_raw/DatasetXXX_Name.",
        """
        nnUNetv2_convert_old_nnUNet_dataset /data/nnUNet_raw_data/Task027_ACDC Dataset027_ACDC
        """,
    )
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument(
        "input_folder",
        metavar="FOLDER",
        type=Path,
        help="path of the old folder TaskXXX_Name, which has imagesTr, labelsTr and dataset.json",
    )
    required.add_argument("output_dataset_name", metavar="NAME", help="name of the new dataset: DatasetXXX_Name")
    arguments.add_output(parser)
    return parser


def execute(args: Namespace) -> Outcome:
    """Convert the dataset."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.dataset.convert import convert_old_nnunet_dataset

    folder = convert_old_nnunet_dataset(
        args.input_folder, args.output_dataset_name, Workspace.from_environment(), progress=not args.no_pbar
    )
    return Outcome(summaries=(f"{args.input_folder.name} -> {folder}",), results=({"folder": folder},))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
