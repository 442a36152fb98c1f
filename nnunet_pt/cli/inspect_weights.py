"""``nnUNetv2_inspect_weights``: what is in a checkpoint, and what a dataset's network would get from it."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.core.errors import UsageError


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_inspect_weights",
        "Show what is in a checkpoint of nnU-Net (1 or 2), nnssl, MONAI or PyTorch Lightning, in a dictionary of "
        "tensors or in safetensors, and with -d what a network of that dataset would get from it, tensor by tensor. "
        "Nothing in the file is executed, nothing is trained, no GPU is needed.",
        """
        nnUNetv2_inspect_weights checkpoint_final.pth
        nnUNetv2_inspect_weights checkpoint_final.pth -d 4 -c 3d_fullres -p nnUNetResEncUNetLPlans
        nnUNetv2_inspect_weights model.safetensors -d 4 -transfer strict --json
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a file, a folder with one, or OWNER/REPO on the Hugging Face hub"
    )
    subject = arguments.group(parser, "the network that would get the weights", "without -d the others do not matter")
    subject.add_argument(
        "-d",
        metavar="ID",
        type=arguments.dataset_reference,
        help=f"{arguments.DATASET_HELP}; it must have been planned (default: only show the file)",
    )
    subject.add_argument("-c", metavar="NAME", default="3d_fullres", help="configuration (default: %(default)s)")
    subject.add_argument("-p", metavar="NAME", default="nnUNetPlans", help="plans (default: %(default)s)")
    subject.add_argument("-tr", metavar="NAME", default="nnUNetTrainer", help="trainer (default: %(default)s)")
    transfer = arguments.group(parser, "how weights would be transferred")
    transfer.add_argument(
        "-transfer",
        choices=("strict", "match", "adapt"),
        help="strict: all layers must fit, except the segmentation layers; match: what fits is taken; adapt: what "
        "differs in channels, kernel size, depth, width or patch size is adapted (default: adapt; for plans that "
        "follow a pre-training the rules of nnssl: only the encoder)",
    )
    transfer.add_argument(
        "-transfer_layers",
        metavar="LAYERS",
        nargs="+",
        help="take only these, for example  encoder.stages.0-2 decoder  (default: all)",
    )
    transfer.add_argument(
        "-transfer_heads",
        choices=("auto", "none"),
        default="auto",
        help="auto: outputs for labels of the same name are taken; none: no outputs are (default: %(default)s)",
    )
    transfer.add_argument(
        "--fix_token_axes",
        action="store_true",
        help="for transformers: correct the order of the axes of tokens of nnssl's masked autoencoders (EvaMAE and "
        "what derives from it)",
    )
    written = arguments.group(parser, arguments.WRITTEN)
    written.add_argument(
        "-o",
        metavar="FOLDER",
        type=Path,
        help="with -d: write transfer_report.json and .html there, too (default: nothing is written)",
    )
    written.add_argument("--json", action="store_true", help="print what was found as one JSON object, not as text")
    arguments.add_output(parser, progress=False)
    return parser


def execute(args: Namespace) -> Outcome:
    """Look into the file and print what was found."""
    from nnunet_pt.core.console import show
    from nnunet_pt.core.files import plain_json
    from nnunet_pt.core.settings import Settings
    from nnunet_pt.transfer.checkpoint_files import checkpoint_file
    from nnunet_pt.transfer.inspection import TargetRequest, inspect_weights
    from nnunet_pt.transfer.report_files import write_report

    if args.o is not None and args.d is None:
        raise UsageError("Argument -o needs -d: without a network there is no transfer to report.")
    target = None
    if args.d is not None:
        target = TargetRequest(
            dataset=args.d,
            plans_name=args.p,
            configuration=args.c,
            trainer=args.tr,
            policy=args.transfer,
            layers=tuple(args.transfer_layers) if args.transfer_layers else None,
            heads=args.transfer_heads,
            fix_token_axes=args.fix_token_axes,
        )
    found = inspect_weights(checkpoint_file(args.checkpoint, Settings.from_environment()), target)
    content = plain_json(found.to_json())
    show(json.dumps(content, indent=2) if args.json else str(found), content)
    if args.o is None or found.plan is None:
        return Outcome(summaries=())
    written = write_report(found.plan, args.o)
    return Outcome(summaries=() if args.json else tuple(map(str, written)), results=({"reports": list(written)},))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
