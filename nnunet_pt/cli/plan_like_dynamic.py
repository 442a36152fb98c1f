"""``nnUNetv2_plan_like_dynamic``: let a dataset's own network take what fits from a pre-trained one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _pretraining_arguments as pretraining
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.transfer.nnssl_plans import LikeDynamicRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_plan_like_dynamic",
        "Make plans that keep a dataset's own network, spacing and normalisation, and note a checkpoint of nnssl from "
        "which the weights that fit are to be taken. The plans are called ptPlans_dynamic__NAME; train with them: "
        "nnUNetv2_train_pretrained -tr DynamicPretrainedTrainer.",
        """
        nnUNetv2_plan_like_dynamic -d 4 -n MAE -pc checkpoint_final.pth
        nnUNetv2_plan_like_dynamic -d 4 -n MAE -pc OWNER/REPO -pl nnUNetResEncUNetLPlans
        """,
    )
    pretraining.add_pretraining(parser)
    arguments.group(parser, arguments.SUBJECT).add_argument(
        "-pl",
        "--plans_identifier",
        metavar="NAME",
        default="nnUNetPlans",
        help="plans to start from (default: %(default)s)",
    )
    pretraining.add_preprocessing(parser)
    return parser


def request(args: Namespace) -> LikeDynamicRequest:
    """What the arguments ask for."""
    from nnunet_pt.transfer.nnssl_plans import LikeDynamicRequest

    return LikeDynamicRequest(base_plans=args.plans_identifier, **pretraining.of_request(args))


def execute(args: Namespace) -> Outcome:
    """Make plans and preprocess what is missing."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.transfer.nnssl_plans import plan_like_dynamic

    return Outcome.of([plan_like_dynamic(request(args), Workspace.from_environment())])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
