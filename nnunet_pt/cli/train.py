"""``nnUNetv2_train``: train a network, and validate it."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.training.request import TrainRequest

TRANSFER = "how weights are transferred"
FOLD_HELP = "0 to 4: which fifth of the cases is kept for validation; all: none, train on every case"


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_train",
        "Train a network on one fold of a preprocessed dataset and validate it. Everything goes to nnUNet_results/"
        "DATASET/TRAINER__PLANS__CONFIGURATION/fold_FOLD. State is saved every few minutes, and when SIGTERM, SIGUSR1 "
        "or Ctrl-C arrives; the same command with --c continues.",
        """
        nnUNetv2_train 4 3d_fullres 0
        nnUNetv2_train 4 3d_fullres 0 --c
        nnUNetv2_train 4 2d all -tr nnUNetTrainer_100epochs -device cpu
        nnUNetv2_train 16 3d_fullres 0 -pretrained_weights PATH/checkpoint_final.pth -epochs 250 -lr 0.001
        nnUNetv2_train 4 3d_fullres 0 -tr my_trainers.py:MyTrainer
        """,
    )
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument("dataset", metavar="DATASET", type=arguments.dataset_reference, help=arguments.DATASET_HELP)
    required.add_argument(
        "configuration",
        metavar="CONFIGURATION",
        help="which network of the plans: 2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres",
    )
    required.add_argument("fold", metavar="FOLD", type=arguments.fold, help=FOLD_HELP)
    subject = arguments.group(parser, arguments.SUBJECT)
    subject.add_argument(
        "-tr",
        metavar="NAME",
        default="nnUNetTrainer",
        help="trainer: a name, or file.py:Name for one of your own (default: %(default)s)",
    )
    subject.add_argument("-p", metavar="NAME", default="nnUNetPlans", help="plans to follow (default: %(default)s)")
    subject.add_argument(
        "-pretrained_weights",
        metavar="FILE",
        type=Path,
        help="checkpoint to start from; all layers but the segmentation layers are taken, see -transfer (default: "
        "random weights)",
    )
    add_common(parser)
    add_transfer(parser, default="strict")
    arguments.group(parser, TRANSFER).add_argument(
        "--keep_optimizer",
        action="store_true",
        help="with -pretrained_weights of nnU-Net: take over the optimizer's state of the copied layers, too",
    )
    add_layers(parser)
    add_recipe(parser)
    add_running(parser)
    arguments.add_output(parser)
    return parser


def add_common(parser: ArgumentParser) -> None:
    """What fine-tuning has in common with training from scratch."""
    method = arguments.group(parser, arguments.METHOD)
    running = arguments.group(parser, arguments.RUNNING)
    add_num_gpus(parser)
    add_npz(parser)
    method.add_argument(
        "--c", action="store_true", help="continue from the newest checkpoint; without it, a new training begins"
    )
    method.add_argument("--val", action="store_true", help="only do the final validation of a finished training")
    method.add_argument("--val_best", action="store_true", help="validate the best checkpoint instead of the last one")
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "--disable_checkpointing", action="store_true", help="write no checkpoints (for tests)"
    )
    running.add_argument("-device", choices=("cuda", "cpu", "mps"), help=arguments.DEVICE_HELP)
    running.add_argument(
        "--requeue",
        action="store_true",
        help="in a SLURM job: when SIGUSR1 arrives, save, queue the job again (scontrol requeue) and end; the same "
        "command continues in a job that SLURM has started again",
    )
    method.add_argument(
        "-reset_optimizer",
        "--reset_optimizer",
        action="store_true",
        help="with --c: keep only the weights of the checkpoint, and begin at epoch 0 with a new optimizer",
    )


def add_num_gpus(parser: ArgumentParser) -> None:
    """``-num_gpus``."""
    arguments.group(parser, arguments.RUNNING).add_argument(
        "-num_gpus",
        metavar="N",
        type=arguments.positive_integer,
        default=1,
        help="processes to train with on this machine, each with a GPU of its own (default: %(default)s)",
    )


def add_npz(parser: ArgumentParser) -> None:
    """``--npz``."""
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "--npz",
        action="store_true",
        help="keep the probabilities of the final validation, too; nnUNetv2_find_best_configuration needs them to "
        "compare ensembles",
    )


def add_transfer(parser: ArgumentParser, *, default: str) -> None:
    """How weights are transferred.

    Args:
        parser: The parser.
        default: What ``-transfer`` is without being given.
    """
    group = arguments.group(
        parser, TRANSFER, "transfer_report.html in the fold's folder says what happened to each tensor"
    )
    group.add_argument(
        "-transfer",
        choices=("strict", "match", "adapt"),
        help="strict: all layers must fit, except the segmentation layers; match: what fits is taken; adapt: what "
        f"differs in channels, kernel size, depth, width or patch size is adapted (default: {default})",
    )
    group.add_argument(
        "-transfer_layers",
        metavar="LAYERS",
        nargs="+",
        default=(),
        help="take only these, for example  encoder.stages.0-2 decoder  (default: all)",
    )
    group.add_argument(
        "-transfer_heads",
        choices=("auto", "none"),
        default="auto",
        help="with -transfer adapt: auto takes the outputs for labels that have the same name in both datasets, none "
        "begins all of them anew (default: auto)",
    )
    group.add_argument(
        "--fix_token_axes",
        action="store_true",
        help="for transformers: correct the order of the axes of tokens, which differs in checkpoints of nnssl's "
        "masked autoencoders (EvaMAE and what derives from it)",
    )
    group.add_argument(
        "--allow_little_transfer",
        action="store_true",
        help="train even if less than half of the encoder finds its weights; without it, that is an error",
    )


def add_layers(parser: ArgumentParser) -> None:
    """Layers that are treated differently."""
    group = arguments.group(
        parser,
        "layers that are treated differently",
        "kept in recipe.json in the fold's folder, also for continuing",
    )
    group.add_argument(
        "-freeze",
        metavar="LAYERS",
        nargs="+",
        help="layers that stay as they are, for example  encoder.stages.0-1  (default: none)",
    )
    group.add_argument(
        "-freeze_epochs",
        metavar="N",
        type=arguments.positive_integer,
        help="epochs after which they are trained, too (default: never)",
    )
    group.add_argument(
        "-lr_factor",
        metavar="LAYERS=FACTOR",
        type=_factor,
        nargs="+",
        help="learning rate of layers relative to that of the others, for example  encoder=0.1  (default: the same "
        "for all)",
    )


def add_recipe(parser: ArgumentParser) -> None:
    """Numbers for which nnU-Net has trainer classes."""
    group = arguments.group(
        parser,
        "instead of a trainer class of your own",
        "each replaces a value of the trainer; kept in recipe.json in the fold's folder, also for continuing",
    )
    positive = arguments.positive_integer
    own = "(default: the trainer's"
    group.add_argument("-epochs", metavar="N", type=positive, help=f"number of epochs {own}; nnUNetTrainer: 1000)")
    group.add_argument(
        "-lr", metavar="RATE", type=arguments.positive_float, help=f"initial learning rate {own}; nnUNetTrainer: 0.01)"
    )
    group.add_argument(
        "-iterations", metavar="N", type=positive, help=f"training iterations of an epoch {own}; nnUNetTrainer: 250)"
    )
    group.add_argument(
        "-warmup_epochs",
        metavar="N",
        type=arguments.natural,
        help=f"epochs in which the learning rate rises {own}; nnUNetTrainer: 0)",
    )
    group.add_argument(
        "-patience",
        metavar="N",
        type=positive,
        help="stop after so many epochs without a better (averaged) Dice (default: train all epochs)",
    )
    group.add_argument(
        "-seed", metavar="N", type=arguments.natural, help="seed of everything random (default: a fresh one)"
    )
    group.add_argument(
        "--deterministic", action="store_true", default=None, help="same seed, same result (may be slower on a GPU)"
    )
    group.add_argument(
        "-precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of the network's computations (default: auto, mixed precision where the device is fast in it)",
    )


def add_running(parser: ArgumentParser) -> None:
    """How a training runs, which does not change its result."""
    running = arguments.group(parser, arguments.RUNNING)
    running.add_argument(
        "-augment_on",
        choices=("cpu", "gpu"),
        default="cpu",
        help="augmentation in worker processes, or on the GPU if CPUs are few (default: %(default)s)",
    )
    running.add_argument(
        "-save_every_minutes",
        metavar="MIN",
        type=_minutes,
        default=10.0,
        help="time between two savings of the state; 0: only every 50 epochs (default: %(default)g)",
    )
    running.add_argument(
        "-scratch",
        metavar="DIR",
        type=_scratch,
        help="folder on a disk of the machine that trains: the cases of the fold are copied there first, and read from "
        "there; none: they are read from nnUNet_preprocessed (default: $SLURM_TMPDIR if the cluster has it)",
    )
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "--tensorboard", action="store_true", help="write files for TensorBoard (pip install 'nnunet-pt[tensorboard]')"
    )


def _factor(text: str) -> str:
    from nnunet_pt.training.recipe_checks import lr_factor_of

    if lr_factor_of(text) is None:
        raise ArgumentTypeError(f"{text!r} is not LAYERS=FACTOR with a factor above 0, for example encoder=0.1")
    return text


def _scratch(text: str) -> Path | Literal["none"]:
    if not text:
        raise ArgumentTypeError("is empty; a variable in it may not be set")
    return "none" if text == "none" else Path(text)


def _minutes(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else arguments.positive_float(text)


def request(args: Namespace) -> TrainRequest:
    """What the arguments ask for."""
    from nnunet_pt.training.request import TrainRequest

    return TrainRequest(
        dataset=args.dataset,
        configuration=args.configuration,
        fold=args.fold,
        pretrained_weights=args.pretrained_weights,
        keep_optimizer=args.keep_optimizer,
        requeue=args.requeue,
        **common_request(args),
    )


def common_request(args: Namespace) -> dict[str, Any]:
    """What the arguments ask for that training from scratch and fine-tuning have in common."""
    return {
        "trainer": args.tr,
        "plans_name": args.p,
        "transfer": args.transfer,
        "transfer_layers": tuple(args.transfer_layers),
        "transfer_heads": args.transfer_heads,
        "fix_token_axes": args.fix_token_axes,
        "allow_little_transfer": args.allow_little_transfer,
        "freeze": None if args.freeze is None else tuple(args.freeze),
        "freeze_epochs": args.freeze_epochs,
        "lr_factors": None if args.lr_factor is None else tuple(args.lr_factor),
        "reset_optimizer": args.reset_optimizer,
        "num_processes": args.num_gpus,
        "save_probabilities": args.npz,
        "continue_training": args.c,
        "validation_only": args.val,
        "validate_best": args.val_best,
        "disable_checkpointing": args.disable_checkpointing,
        "device": args.device,
        "epochs": args.epochs,
        "lr": args.lr,
        "iterations": args.iterations,
        "warmup_epochs": args.warmup_epochs,
        "patience": args.patience,
        "seed": args.seed,
        "deterministic": args.deterministic,
        "precision": args.precision,
        "augment_on": args.augment_on,
        "save_every_minutes": args.save_every_minutes,
        "scratch": args.scratch,
        "tensorboard": args.tensorboard,
        "progress": not args.no_pbar,
    }


def execute(args: Namespace) -> Outcome:
    """Train and validate."""
    return train_as_asked(request(args))


def train_as_asked(wanted: TrainRequest) -> Outcome:
    """Train and validate what was asked for."""
    # Before torch is imported; when a connection is closed, it prints pages, and we say who was lost
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.training.run import train

    result = train(wanted, Workspace.from_environment())
    return Outcome.of([] if result is None else [result])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
