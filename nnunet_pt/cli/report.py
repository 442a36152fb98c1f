"""``nnUNetv2_report``: a dataset, plans, a training or a comparison of trainings as one HTML page."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.report.places import ReportResult

PROGRAM = "nnUNetv2_report"
DEFAULT_PICTURES = 12


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        PROGRAM,
        "Write a report as one HTML page that needs nothing else: open it in a browser, print it, or send it to "
        "somebody. It looks right on dark and light screens, and its tables can be sorted.",
        """
        nnUNetv2_report dataset 4
        nnUNetv2_report plans 4 -p nnUNetResEncUNetLPlans
        nnUNetv2_report training 4 3d_fullres 0
        nnUNetv2_report compare results/scratch/fold_0 results/finetuned/fold_0 -names scratch fine-tuned
        """,
    )
    commands = arguments.add_commands(parser, "reports", "report")
    _dataset_parser(commands)
    _plans_parser(commands)
    _training_parser(commands)
    _compare_parser(commands)
    return parser


def _dataset_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "dataset",
        help="cases, shapes, spacings, intensities, labels, outliers and pictures of a raw dataset",
        description="Read all training cases of a raw dataset and show their shapes, spacings, intensities and label "
        "volumes, which cases stand out and why, which labels are missing where, and slices with their labels.",
        examples="""
        nnUNetv2_report dataset 4
        nnUNetv2_report dataset 15 -channel 1 --all_pictures -o brats.html
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "dataset", metavar="ID", type=arguments.dataset_reference, help=arguments.DATASET_HELP
    )
    shown = arguments.group(parser, "what is shown")
    shown.add_argument(
        "-pictures",
        metavar="N",
        type=arguments.natural,
        default=DEFAULT_PICTURES,
        help="cases to draw: half of them outliers, if there are so many, the others evenly spread over the dataset "
        "(default: %(default)s)",
    )
    shown.add_argument("--all_pictures", action="store_true", help="draw every case; the page may become large")
    shown.add_argument(
        "-channel",
        metavar="N",
        type=arguments.natural,
        default=0,
        help="channel to draw, 0 is that of the files <case>_0000 (default: %(default)s)",
    )
    _add_file(parser, "dataset_report.html in the dataset's folder in nnUNet_preprocessed")
    arguments.add_processes(parser)
    arguments.group(parser, arguments.RUNNING).add_argument(
        "--max_ram_gb",
        metavar="GB",
        type=arguments.positive_float,
        help="memory that all worker processes together may use (default: 80 %% of what is free)",
    )
    arguments.add_output(parser)


def _plans_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "plans",
        help="configurations of a plans file: the network drawn, patch against image, memory, normalisation",
        description="Show what the planner decided: every network stage by stage, the patch within the median image, "
        "estimated memory, normalisation, and the pre-training that the plans follow, if there is one.",
        examples="""
        nnUNetv2_report plans 4
        nnUNetv2_report plans 4 -p nnUNetResEncUNetLPlans
        nnUNetv2_report plans path/to/nnUNetPlans.json -o plans.html
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "plans", metavar="ID_OR_FILE", help="dataset (its number or its name), a plans file, or the folder of a model"
    )
    arguments.group(parser, arguments.SUBJECT).add_argument(
        "-p", metavar="NAME", default="nnUNetPlans", help="plans of the dataset (default: %(default)s)"
    )
    _add_file(parser, "beside the plans, under their name with _report.html")
    arguments.add_output(parser, progress=False)


def _training_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "training",
        help="a training: curves, Dice of each class, where time went, worst cases, what was transferred",
        description="Show how a training went, or how it goes if it is still running: curves, Dice of each class, "
        "learning rate, where time went, the worst validation cases, and what came from pre-trained weights.",
        examples="""
        nnUNetv2_report training 4 3d_fullres 0
        nnUNetv2_report training 4 3d_fullres 0 -tr nnUNetTrainer_250epochs -p nnUNetResEncUNetLPlans
        nnUNetv2_report training path/to/fold_0 -o training.html
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "training",
        metavar="TRAINING",
        nargs="+",
        help="dataset, configuration and fold, for example  4 3d_fullres 0  or the folder of a fold",
    )
    subject = arguments.group(parser, arguments.SUBJECT)
    subject.add_argument("-tr", metavar="NAME", default="nnUNetTrainer", help="trainer (default: %(default)s)")
    subject.add_argument("-p", metavar="NAME", default="nnUNetPlans", help="plans (default: %(default)s)")
    _add_file(parser, "training_report.html in the folder of the fold")
    arguments.add_output(parser, progress=False)


def _compare_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="several trainings side by side, for example from scratch and fine-tuned",
        description="Compare trainings: their curves, and the validation Dice of the cases that they share.",
        examples="""
        nnUNetv2_report compare scratch/fold_0 finetuned/fold_0
        nnUNetv2_report compare scratch/fold_0 finetuned/fold_0 -names scratch fine-tuned -o comparison.html
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "folders", metavar="FOLD_FOLDER", nargs="+", type=Path, help="folders of folds, at least two"
    )
    arguments.group(parser, arguments.SUBJECT).add_argument(
        "-names",
        metavar="NAME",
        nargs="+",
        help="what to call the trainings, in their order (default: what distinguishes their folders)",
    )
    _add_file(parser, "comparison_report.html in the current folder")
    arguments.add_output(parser, progress=False)


def _add_file(parser: ArgumentParser, default: str) -> None:
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "-o", metavar="FILE", type=Path, help=f"the page (default: {default})"
    )


def execute(args: Namespace) -> Outcome:
    """Make the report."""
    from nnunet_pt.core.settings import Workspace

    reports: dict[str, Callable[[Namespace, Workspace], ReportResult]] = {
        "dataset": _dataset,
        "plans": _plans,
        "training": _training,
        "compare": _compare,
    }
    return Outcome.of([reports[args.report](args, Workspace.from_environment())])


def _dataset(args: Namespace, workspace: Workspace) -> ReportResult:
    from nnunet_pt.dataset.cases import resolve_dataset_name
    from nnunet_pt.report.dataset_content import DatasetReportOptions
    from nnunet_pt.report.dataset_page import dataset_report
    from nnunet_pt.report.places import dataset_report_path, write_report

    name = resolve_dataset_name(args.dataset, workspace)
    options = DatasetReportOptions(
        pictures=None if args.all_pictures else args.pictures,
        channel=args.channel,
        num_processes=args.np,
        max_ram_gb=args.max_ram_gb,
        progress=not args.no_pbar,
    )
    html = dataset_report(name, workspace, options)
    return write_report(args.o or dataset_report_path(name, workspace), html, name)


def _plans(args: Namespace, workspace: Workspace) -> ReportResult:
    from nnunet_pt.report.places import plans_path, write_report
    from nnunet_pt.report.plans_page import plans_report

    path = plans_path(args.plans, args.p, workspace)
    return write_report(args.o or path.with_name(f"{path.stem}_report.html"), plans_report(path), str(path))


def _training(args: Namespace, workspace: Workspace) -> ReportResult:
    from nnunet_pt.report.places import TRAINING_REPORT, fold_path, write_report
    from nnunet_pt.report.training_page import training_report

    folder = fold_path(args.training, args.tr, args.p, workspace)
    html = training_report(folder, preprocessed=workspace.settings.preprocessed, raw=workspace.settings.raw)
    return write_report(args.o or folder / TRAINING_REPORT, html, str(folder))


def _compare(args: Namespace, workspace: Workspace) -> ReportResult:  # noqa: ARG001 (all reports get both)
    from nnunet_pt.report.comparison_page import comparison_report
    from nnunet_pt.report.places import COMPARISON_REPORT, write_report

    html = comparison_report(args.folders, args.names)
    return write_report(args.o or Path(COMPARISON_REPORT), html, f"{len(args.folders)} trainings")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
