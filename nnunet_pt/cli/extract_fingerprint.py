"""``nnUNetv2_extract_fingerprint``: measure a dataset."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _case_executor as case_executor
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_extract_fingerprint",
        "Measure spacings, shapes and intensities of datasets and write nnUNet_preprocessed/DATASET/"
        "dataset_fingerprint.json: the first step of nnUNetv2_plan_and_preprocess. A finished fingerprint is kept "
        "unless --clean is given.",
        """
        nnUNetv2_extract_fingerprint -d 4 --verify_dataset_integrity
        nnUNetv2_extract_fingerprint -d 15 16 -np 4 --clean
        nnUNetv2_extract_fingerprint -d 15 -num_parts 4 -part_id 0
        """,
    )
    arguments.add_datasets(parser)
    arguments.add_extractor(parser)
    arguments.add_processes(parser)
    arguments.group(parser, arguments.METHOD).add_argument(
        "--clean", action="store_true", help="measure again even if there is a fingerprint"
    )
    arguments.add_parts(parser)
    arguments.add_memory(parser)
    case_executor.add_dask(parser)
    arguments.add_output(parser)
    return parser


def requests(args: Namespace) -> tuple[FingerprintRequest, ...]:
    """What the arguments ask for, one request for each dataset."""
    from nnunet_pt.planning.fingerprint_extractor import FingerprintRequest

    return tuple(
        FingerprintRequest(
            dataset=dataset,
            num_processes=args.np,
            verify_integrity=args.verify_dataset_integrity,
            clean=args.clean,
            max_ram_gb=args.max_ram_gb,
            progress=not args.no_pbar,
            on_failure="continue" if args.continue_on_error else "stop",
            num_parts=args.num_parts,
            part_id=args.part_id,
            extractor=args.fpe,
        )
        for dataset in args.d
    )


def execute(args: Namespace) -> Outcome:
    """Extract the fingerprints."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.planning.fingerprint_extractor import extract_fingerprint

    workspace = case_executor.absolute(Workspace.from_environment())
    arguments.check_datasets(args.d, workspace)
    with case_executor.dataset_executor(args, workspace) as executor:
        return Outcome.of(extract_fingerprint(replace(r, executor=executor), workspace) for r in requests(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv, ignore_unknown=True)


if __name__ == "__main__":
    raise SystemExit(main())
