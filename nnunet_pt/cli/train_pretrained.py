"""``nnUNetv2_train_pretrained``: fine-tune the weights that the plans name, and validate the result."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.cli.train import (
    FOLD_HELP,
    add_common,
    add_layers,
    add_recipe,
    add_running,
    add_transfer,
    common_request,
    train_as_asked,
)
from nnunet_pt.core.errors import UsageError

if TYPE_CHECKING:
    from nnunet_pt.training.request import TrainRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_train_pretrained",
        "Fine-tune a pre-trained network on one fold and validate it. The plans say which weights: they are made by "
        "nnUNetv2_preprocess_like_nnssl or nnUNetv2_plan_like_dynamic. Continuing (--c), validating (--val) and "
        "predicting do not need the file of the pre-training.",
        """
        nnUNetv2_train_pretrained 4 3d_fullres 0 -p ptPlans__Name____Spacing__1.00_1.00_1.00___Norm__Z
        nnUNetv2_train_pretrained -d 4 -c 3d_fullres -f 0 -p ptPlans__Name____Spacing__1.00_1.00_1.00___Norm__Z
        nnUNetv2_train_pretrained 4 3d_fullres 0 -p ptPlans_dynamic__Name -tr DynamicPretrainedTrainer
        nnUNetv2_train_pretrained 4 3d_fullres 0 -p ptPlans_dynamic__Name --from_scratch
        """,
    )
    parser.allow_abbrev = False  # -d is not -device
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument(
        "dataset",
        metavar="DATASET",
        type=arguments.dataset_reference,
        nargs="?",
        help=f"{arguments.DATASET_HELP} (required here, or as -d)",
    )
    required.add_argument(
        "configuration",
        metavar="CONFIGURATION",
        nargs="?",
        help="which network of the plans, usually 3d_fullres (required here, or as -c)",
    )
    required.add_argument(
        "fold", metavar="FOLD", type=arguments.fold, nargs="?", help=f"{FOLD_HELP} (required here, or as -f)"
    )
    required.add_argument(
        "-d", dest="d", metavar="ID", type=arguments.dataset_reference, help="another way to give the dataset"
    )
    required.add_argument("-c", dest="configuration_flag", metavar="NAME", help="another way to give the configuration")
    required.add_argument("-f", dest="f", metavar="FOLD", type=arguments.fold, help="another way to give the fold")
    required.add_argument("-p", metavar="NAME", required=True, help="plans to follow; they name the weights")
    subject = arguments.group(parser, arguments.SUBJECT)
    subject.add_argument(
        "-tr", metavar="NAME", default="PretrainedTrainer", help="trainer, see nnUNetv2_train (default: %(default)s)"
    )
    subject.add_argument(
        "--from_scratch",
        action="store_true",
        help="for comparison: the same training without the weights, with the trainer's learning rate for that; the "
        "result goes to a folder of its own (PLANS__from_scratch)",
    )
    subject.add_argument(
        "-overwrite_ckpt_path",
        metavar="FILE",
        type=Path,
        help="where the checkpoint of the pre-training is now (default: where the plans say)",
    )
    add_common(parser)
    add_transfer(parser, default="adapt")
    add_layers(parser)
    add_recipe(parser)
    add_running(parser)
    arguments.add_output(parser)
    return parser


def request(args: Namespace) -> TrainRequest:
    """What the arguments ask for.

    Raises:
        UsageError: If dataset, configuration or fold are missing or given twice.
    """
    from nnunet_pt.training.request import TrainRequest

    given = {
        "DATASET (-d)": (args.dataset, args.d),
        "CONFIGURATION (-c)": (args.configuration, args.configuration_flag),
        "FOLD (-f)": (args.fold, args.f),
    }
    missing = [name for name, values in given.items() if values == (None, None)]
    twice = [name for name, values in given.items() if None not in values]
    if missing or twice:
        found = [
            f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (twice, "given twice")) if names
        ]
        raise UsageError(
            f"The arguments do not say what to train: {'; '.join(found)}.",
            expected="DATASET CONFIGURATION FOLD, or -d DATASET -c CONFIGURATION -f FOLD",
        )
    dataset, configuration, number = (next(v for v in values if v is not None) for values in given.values())
    return TrainRequest(
        dataset=dataset,
        configuration=configuration,
        fold=number,
        of_plans=True,
        requeue=args.requeue,
        from_scratch=args.from_scratch,
        checkpoint_path=args.overwrite_ckpt_path,
        **common_request(args),
    )


def execute(args: Namespace) -> Outcome:
    """Train and validate."""
    return train_as_asked(request(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
