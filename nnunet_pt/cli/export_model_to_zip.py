"""``nnUNetv2_export_model_to_zip``: pack trained models to share them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.sharing.export_model import ExportRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_export_model_to_zip",
        "Pack trained models of a dataset into a ZIP archive, which nnUNetv2_install_pretrained_model_from_zip "
        "unpacks, here and in nnU-Net. An archive of the same name is replaced when the new one is complete.",
        """
        nnUNetv2_export_model_to_zip -d 4 -o hippocampus.zip -c 3d_fullres
        nnUNetv2_export_model_to_zip -d 4 -o hippocampus.zip -c 2d 3d_fullres -f 0 1 2 3 4 --small
        nnUNetv2_export_model_to_zip -d 4 -o all_there_is.zip --not_strict
        """,
    )
    arguments.add_dataset(parser)
    required = arguments.group(parser, arguments.REQUIRED)
    subject = arguments.group(parser, arguments.SUBJECT)
    written = arguments.group(parser, arguments.WRITTEN)
    required.add_argument("-o", metavar="FILE", type=Path, required=True, help="the archive to write: model.zip")
    subject.add_argument(
        "-c",
        metavar="NAME",
        nargs="+",
        default=["3d_lowres", "3d_fullres", "2d", "3d_cascade_fullres"],
        help="configurations (default: 3d_lowres 3d_fullres 2d 3d_cascade_fullres, as far as the plans have them)",
    )
    subject.add_argument(
        "-tr", metavar="NAME", nargs="+", default=["nnUNetTrainer"], help="trainers (default: nnUNetTrainer)"
    )
    subject.add_argument("-p", metavar="NAME", nargs="+", default=["nnUNetPlans"], help="plans (default: nnUNetPlans)")
    subject.add_argument(
        "-f",
        metavar="FOLD",
        type=arguments.fold,
        nargs="+",
        default=[0, 1, 2, 3, 4],
        help="folds: numbers, or all (default: 0 1 2 3 4)",
    )
    subject.add_argument(
        "-chk",
        metavar="FILE",
        nargs="+",
        default=["checkpoint_final.pth"],
        help="names of checkpoints (default: checkpoint_final.pth)",
    )
    written.add_argument(
        "--not_strict",
        action="store_true",
        help="pack what there is, and say what is missing (default: if anything is missing, write nothing)",
    )
    written.add_argument(
        "--exp_cv_preds", action="store_true", help="also pack the predictions for the validation cases of each fold"
    )
    written.add_argument(
        "--small",
        action="store_true",
        help="leave the optimizer's state out of the checkpoints: half the size, enough to predict and to fine-tune, "
        "but not to continue the training",
    )
    arguments.add_output(parser)
    return parser


def request(args: Namespace) -> ExportRequest:
    """What the arguments ask for."""
    from nnunet_pt.sharing.export_model import ExportRequest

    return ExportRequest(
        dataset=args.d,
        output=args.o,
        configurations=tuple(args.c),
        trainers=tuple(args.tr),
        plans_names=tuple(args.p),
        folds=tuple(args.f),
        checkpoints=tuple(args.chk),
        strict=not args.not_strict,
        with_predictions=args.exp_cv_preds,
        small=args.small,
        progress=not args.no_pbar,
    )


def execute(args: Namespace) -> Outcome:
    """Pack the models."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.sharing.export_model import export_model

    result = export_model(request(args), Workspace.from_environment())
    return Outcome.of([result])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
