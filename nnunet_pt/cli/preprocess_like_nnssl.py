"""``nnUNetv2_preprocess_like_nnssl``: plans and data for fine-tuning a self-supervised network."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli import _pretraining_arguments as pretraining
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.transfer.nnssl_plans import LikeNnsslRequest

MODES = ("default_nnunet", "fixed", "like_pretrained", "no_resample")
NORMALIZATIONS = ("zscore", "default_nnunet")


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_preprocess_like_nnssl",
        "Make plans for the network of an nnssl checkpoint and preprocess a dataset as its pre-training did. The "
        "dataset must have been planned: nnUNetv2_plan_and_preprocess -d ID --no_pp. The plans are called "
        "ptPlans__NAME____Spacing__...; train with them: nnUNetv2_train_pretrained. Started again after an "
        "interruption, it redoes only what is missing.",
        """
        nnUNetv2_preprocess_like_nnssl -d 4 -n MAE -pc checkpoint_final.pth -am like_pretrained
        nnUNetv2_preprocess_like_nnssl -d 4 -n MAE -pc https://huggingface.co/OWNER/REPO -am like_pretrained
        nnUNetv2_preprocess_like_nnssl -d 4 -n MAE -pc checkpoint_final.pth -am fixed -os 1 1 1
        """,
    )
    pretraining.add_pretraining(parser)
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument(
        "-am",
        "--adaptation_mode",
        metavar="MODE",
        choices=MODES,
        default="default_nnunet",
        help="which spacing: that of the dataset's own plans (default_nnunet, the default), that of the pre-training "
        "(like_pretrained; recommended unless voxels are much smaller), that of -os (fixed), or each image's own "
        "(no_resample)",
    )
    method.add_argument(
        "-os",
        "--override_spacing",
        metavar="MM",
        type=float,
        nargs="+",
        help="three numbers in mm, which -am fixed needs, in the order of the plans' axes (after transpose_forward)",
    )
    method.add_argument(
        "-norm",
        metavar="SCHEME",
        choices=NORMALIZATIONS,
        default="zscore",
        help="how channels are normalised: all as in the pre-training (zscore, the default), or as in the dataset's "
        "own plans, which clip CT (default_nnunet)",
    )
    pretraining.add_preprocessing(parser)
    return parser


def request(args: Namespace) -> LikeNnsslRequest:
    """What the arguments ask for."""
    from nnunet_pt.transfer.nnssl_plans import LikeNnsslRequest

    spacing = args.override_spacing
    return LikeNnsslRequest(
        mode=args.adaptation_mode,
        override_spacing=None if spacing is None else tuple(spacing),
        normalization=args.norm,
        **pretraining.of_request(args),
    )


def execute(args: Namespace) -> Outcome:
    """Make plans and preprocess."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.transfer.nnssl_plans import preprocess_like_nnssl

    return Outcome.of([preprocess_like_nnssl(request(args), Workspace.from_environment())])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
