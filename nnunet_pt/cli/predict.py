"""``nnUNetv2_predict``: predict images with a model that was trained here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _predict_arguments as prediction

if TYPE_CHECKING:
    from nnunet_pt.inference.prediction import PredictRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_predict",
        "Predict images with the model nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION. A case that fails does "
        "not keep the others from being predicted.",
        """
        nnUNetv2_predict -i imagesTs -o predictions -d 4 -c 3d_fullres -f 0
        nnUNetv2_predict -i imagesTs -o predictions -d 4 -c 3d_fullres --save_probabilities --continue_prediction
        nnUNetv2_predict -i imagesTs -o predictions -d 4 -c 2d -f all -tr nnUNetTrainer_100epochs -device cpu
        nnUNetv2_predict -i imagesTs -o fullres -d 6 -c 3d_cascade_fullres -prev_stage_predictions lowres
        nnUNetv2_predict -i imagesTs -o predictions -d 4 -c 3d_fullres -num_parts 4 -part_id 0
        """,
    )
    prediction.add_images(parser)
    arguments.add_dataset(
        parser, "dataset the model was trained on: its number or its name, for example  4  or  Dataset004_Hippocampus"
    )
    subject = arguments.group(parser, arguments.SUBJECT)
    subject.add_argument("-p", metavar="NAME", default="nnUNetPlans", help="plans of the model (default: %(default)s)")
    subject.add_argument(
        "-tr",
        metavar="NAME",
        default="nnUNetTrainer",
        help="trainer of the model; its file need not be there any more (default: %(default)s)",
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "-c",
        metavar="NAME",
        required=True,
        help="configuration of the model: 2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres",
    )
    prediction.add_folds(parser)
    prediction.add_prediction(parser, "--continue_prediction")
    prediction.add_threads(parser, None, "the environment variable nnUNet_{}, else 3")
    arguments.add_parts(parser, merged=False)
    prediction.add_running(parser)
    return parser


def request(args: Namespace) -> PredictRequest:
    """What the arguments ask for."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.inference.prediction import model_folder_of

    workspace = Workspace.from_environment()
    settings = workspace.settings
    return prediction.request(
        args,
        model_folder_of(workspace, args.d, args.c, trainer=args.tr, plans_name=args.p),
        num_readers=settings.num_predict_preprocess if args.npp is None else args.npp,
        num_exporters=settings.num_predict_export if args.nps is None else args.nps,
        num_parts=args.num_parts,
        part_id=args.part_id,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return prediction.main(build_parser(), request, argv)


if __name__ == "__main__":
    raise SystemExit(main())
