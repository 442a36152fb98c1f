"""``nnUNetv2_move_plans_between_datasets``: let one dataset be preprocessed with another one's plans."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.planning.move_plans import MovePlansRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_move_plans_between_datasets",
        "Copy plans from dataset -s to dataset -t. For pre-training, -s is the finetuning dataset, which has the "
        "plans, and -t the pretraining dataset, which receives them, so that weights trained on -t fit -s. Says what "
        "travels and what will hurt.",
        """
        nnUNetv2_move_plans_between_datasets -s 16 -t 15 -sp nnUNetPlans -tp pretrainPlans
        nnUNetv2_move_plans_between_datasets -s MODEL_FOLDER -t 15 -tp modelPlans --fit
        """,
    )
    required = arguments.group(parser, arguments.REQUIRED)
    subject = arguments.group(parser, arguments.SUBJECT)
    method = arguments.group(parser, arguments.METHOD)
    required.add_argument(
        "-s",
        metavar="ID",
        type=_dataset_or_path,
        required=True,
        help="id or name of the dataset that has the plans (the finetuning dataset); or the path of a checkpoint or "
        "model folder, whose own plans are taken",
    )
    required.add_argument(
        "-t",
        metavar="ID",
        type=arguments.dataset_reference,
        required=True,
        help="id or name of the dataset that receives them (the pretraining dataset)",
    )
    subject.add_argument(
        "-sp",
        metavar="NAME",
        help="name of the plans to copy, without .json, usually nnUNetPlans (required if -s is a dataset)",
    )
    subject.add_argument(
        "-tp",
        metavar="NAME",
        help="name of the copy (default: the same name, which replaces plans of that name that -t already has)",
    )
    method.add_argument(
        "--force", action="store_true", help="copy even if the datasets have different numbers of channels"
    )
    method.add_argument(
        "--fit",
        action="store_true",
        help="make the copy fit -t: a normalisation for each of its channels (as in the source where it has a channel "
        "of that name), and the data folders of its other plans where they hold the same data",
    )
    arguments.add_output(parser, progress=False)
    return parser


def _dataset_or_path(text: str) -> int | str | Path:
    try:
        return arguments.dataset_reference(text)
    except ArgumentTypeError:
        return Path(text)


def request(args: Namespace) -> MovePlansRequest:
    """What the arguments ask for."""
    from nnunet_pt.planning.move_plans import MovePlansRequest

    source = args.s
    if isinstance(source, Path):
        from nnunet_pt.core.settings import Settings
        from nnunet_pt.training.finetune_source import plans_in

        source = plans_in(source, Settings.from_environment())
    return MovePlansRequest(
        source=source,
        target=args.t,
        source_plans=args.sp,
        target_plans=args.tp,
        force=args.force,
        fit=args.fit,
    )


def execute(args: Namespace) -> Outcome:
    """Move the plans."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.planning.move_plans import move_plans

    path = move_plans(request(args), Workspace.from_environment())
    return Outcome(summaries=(f"plans written: {path}",), results=({"path": path},))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
