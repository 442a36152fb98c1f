"""``nnUNetv2_doctor``: is this machine ready, and what would a dataset take on it."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run
from nnunet_pt.core.errors import NnunetError

if TYPE_CHECKING:
    from nnunet_pt.doctor.text import Style

MOST_COLUMNS = 120
TIME_LIMIT_S = 90.0


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_doctor",
        "Check folders, CPUs, memory, GPUs and software, and say what to do about each problem. With -d also predict "
        "how much memory and time each stage would take for that dataset, from short measurements on this machine. "
        "Nothing is changed. Exit status: 0 if all is well, 1 if there are problems.",
        """
        nnUNetv2_doctor
        nnUNetv2_doctor -d 4
        nnUNetv2_doctor -d 4 -c 3d_fullres -p nnUNetResEncUNetLPlans -time_limit 300
        nnUNetv2_doctor --json
        """,
    )
    subject = arguments.group(parser, arguments.SUBJECT, "without -d only the machine is checked")
    subject.add_argument(
        "-d", metavar="ID", type=arguments.dataset_reference, help=f"{arguments.DATASET_HELP} (default: none)"
    )
    subject.add_argument(
        "-c", metavar="NAME", nargs="+", help="configurations (default: all that the plans have, but no cascades)"
    )
    subject.add_argument("-p", metavar="NAME", default="nnUNetPlans", help="plans (default: %(default)s)")
    subject.add_argument("-tr", metavar="NAME", default="nnUNetTrainer", help="trainer (default: %(default)s)")
    running = arguments.group(parser, arguments.RUNNING)
    running.add_argument("-device", choices=("cuda", "cpu", "mps"), help=arguments.DEVICE_HELP)
    running.add_argument(
        "-time_limit",
        metavar="S",
        type=arguments.positive_float,
        default=TIME_LIMIT_S,
        help="seconds for all measurements of -d together; more gives better figures (default: %(default)g)",
    )
    arguments.group(parser, arguments.WRITTEN).add_argument(
        "--json", action="store_true", help="print what was found as one JSON object, not as text"
    )
    arguments.add_output(parser)
    return parser


def execute(args: Namespace) -> Outcome:
    """Look at the machine and print what was found."""
    from nnunet_pt.core import colours
    from nnunet_pt.core.console import show
    from nnunet_pt.core.files import plain_json
    from nnunet_pt.doctor.diagnosis import DoctorRequest, diagnose
    from nnunet_pt.doctor.text import diagnosis_text

    request = DoctorRequest(
        dataset=args.d,
        configurations=None if args.c is None else tuple(args.c),
        plans_name=args.p,
        trainer=args.tr,
        device=args.device,
        time_limit_s=args.time_limit,
        progress=not args.no_pbar,
    )
    with _quiet() if args.json and not args.json_log else contextlib.nullcontext():
        diagnosis = diagnose(request)
    content = plain_json(diagnosis.to_json())
    if args.json:
        text = json.dumps(content, indent=2)
    else:
        width = min(shutil.get_terminal_size((MOST_COLUMNS, 24)).columns, MOST_COLUMNS)
        in_colour = not args.json_log and colours.are_wanted(sys.stdout)
        text = diagnosis_text(diagnosis, width=width, **({"paint": _coloured} if in_colour else {}))
    show(text, content)
    if not diagnosis.healthy:
        number = len(diagnosis.problems)
        raise NnunetError(f"{number} problem{'s were' if number > 1 else ' was'} found; what to do is said with each.")
    return Outcome(summaries=())


def _coloured(text: str, style: Style) -> str:
    from nnunet_pt.core import colours

    styles: dict[Style, colours.Style] = {"ok": "ok", "note": "warning", "problem": "error", "heading": "heading"}
    return colours.styled(text, styles[style])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within this block there are no messages: standard output is for the JSON object alone."""
    from nnunet_pt.core.console import get_logger

    before = get_logger().level
    get_logger().setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        get_logger().setLevel(before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
