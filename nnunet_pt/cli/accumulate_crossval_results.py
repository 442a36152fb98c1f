"""``nnUNetv2_accumulate_crossval_results``: the validation of all folds in one folder."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_accumulate_crossval_results",
        "Copy the validation predictions of all folds of a model into one folder and evaluate them together.",
        """
        nnUNetv2_accumulate_crossval_results 4 -c 3d_fullres
        nnUNetv2_accumulate_crossval_results 4 -c 2d -f 0 1 2 -o /data/crossval_2d
        """,
    )
    parser.add_argument(
        "dataset_name_or_id",
        metavar="DATASET",
        type=arguments.dataset_reference,
        help="4, or Dataset004_Hippocampus",
    )
    parser.add_argument("-c", metavar="NAME", required=True, help="configuration: 2d, 3d_fullres...")
    parser.add_argument(
        "-o",
        metavar="FOLDER",
        type=Path,
        help="output folder, which must be empty (default: crossval_results_folds_0_1_2_3_4 in the model's folder, "
        "which is replaced)",
    )
    add_folds(parser)
    parser.add_argument("-p", metavar="NAME", default="nnUNetPlans", help="plans (default: %(default)s)")
    parser.add_argument("-tr", metavar="NAME", default="nnUNetTrainer", help="trainer (default: %(default)s)")
    arguments.add_processes(parser)
    arguments.add_output(parser)
    return parser


def add_folds(parser: ArgumentParser) -> None:
    """``-f``: the folds of a cross-validation."""
    parser.add_argument(
        "-f", metavar="FOLD", type=fold, nargs="+", default=[0, 1, 2, 3, 4], help="folds (default: 0 1 2 3 4)"
    )


def fold(text: str) -> int:
    """The number of a fold."""
    if text == "all":
        raise ArgumentTypeError("fold all was trained on all cases: it cannot be part of a cross-validation")
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not the number of a fold")
    return int(text)


def execute(args: Namespace) -> Outcome:
    """Accumulate and evaluate."""
    from nnunet_pt.core.errors import StorageError
    from nnunet_pt.core.resources import default_num_processes
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.dataset.cases import resolve_dataset_name
    from nnunet_pt.evaluation.crossval import Folds, ModelName, accumulate, crossval_folder_name, references_folder

    workspace = Workspace.from_environment()
    dataset = resolve_dataset_name(args.dataset_name_or_id, workspace)
    model = ModelName(trainer=args.tr, plans=args.p, configuration=args.c)
    folds = Folds.survey(workspace.results / dataset, model, args.f)
    folds.require()
    output = args.o or folds.folder / crossval_folder_name(args.f)
    if args.o is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise StorageError(
            f"The output folder {output} is not empty.",
            remedy="choose another folder, or remove it: nothing in it is overwritten",
        )
    dice = accumulate(
        folds,
        output,
        references_folder(workspace, dataset),
        num_processes=args.np or default_num_processes(8),
        progress=not args.no_pbar,
    )
    number = len(folds.predictions)
    text = f"{model}: mean Dice {dice:.5f} in {number} cases of folds {', '.join(map(str, args.f))}. Written: {output}"
    return Outcome(summaries=(text,))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
