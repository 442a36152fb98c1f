"""``nnUNetv2_predict_from_modelfolder``: predict images with a model wherever it is."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _predict_arguments as prediction

if TYPE_CHECKING:
    from nnunet_pt.inference.prediction import PredictRequest

NUM_THREADS = 3


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_predict_from_modelfolder",
        "Predict images with the model in a folder, which may be anywhere: no environment variable is needed. A case "
        "that fails does not keep the others from being predicted.",
        """
        nnUNetv2_predict_from_modelfolder -i imagesTs -o predictions -m nnUNetTrainer__nnUNetPlans__3d_fullres -f 0
        nnUNetv2_predict_from_modelfolder -i imagesTs -o predictions -m MODEL_FOLDER --continue_prediction
        """,
    )
    prediction.add_images(parser)
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "-m",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="the model's folder TRAINER__PLANS__CONFIGURATION, with plans.json, dataset.json and fold_... folders",
    )
    prediction.add_folds(parser)
    prediction.add_prediction(parser, "--continue_prediction", "--c")
    prediction.add_threads(parser, NUM_THREADS, "%(default)s")
    prediction.add_running(parser)
    return parser


def request(args: Namespace) -> PredictRequest:
    """What the arguments ask for."""
    return prediction.request(args, args.m, num_readers=args.npp, num_exporters=args.nps)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return prediction.main(build_parser(), request, argv)


if __name__ == "__main__":
    raise SystemExit(main())
