"""What the two commands that evaluate have in common."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _case_executor as case_executor
from nnunet_pt.cli._facts import facts_of
from nnunet_pt.cli._run import Outcome

if TYPE_CHECKING:
    from nnunet_pt.cluster.dask_checks import SharedFolders
    from nnunet_pt.dataset.labels import LabelValue
    from nnunet_pt.evaluation.metrics import EvaluationSettings
    from nnunet_pt.evaluation.requests import EvaluateRequest

DEFAULT_TOLERANCE_MM = 1.0


def add_folders(parser: ArgumentParser) -> None:
    """The two folders."""
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument("gt_folder", metavar="REFERENCES", type=Path, help="folder of annotations")
    required.add_argument(
        "pred_folder", metavar="PREDICTIONS", type=Path, help="folder of segmentations with the same file names"
    )


def add_evaluation(parser: ArgumentParser) -> None:
    """How to compare and where to write."""
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "-o", metavar="FILE", type=Path, help="file to write (default: summary.json in the folder of predictions)"
    )
    arguments.add_processes(parser)
    arguments.add_parts(parser)
    case_executor.add_dask(parser)
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument(
        "--chill",
        action="store_true",
        help="leave out annotations without a prediction; without it, they are an error",
    )
    method.add_argument(
        "--surface",
        action="store_true",
        help="compare surfaces, too: 95th percentile of their distances (HD95, in mm) and normalised surface Dice "
        "(NSD), which is the share of surfaces closer than a tolerance",
    )
    method.add_argument(
        "-nsd_tolerance_mm",
        metavar="MM",
        type=arguments.positive_float,
        nargs="+",
        help="one or several tolerances for NSD in mm, switches --surface on (default with --surface: "
        f"{DEFAULT_TOLERANCE_MM:g})",
    )
    arguments.add_output(parser)


def tolerances(args: Namespace) -> tuple[float, ...]:
    """The tolerances of NSD; none if surfaces are not to be compared."""
    if args.nsd_tolerance_mm is not None:
        return tuple(dict.fromkeys(args.nsd_tolerance_mm))
    return (DEFAULT_TOLERANCE_MM,) if args.surface else ()


def make_request(
    args: Namespace, settings: EvaluationSettings, names: Mapping[LabelValue, str] | None = None
) -> EvaluateRequest:
    """What the arguments ask for."""
    from nnunet_pt.evaluation.requests import EvaluateRequest

    return EvaluateRequest(
        references=args.gt_folder,
        predictions=args.pred_folder,
        settings=settings,
        names=names or {},
        output=args.o,
        chill=args.chill,
        num_processes=args.np,
        progress=not args.no_pbar,
        num_parts=args.num_parts,
        part_id=args.part_id,
    )


def execute(args: Namespace, request: EvaluateRequest) -> Outcome:
    """Compare the folders."""
    from nnunet_pt.evaluation.requests import evaluate

    references, predictions = request.references.absolute(), request.predictions.absolute()

    def folders() -> SharedFolders:
        from nnunet_pt.cluster.dask_checks import SharedFolders

        return SharedFolders(read=(references,), written=predictions)

    with case_executor.case_executor(args, folders) as executor:
        if executor is not None:  # workers are in other folders
            request = replace(request, references=references, predictions=predictions, executor=executor)
        evaluation = evaluate(request)
    return Outcome(summaries=(evaluation.text(),), results=(facts_of(evaluation),))


def label_value(text: str) -> int:
    """A label: a whole number from 0 to 65535."""
    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError(f"{text!r} is not a label, a whole number from 0 to 65535")
    return int(text)
