"""What the two commands that predict have in common."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import EXIT_SOME_FAILED, Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.inference.prediction import PredictRequest

FOLDS: tuple[int | Literal["all"], ...] = (0, 1, 2, 3, 4)
TO_CONTINUE = "Finished predictions are kept; the same command with --continue_prediction does the rest."
REMEDY = "the reasons are above and in the report; then run the same command with --continue_prediction"


def add_images(parser: ArgumentParser) -> None:
    """``-i`` and ``-o``."""
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument(
        "-i",
        metavar="PATH",
        type=Path,
        nargs="+",
        required=True,
        help="folder of images <case>_0000.nii.gz, <case>_0001.nii.gz... (a number for each channel, in the format of "
        "the training data), or some of these images",
    )
    required.add_argument(
        "-o", metavar="FOLDER", type=Path, required=True, help="folder for the segmentations; it is made if necessary"
    )


def add_folds(parser: ArgumentParser) -> None:
    """``-f``."""
    arguments.group(parser, arguments.SUBJECT).add_argument(
        "-f",
        metavar="FOLD",
        type=arguments.fold,
        nargs="+",
        default=list(FOLDS),
        help="folds whose predictions are averaged: numbers, or all (the fold that was trained on all cases) "
        f"(default: {' '.join(map(str, FOLDS))})",
    )


def add_prediction(parser: ArgumentParser, *continue_options: str) -> None:
    """How to predict, and which files to write.

    Args:
        parser: The parser.
        continue_options: Names of the option that leaves out finished cases.
    """
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument(
        "-step_size",
        metavar="SHARE",
        type=_share,
        default=0.5,
        help="distance of tiles as a share of their size, above 0 and up to 1; larger is faster and less accurate "
        "(default: %(default)g)",
    )
    method.add_argument(
        "--disable_tta", action="store_true", help="do not average over mirrored images: faster, slightly less accurate"
    )
    arguments.add_verbose(parser)
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "--save_probabilities", action="store_true", help="write <case>.npz and <case>.pkl, too (needed for ensembles)"
    )
    arguments.group(parser, arguments.RUNNING).add_argument(
        *continue_options, action="store_true", help="keep the predictions that exist, and do only the others"
    )
    subject = arguments.group(parser, arguments.SUBJECT)
    subject.add_argument(
        "-chk",
        metavar="NAME",
        default="checkpoint_final.pth",
        help="file name of the weights in each fold's folder (default: %(default)s)",
    )
    subject.add_argument(
        "-prev_stage_predictions",
        metavar="FOLDER",
        type=Path,
        help="for 3d_cascade_fullres, which needs it: output folder of the prediction with 3d_lowres",
    )


def add_threads(parser: ArgumentParser, default: int | None, explained: str) -> None:
    """``-npp`` and ``-nps``."""
    for option, what in (("-npp", "read and preprocess images"), ("-nps", "resample and write predictions")):
        arguments.group(parser, arguments.RUNNING).add_argument(
            option,
            metavar="N",
            type=arguments.natural,
            default=default,
            help=f"threads that {what} while others are predicted (default: {explained.format(option.strip('-'))})",
        )


def add_running(parser: ArgumentParser) -> None:
    """Where and how to compute."""
    running = arguments.group(parser, arguments.RUNNING)
    running.add_argument("-device", choices=("cuda", "cpu", "mps"), help=arguments.DEVICE_HELP)
    arguments.add_no_pbar(parser, "--disable_progress_bar", "--no_pbar")
    running.add_argument(
        "--not_on_device",
        action="store_true",
        help="collect the results of tiles in the computer's memory; for large images on a small GPU (done without "
        "being asked if memory runs out)",
    )
    running.add_argument(
        "-tiles_per_batch",
        metavar="N",
        type=arguments.positive_integer,
        help="tiles that go through the network at once (default: as many as pay; fewer if memory runs out)",
    )
    running.add_argument(
        "-precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="of the network's computations (default: %(default)s, mixed precision where the device is fast in it)",
    )
    arguments.group(parser, arguments.METHOD).add_argument(
        "--keep_orientation",
        action="store_true",
        help="predict images as they lie, even if the model knows that its training images lay differently",
    )
    arguments.add_json_log(parser)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return value


def request(
    args: Namespace,
    model_folder: Path,
    *,
    num_readers: int,
    num_exporters: int,
    num_parts: int = 1,
    part_id: int = 0,
) -> PredictRequest:
    """What the arguments ask for."""
    from nnunet_pt.inference.prediction import PredictRequest

    return PredictRequest(
        model_folder=model_folder,
        inputs=tuple(args.i),
        output=args.o,
        folds=tuple(dict.fromkeys(args.f)),
        checkpoint=args.chk,
        step_size=args.step_size,
        mirroring=not args.disable_tta,
        device=args.device,
        precision=args.precision,
        results_on_device=not args.not_on_device,
        tiles_per_batch=args.tiles_per_batch,
        keep_orientation=args.keep_orientation,
        save_probabilities=args.save_probabilities,
        continue_prediction=args.continue_prediction,
        previous_stage=args.prev_stage_predictions,
        num_parts=num_parts,
        part_id=part_id,
        num_readers=num_readers,
        num_exporters=num_exporters,
        progress=not args.disable_progress_bar,
    )


def main(
    parser: ArgumentParser, to_request: Callable[[Namespace], PredictRequest], argv: Sequence[str] | None = None
) -> int:
    """Predict and return the exit status."""

    def execute(args: Namespace) -> Outcome:
        wanted = to_request(args)
        from nnunet_pt.inference.prediction import predict_folder

        report = predict_folder(wanted)
        return Outcome(
            summaries=(report.summary(),),
            failures=tuple(report.failures),
            failure_status=EXIT_SOME_FAILED,
            failure_remedy=REMEDY,
            results=({"report": report.path, "cases": {name: case.status for name, case in report.cases.items()}},),
        )

    return run(parser, execute, argv, to_continue=TO_CONTINUE)
