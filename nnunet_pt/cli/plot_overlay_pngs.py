"""``nnUNetv2_plot_overlay_pngs``: one picture of each training case with its annotation."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.report.overlays import OverlayRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_plot_overlay_pngs",
        "Draw the slice of every training case that shows most of its classes, coloured by its annotation, to look "
        "through a dataset. Voxels are drawn as squares, whatever their spacing.",
        """
        nnUNetv2_plot_overlay_pngs -d 4 -o overlays --use_raw
        nnUNetv2_plot_overlay_pngs -d 4 -o overlays -c 2d -channel_idx 0 -overlay_intensity 0.3
        """,
    )
    arguments.add_dataset(parser)
    subject = arguments.group(parser, arguments.SUBJECT)
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "-o", metavar="FOLDER", type=Path, required=True, help="folder for the pictures <case>.png"
    )
    arguments.add_processes(parser)
    subject.add_argument(
        "-channel_idx",
        metavar="N",
        type=_channel,
        default=0,
        help="which channel to draw, 0 is <case>_0000 (default: %(default)s)",
    )
    subject.add_argument("--use_raw", action="store_true", help="draw raw instead of preprocessed images")
    subject.add_argument(
        "-p",
        metavar="NAME",
        default="nnUNetPlans",
        help="plans of the preprocessed images (default: %(default)s)",
    )
    subject.add_argument(
        "-c",
        metavar="NAME",
        help="configuration of the preprocessed images (default: 3d_fullres if the plans have it, else 2d)",
    )
    arguments.group(parser, arguments.METHOD).add_argument(
        "-overlay_intensity",
        metavar="FACTOR",
        type=arguments.positive_float,
        default=0.6,
        help="factor for the colours; larger is stronger (default: %(default)s)",
    )
    arguments.add_output(parser)
    return parser


def request(args: Namespace) -> OverlayRequest:
    """What the arguments ask for."""
    from nnunet_pt.report.overlays import OverlayRequest

    return OverlayRequest(
        dataset=args.d,
        output=args.o,
        use_raw=args.use_raw,
        plans_name=args.p,
        configuration=args.c,
        channel=args.channel_idx,
        intensity=args.overlay_intensity,
        num_processes=args.np,
        progress=not args.no_pbar,
    )


def execute(args: Namespace) -> Outcome:
    """Draw the pictures."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.report.overlays import plot_overlays

    result = plot_overlays(request(args), Workspace.from_environment())
    return replace(Outcome.of([result]), failure_remedy="correct these cases, then run the same command again")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


def _channel(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not the number of a channel; they are counted from 0")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
