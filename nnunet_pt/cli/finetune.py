"""``nnUNetv2_finetune``: from somebody's weights and a raw dataset to a fine-tuned model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.cli.preprocess_like_nnssl import MODES, NORMALIZATIONS
from nnunet_pt.cli.train import (
    FOLD_HELP,
    add_layers,
    add_npz,
    add_num_gpus,
    add_recipe,
    add_running,
    add_transfer,
    common_request,
)

if TYPE_CHECKING:
    from nnunet_pt.training.finetune import FinetuneRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_finetune",
        "Fine-tune weights on a dataset of nnUNet_raw, with all steps that it takes: finds out what it is given, moves "
        "or makes plans, preprocesses what is missing, trains and validates. Every step is shown as a command of its "
        "own. The same command again goes on where the last one stopped.",
        """
        nnUNetv2_finetune -d 16 -from nnUNetTrainer__nnUNetPlans__3d_fullres
        nnUNetv2_finetune -d 4 -from https://huggingface.co/OWNER/REPO -f 1
        nnUNetv2_finetune -d 4 -from checkpoint_final.pth -n MAE -am default_nnunet -epochs 250
        nnUNetv2_finetune -d 4 -from model.safetensors -p nnUNetResEncUNetLPlans -transfer adapt
        """,
    )
    parser.allow_abbrev = False
    arguments.add_dataset(parser)
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "-from",
        dest="source",
        metavar="WEIGHTS",
        required=True,
        help="a model folder of nnU-Net or the folder of one of its folds; a checkpoint of nnU-Net or nnssl; "
        "https://huggingface.co/OWNER/REPO or OWNER/REPO; or a file of weights alone (then with -p)",
    )
    subject = arguments.group(parser, arguments.SUBJECT)
    subject.add_argument(
        "-c", dest="configuration", metavar="NAME", help="configuration (default: that of the weights)"
    )
    subject.add_argument(
        "-f", metavar="FOLD", type=arguments.fold, default=0, help=f"{FOLD_HELP} (default: %(default)s)"
    )
    subject.add_argument(
        "-tr",
        metavar="NAME",
        help="trainer (default: nnUNetTrainer for weights of nnU-Net, PretrainedTrainer for those of nnssl, "
        "PretrainedTrainer_Primus for transformers, DynamicPretrainedTrainer for those of nnssl with -p)",
    )
    subject.add_argument(
        "-p",
        metavar="NAME",
        help="plans of the dataset whose network is to take what fits of the weights (default: the plans, or the "
        "network, of the weights)",
    )
    subject.add_argument(
        "-n",
        metavar="NAME",
        help="your name for the pre-training, a part of the name of the plans (default: the number of its dataset, or "
        "the name of its folder or repository with the beginning of the checksum)",
    )
    add_num_gpus(parser)
    add_npz(parser)
    arguments.group(parser, arguments.RUNNING).add_argument(
        "-device", choices=("cuda", "cpu", "mps"), help=arguments.DEVICE_HELP
    )
    _add_data(parser)
    add_transfer(parser, default="strict for models of nnU-Net with the same channels; match with -p; else adapt")
    add_layers(parser)
    add_recipe(parser)
    add_running(parser)
    arguments.add_output(parser)
    return parser


def _add_data(parser: ArgumentParser) -> None:
    data = arguments.group(parser, "how data are preprocessed", "for checkpoints of nnssl")
    data.add_argument(
        "-am",
        choices=MODES,
        default="like_pretrained",
        help="which spacing: that of the dataset's own plans (default_nnunet), that of the pre-training "
        "(like_pretrained), that of -os (fixed), or each image's own (no_resample) (default: %(default)s)",
    )
    data.add_argument(
        "-os",
        metavar="MM",
        type=float,
        nargs="+",
        help="three numbers in mm, which only -am fixed needs",
    )
    data.add_argument(
        "-norm",
        choices=NORMALIZATIONS,
        default="zscore",
        help="which normalisation: zscore as in the pre-training, or default_nnunet as in the dataset's own plans, "
        "which is better for CT (default: %(default)s)",
    )
    running = arguments.group(parser, arguments.RUNNING)
    running.add_argument(
        "-np",
        metavar="N",
        type=arguments.positive_integer,
        help="worker processes of all that comes before the training (default: 8 for the fingerprint, 4 to preprocess, "
        "but not more than there are CPUs)",
    )
    running.add_argument(
        "--max_ram_gb",
        metavar="GB",
        type=arguments.positive_float,
        help="memory that all these processes together may use (default: 80 %% of what is free)",
    )


def request(args: Namespace) -> FinetuneRequest:
    """What the arguments ask for."""
    from nnunet_pt.training.finetune_steps import FinetuneRequest
    from nnunet_pt.training.request import TrainRequest

    decided = dict.fromkeys(("c", "val", "val_best", "disable_checkpointing", "reset_optimizer"), False)
    named = {"tr": args.tr or "", "p": args.p or ""}
    spacing = args.os
    return FinetuneRequest(
        source=args.source,
        training=TrainRequest(
            dataset=args.d,
            configuration=args.configuration or "",
            fold=args.f,
            **common_request(Namespace(**{**vars(args), **decided, **named})),
        ),
        name=args.n,
        mode=args.am,
        override_spacing=None if spacing is None else tuple(spacing),
        normalization=args.norm,
        num_workers=args.np,
        max_ram_gb=args.max_ram_gb,
    )


def execute(args: Namespace) -> Outcome:
    """Do what is not done yet."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.training.finetune import finetune

    return Outcome.of([finetune(request(args), Workspace.from_environment())])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
