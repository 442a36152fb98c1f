"""Arguments of the commands that make plans for a pre-trained network."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from nnunet_pt.cli import _arguments as arguments


def add_pretraining(parser: ArgumentParser) -> None:
    """``-d``, ``-n`` and ``-pc``: dataset, name and checkpoint."""
    arguments.add_dataset(parser)
    required = arguments.group(parser, arguments.REQUIRED)
    required.add_argument(
        "-n",
        "--pretraining_name",
        metavar="NAME",
        required=True,
        help="your name for the pre-training, one for each checkpoint; it becomes a part of the name of the plans",
    )
    required.add_argument(
        "-pc",
        "--pretrained_checkpoint",
        metavar="CHECKPOINT",
        required=True,
        help="the checkpoint: a file; or https://huggingface.co/OWNER/REPO or OWNER/REPO, which is downloaded to "
        "nnssl_pretrained_models or, if that is not set, to the cache of huggingface_hub",
    )


def add_preprocessing(parser: ArgumentParser) -> None:
    """What concerns the preprocessing that follows."""
    arguments.group(parser, arguments.RUNNING).add_argument(
        "-np",
        metavar="N",
        type=arguments.positive_integer,
        help="worker processes that preprocess (default: 4, but not more than there are CPUs)",
    )
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument(
        "--overwrite_pp",
        action="store_true",
        help="preprocess every case again; without it, cases that are there and up to date are kept",
    )
    method.add_argument(
        "--force",
        action="store_true",
        help="replace plans of this name even if they were edited or made for another checkpoint, and data of other "
        "plans that use the same folder for other data",
    )
    arguments.add_memory(parser)
    arguments.add_output(parser)


def of_request(args: Namespace) -> dict[str, Any]:
    """The values that both requests have in common."""
    return {
        "dataset": args.d,
        "name": args.pretraining_name,
        "checkpoint": args.pretrained_checkpoint,
        "num_processes": args.np,
        "overwrite_preprocessed": args.overwrite_pp,
        "force": args.force,
        "max_ram_gb": args.max_ram_gb,
        "progress": not args.no_pbar,
        "on_failure": "continue" if args.continue_on_error else "stop",
    }
