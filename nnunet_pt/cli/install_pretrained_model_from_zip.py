"""``nnUNetv2_install_pretrained_model_from_zip``: install models that somebody shared."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run

if TYPE_CHECKING:
    from nnunet_pt.sharing.install_model import InstallRequest


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_install_pretrained_model_from_zip",
        "Unpack an archive of models, made here or by nnU-Net, into nnUNet_results. The archive is checked first: it "
        "may hold only what belongs to a model, nothing that is executed, and not more than fits.",
        """
        nnUNetv2_install_pretrained_model_from_zip hippocampus.zip
        nnUNetv2_install_pretrained_model_from_zip hippocampus.zip --force
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument("zip", metavar="FILE", type=Path, help="the archive")
    add_checks(parser)
    arguments.add_output(parser)
    return parser


def add_checks(parser: ArgumentParser) -> None:
    """``--sha256``, ``--max_gb`` and ``--force``."""
    method = arguments.group(parser, arguments.METHOD)
    method.add_argument(
        "--sha256",
        metavar="HEX",
        type=sha256_digest,
        help="refuse the archive if it has another SHA-256 digest (default: take any)",
    )
    method.add_argument(
        "--max_gb",
        metavar="GB",
        type=arguments.positive_float,
        help="size the content may have unpacked, however well it is packed (default: 50, and at most 100 times the "
        "packed size)",
    )
    method.add_argument(
        "--force",
        action="store_true",
        help="replace models that are installed already, as a whole; an old one stays until the new one is complete",
    )


def sha256_digest(text: str) -> str:
    """64 hexadecimal digits."""
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        raise ArgumentTypeError(f"{text!r} is not a SHA-256 digest of 64 hexadecimal digits")
    return text.lower()


def request(args: Namespace) -> InstallRequest:
    """What the arguments ask for."""
    from nnunet_pt.sharing.install_model import InstallRequest

    return InstallRequest(
        archive=args.zip, sha256=args.sha256, force=args.force, max_gb=args.max_gb, progress=not args.no_pbar
    )


def execute(args: Namespace) -> Outcome:
    """Install the models."""
    from nnunet_pt.core.settings import Workspace
    from nnunet_pt.sharing.install_model import install_model

    result = install_model(request(args), Workspace.from_environment())
    return Outcome.of([result])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
